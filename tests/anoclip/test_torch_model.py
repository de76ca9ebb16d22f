import pytest
import torch
import torch.nn.functional as F

from anoclip_anomalib import AnoClipModel
from anoclip_anomalib.clip import TextEncoder
from anoclip_anomalib.prompts import PromptBuilder
from anoclip_anomalib.zeroshot.views import views

TOLERANCE = 1e-5


def images(*size: int, count: int = 3) -> torch.Tensor:
    return torch.randn(count, 3, *(size or (64, 64)), generator=torch.Generator().manual_seed(4))


def probability(embeddings: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
    return (F.normalize(embeddings, dim=-1) @ text.T).softmax(dim=-1)[..., 1]


@torch.no_grad()
def test_the_default_pipeline_step_by_step(anoclip_model):
    model = anoclip_model()
    encoded = model.visual_encoder(images())
    assert model.encode(images()).levels is None  # which nobody needs without normal images
    result = model(images())
    torch.testing.assert_close(
        result.pred_score, probability(encoded.class_token, model.text_embeddings), atol=TOLERANCE, rtol=0
    )
    grid = probability(encoded.patch_tokens, model.text_embeddings).view(3, 1, 4, 4)
    padded = F.pad(grid, (1, 1, 1, 1), mode="replicate")
    smooth = sum(padded[..., i : i + 4, j : j + 4] for i in range(3) for j in range(3)) / 9
    expected = F.interpolate(smooth, size=(64, 64), mode="bilinear", align_corners=True)
    torch.testing.assert_close(result.anomaly_map, expected, atol=TOLERANCE, rtol=0)
    assert result.pred_score.shape == (3,)
    assert result.anomaly_map.shape == (3, 1, 64, 64)
    assert result.anomaly_map.std() > 1e-3


@torch.no_grad()
def test_the_image_score_over_22_views_is_their_mean(anoclip_model):
    model = anoclip_model(views=22)
    single = anoclip_model()
    scores = [single(view(images())).pred_score for view in (lambda x: x, *views(22))]
    assert len(scores) == 22
    torch.testing.assert_close(model(images()).pred_score, torch.stack(scores).mean(dim=0), atol=TOLERANCE, rtol=0)
    # Views are about the image score alone.
    torch.testing.assert_close(model(images()).anomaly_map, single(images()).anomaly_map, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("size", [(64, 100), (100, 64), (64, 128), (64, 300)])
@torch.no_grad()
def test_tiles_are_scored_alone_and_stitched(anoclip_model, size):
    model, single = anoclip_model(tiling="square"), anoclip_model()
    picture = images(*size, count=2)
    length, count = max(size), -(-max(size) // 64)
    total, covered, scores = torch.zeros(2, 1, *size), torch.zeros(size), []
    for index in range(count):
        start = round(index * (length - 64) / (count - 1))
        window = (slice(0, 64), slice(start, start + 64)) if size[1] > size[0] else (slice(start, start + 64), slice(0, 64))
        part = single(picture[(..., *window)])
        total[(..., *window)] += part.anomaly_map
        covered[window] += 1
        scores.append(part.pred_score)
    result = model(picture)
    torch.testing.assert_close(result.anomaly_map, total / covered, atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(result.pred_score, torch.stack(scores).mean(dim=0), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize(
    ("arguments", "size"),
    [
        ({}, (64, 64)),
        ({"views": 22}, (64, 64)),
        ({"tiling": "square"}, (64, 150)),
        ({"tiling": "square", "views": 22}, (150, 64)),
        ({"image_size": 96, "local_attention": "self-self"}, (96, 96)),
    ],
    ids=["plain", "views", "tiles", "tiles and views", "other size"],
)
@torch.no_grad()
def test_a_result_depends_on_nothing_but_the_image(anoclip_model, arguments, size):
    """Not on the batch size, the order, the neighbours, or how many tiles and views are encoded at once."""
    model = anoclip_model(**arguments)
    batch = images(*size, count=3)
    batch[1] = 100.0  # an extreme neighbour
    alone = [model(image[None]) for image in batch]
    results = {"together": model(batch), "backwards": model(batch.flip(0))}
    for limit in (1, 5):
        model.encode_batch_size = limit
        results[f"encoded by {limit}"] = model(batch)
    for name, result in results.items():
        order = (2, 1, 0) if name == "backwards" else (0, 1, 2)
        for place, index in enumerate(order):
            for field in ("pred_score", "anomaly_map"):
                torch.testing.assert_close(
                    getattr(result, field)[place], getattr(alone[index], field)[0], atol=TOLERANCE, rtol=0, msg=name
                )


@torch.no_grad()
def test_options_change_what_they_say(anoclip_model):
    default = anoclip_model()(images())
    for arguments in (
        {"local_attention": "query-key"},
        {"local_attention": "self-self"},
        {"local_blocks": 3},
        {"local_blocks": 0},
        {"smoothing": 1},
        {"smoothing": 5},
        {"text_mean": "after_norm"},
        {"prompts": {"templates": ["a {}"]}},
        {"class_name": "carpet"},
    ):
        result = anoclip_model(**arguments)(images())
        assert (result.anomaly_map - default.anomaly_map).abs().max() > 1e-5, arguments
        image_score_too = not {"local_attention", "local_blocks", "smoothing"} & arguments.keys()
        assert ((result.pred_score - default.pred_score).abs().max() > 1e-6) == image_score_too, arguments


# Text embeddings


def test_text_embeddings_are_unit_vectors_of_the_class(anoclip_model):
    model = anoclip_model()
    torch.testing.assert_close(model.text_embeddings.norm(dim=1), torch.ones(2))
    assert model.text_embeddings.shape == (2, 32)
    assert model.prompt_bank.shape == (924, 32)
    other = anoclip_model(class_name=None)
    assert other.text_embeddings.numel() == 0
    other.set_class("bottle")
    assert torch.equal(other.text_embeddings, model.text_embeddings)
    other.set_class("cable")
    assert (other.text_embeddings - model.text_embeddings).abs().max() > 1e-4
    assert other.class_name == "cable"


def test_the_first_embedding_and_the_first_half_of_the_bank_are_normal(anoclip_model, tiny_clip, tmp_path):
    model, prompts = anoclip_model(), PromptBuilder().sentences("bottle")
    encoder = TextEncoder(tiny_clip(), cache_dir=tmp_path)
    bank = F.normalize(encoder.encode(prompts.normal_sentences + prompts.abnormal_sentences), dim=-1)
    torch.testing.assert_close(model.prompt_bank, bank)
    means = [encoder.encode(part).mean(dim=0) for part in (prompts.normal_sentences, prompts.abnormal_sentences)]
    torch.testing.assert_close(model.text_embeddings, F.normalize(torch.stack(means), dim=-1))


@torch.no_grad()
def test_no_more_is_scored_at_once_than_is_encoded(anoclip_model, monkeypatch):
    model, seen = anoclip_model(views=22, encode_batch_size=7), []
    plain = model._probability
    monkeypatch.setattr(model, "_probability", lambda embeddings: seen.append(len(embeddings)) or plain(embeddings))
    model._image_score(model.encode(images()))
    assert seen == [3, *[6] * 10, 3]  # the image itself, and views of three images by two


def test_without_a_class_nothing_is_scored(anoclip_model):
    with pytest.raises(RuntimeError, match="no class yet: give class_name.*or call set_class"):
        anoclip_model(class_name=None)(images())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@torch.no_grad()
def test_a_cast_model_keeps_its_text_and_its_scores_in_float32(anoclip_model, dtype):
    full, model = anoclip_model(), anoclip_model()
    model = model.to(dtype)
    assert model.text_embeddings.dtype == model.prompt_bank.dtype == torch.float32
    assert torch.equal(model.text_embeddings, full.text_embeddings)
    result = model(images().to(dtype))
    assert result.pred_score.dtype == result.anomaly_map.dtype == torch.float32
    assert len(result.pred_score.unique()) == 3
    # The weights are shared in a process; another model has not become less precise.
    assert {parameter.dtype for parameter in full.parameters()} == {torch.float32}
    model.set_class("cable")
    assert model.text_embeddings.dtype == torch.float32


@pytest.mark.parametrize(("precision", "limit"), [("bfloat16", 0.02), ("float16", 0.002)])
@torch.no_grad()
def test_half_precision_is_close_to_float32(anoclip_model, precision, limit):
    full, half = anoclip_model(views=22)(images()), anoclip_model(views=22, precision=precision)(images())
    for field in ("pred_score", "anomaly_map"):
        assert getattr(half, field).dtype == torch.float32
        assert 0 < (getattr(half, field) - getattr(full, field)).abs().max() < limit


@torch.no_grad()
def test_autocast_does_not_reach_the_scores(anoclip_model):
    model = anoclip_model()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = model(images())
    assert result.pred_score.dtype == result.anomaly_map.dtype == torch.float32
    # 4 x 4 independent patches would collapse to a few bfloat16 values near 0.5.
    assert len(result.anomaly_map[0].unique()) > 100
    features = model.encode(images())
    expected = model.score(features)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = model.score(features)
    assert torch.equal(result.pred_score, expected.pred_score)
    assert torch.equal(result.anomaly_map, expected.anomaly_map)


def test_embeddings_made_in_inference_mode_can_be_used_outside(anoclip_model):
    with torch.inference_mode():
        model = anoclip_model(class_name="screw")
    (model.text_embeddings * torch.ones(1, requires_grad=True)).sum().backward()


@torch.no_grad()
def test_a_state_dict_restores_the_embeddings(anoclip_model):
    source, target = anoclip_model(), anoclip_model(class_name=None)
    target.load_state_dict(source.state_dict(), strict=False)
    assert torch.equal(target.text_embeddings, source.text_embeddings)
    assert torch.equal(target(images()).pred_score, source(images()).pred_score)


def test_the_adapter_is_a_seam(anoclip_model):
    model = anoclip_model(tiling="square")
    seen = {}

    def adapter(tokens: torch.Tensor, grid: tuple[int, int], layout: object) -> torch.Tensor:
        seen.update(tokens=tokens, grid=grid, layout=layout)
        return tokens * 2  # a length that cosines do not see

    picture = images(64, 150, count=2)
    with torch.no_grad():
        plain = model(picture)
        model.adapter = adapter
        adapted = model(picture)
        model.adapter = lambda tokens, grid, layout: -tokens
        turned = model(picture)
    assert seen["tokens"].shape == (2, 3, 16, 32)
    assert seen["grid"] == (4, 4)
    assert len(seen["layout"]) == 3
    torch.testing.assert_close(adapted.anomaly_map, plain.anomaly_map, atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(turned.anomaly_map, 1 - plain.anomaly_map, atol=TOLERANCE, rtol=0)
    assert torch.equal(turned.pred_score, plain.pred_score)


# Bad input


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"class_name": ""}, "class name is empty"),
        ({"class_name": "  "}, "class name is empty"),
        ({"prompts": {"templates": ["a photo"]}}, r"'a photo' without '\{\}'"),
        ({"image_size": 100}, "Image size 100 x 100 is not a multiple of the patch size 16 x 16; the nearest that is: 96 x 96"),
        ({"image_size": (64, 100)}, "64 x 100 is not a multiple"),
        ({"image_size": 0}, "Image size 0 x 0"),
        ({"image_size": -16}, "Image size -16 x -16"),
        ({"image_size": (64, 64, 64)}, "image_size"),
        ({"image_size": (64, 128), "tiling": "square"}, "one number"),
        ({"tiling": "pair"}, "Unknown tiling 'pair'"),
        ({"views": 7}, "views=7"),
        ({"smoothing": 2}, "smoothing=2 must be an odd number"),
        ({"smoothing": 0}, "smoothing=0"),
        ({"encode_batch_size": 0}, "encode_batch_size=0"),
        ({"local_attention": "vv"}, "Unknown local attention 'vv'"),
        ({"local_blocks": 99}, "12 blocks"),
        ({"precision": "int8"}, "Unknown precision 'int8'"),
        ({"text_mean": "median"}, "Unknown text mean 'median'"),
        ({"text_mean": "median", "class_name": None}, "Unknown text mean 'median'"),
    ],
)
def test_arguments_that_cannot_be_used_are_named(anoclip_model, arguments, said):
    with pytest.raises(ValueError, match=said):
        anoclip_model(**arguments)


def test_images_that_do_not_fit_the_patches_are_refused(anoclip_model):
    with pytest.raises(ValueError, match="60 x 64 is not a multiple of the patch size 16 x 16"):
        anoclip_model()(images(60, 64))


def test_the_backbone_is_loaded_once(anoclip_model):
    one, other = anoclip_model(), anoclip_model(class_name="cable", views=22)
    assert one.visual_encoder.visual is other.visual_encoder.visual
    assert isinstance(one, AnoClipModel)


@torch.no_grad()
def test_an_adapter_gets_features_of_half_precision_in_float32(anoclip_model):
    model, seen = anoclip_model(), []
    model.adapter = lambda tokens, grid, layout: seen.append(tokens.dtype) or tokens
    features = model.encode(images())
    model.score(features._replace(patch_tokens=features.patch_tokens.half()))
    assert seen == [torch.float32]
