import copy
import pickle

import pytest
import torch
import torch.nn.functional as F

from anoclip_anomalib.aaclip.scoring import blur
from anoclip_anomalib.aaclip.torch_model import AaClipModel, ScoreRange
from anoclip_anomalib.clip import Tap, walk_image


@pytest.fixture
def model(adapters_file, tiny_clip, tmp_path):
    def make(reference=False, **arguments) -> AaClipModel:
        path = adapters_file("reference" if reference else "clean", reference=reference)
        own = {"adapters": path, "clip": tiny_clip(), "class_name": "bottle", "text_cache_dir": tmp_path}
        return AaClipModel(**{**own, **arguments})

    return make


def images(count=3, side=64):
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(1))


def reference_parts(model, batch):
    """Levels, detection vector and anchors, written out from the tapped tower."""
    visual, half = model.visual_encoder.visual, model.image_adapters
    taps = [Tap(block=block, project=False) for block in (3, 6, 9, 12)]
    tapped, grid = walk_image(visual, batch, taps, after_block=half.adapters)
    levels = [F.normalize(x @ linear.weight.T, dim=-1) for x, linear in zip(tapped, half.segmentation, strict=True)]
    detection = F.normalize(tapped[-1] @ half.detection.weight.T, dim=-1).mean(dim=1)
    return levels, detection, model.text_embeddings, grid


def upsampled(maps, grid):
    return F.interpolate(blur(maps.unflatten(1, grid)[:, None], 7, 1.0), size=(64, 64), mode="bilinear", align_corners=True)


def test_reference_scores_are_the_authors_formula(model):
    own, batch = model(reference=True), images()
    levels, detection, (normal, abnormal), grid = reference_parts(own, batch)
    maps = sum(upsampled((100 * level @ abnormal + 1 - 100 * level @ normal) / 2, grid) for level in levels)
    score = (detection @ abnormal + 1) / 2
    raw_maps, raw_scores = own.raw_scores(own.encode(batch))
    torch.testing.assert_close(raw_maps, maps, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(raw_scores, score)
    maps = (maps - maps.min()) / (maps.max() - maps.min())
    score = (score - score.min()) / (score.max() - score.min())
    scored = own(batch)
    torch.testing.assert_close(scored.anomaly_map, maps, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(scored.pred_score, 0.5 * maps.amax(dim=(1, 2, 3)) + 0.5 * score, atol=1e-4, rtol=1e-4)


def test_clean_scores_are_sigmoids_of_differences(model):
    own, batch = model(), images()
    levels, detection, (normal, abnormal), grid = reference_parts(own, batch)
    difference = sum(level @ abnormal - level @ normal for level in levels) / 4
    maps = upsampled(difference, grid).sigmoid()
    scored = own(batch)
    torch.testing.assert_close(scored.anomaly_map, maps)
    score = (detection @ abnormal - detection @ normal).sigmoid()
    torch.testing.assert_close(scored.pred_score, 0.5 * maps.amax(dim=(1, 2, 3)) + 0.5 * score)
    weighted = model(image_weight=0.25)(batch)
    torch.testing.assert_close(weighted.pred_score, 0.75 * maps.amax(dim=(1, 2, 3)) + 0.25 * score)


def test_the_share_that_the_adapters_were_trained_to_is_used_in_clean_mode(adapters_file, model):
    assert model().image_weight == 0.5
    path = adapters_file("weighted", settings={"image_weight": 0.2})
    assert model(adapters=path).image_weight == 0.2
    assert model(adapters=path, image_weight=0.7).image_weight == 0.7
    assert model(adapters=path, mode="reference").image_weight == 0.5


def test_maps_and_detection_vectors_of_several_scales_are_averaged(model, adapters_file):
    batch = images()
    own = model(scales=[0.5, 1.5, 1])
    levels, vector, grids, _ = own.encode(batch)
    assert grids == ((2, 2), (6, 6), (4, 4))
    assert [level.shape[1] for level in levels] == 4 * [4] + 4 * [36] + 4 * [16]
    maps, vectors = [], []
    for side in (32, 96, 64):
        single = F.interpolate(batch, size=(side, side), mode="bilinear", align_corners=False)
        one, alone, (normal, abnormal), grid = reference_parts(own, single)
        maps.append(upsampled(sum(level @ abnormal - level @ normal for level in one) / 4, grid))
        vectors.append(alone)
    torch.testing.assert_close(vector, sum(vectors) / 3)
    scored = own(batch)
    torch.testing.assert_close(scored.anomaly_map, (sum(maps) / 3).sigmoid())
    score = (vector @ (abnormal - normal)).sigmoid()
    torch.testing.assert_close(scored.pred_score, 0.5 * scored.anomaly_map.amax(dim=(1, 2, 3)) + 0.5 * score)
    assert model(adapters=adapters_file("scales", settings={"scales": [0.5, 1]})).scales == (0.5, 1)
    assert model(adapters=adapters_file("scales", settings={"scales": [0.5, 1]}), scales=[1]).scales == (1,)
    assert model(adapters=adapters_file("scales", settings={"scales": [0.5, 1]}), mode="reference").scales == (1,)
    with pytest.raises(ValueError, match=r"scales=\[40\].*from 0.5 to 2"):
        model(adapters=adapters_file("damaged", settings={"scales": [40]}))


def test_a_scale_is_taken_in_whole_patches(model):
    assert model(scales=[0.65], image_size=(64, 128)).encode(torch.randn(1, 3, 64, 128)).grids == ((3, 5),)
    assert model(scales=[0.5], image_size=16).encode(torch.randn(1, 3, 16, 16)).grids == ((1, 1),)


def test_in_clean_mode_a_score_depends_on_its_image_only(model):
    own, batch = model(), images(5)
    whole = own(batch)
    order = torch.tensor([4, 2, 0, 1, 3])
    shuffled = own(batch[order])
    torch.testing.assert_close(shuffled.pred_score, whole.pred_score[order], atol=1e-6, rtol=1e-6)
    for index in range(5):
        alone = own(batch[index : index + 1])
        torch.testing.assert_close(alone.pred_score[0], whole.pred_score[index], atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(alone.anomaly_map[0], whole.anomaly_map[index], atol=1e-6, rtol=1e-6)
    assert not own.facts.sees_other_test_images


def test_in_reference_mode_the_range_of_the_class_decides_where_it_is_known(model):
    own, batch = model(reference=True), images(4)
    whole = own(batch)
    own.score_range = ScoreRange.of(*own.raw_scores(own.encode(batch)))
    alone = own(batch[1:2])
    torch.testing.assert_close(alone.pred_score[0], whole.pred_score[1], atol=1e-5, rtol=1e-5)
    assert own.facts.sees_other_test_images
    own.set_class("cable")
    assert own.score_range is None


def test_small_encoder_batches_change_nothing(model):
    batch = images(5)
    torch.testing.assert_close(model(encode_batch_size=2)(batch).anomaly_map, model()(batch).anomaly_map)


def test_facts_say_source_masks_and_descriptions(model):
    own = model()
    assert own.facts.auxiliary_data == "VisA test split, with masks"
    assert own.facts.category_data == "a description written by hand"  # bottle: "dark bottle"
    own.set_class("gearbox")
    assert own.facts.category_data == "its name"
    assert own.provenance["adapters"].endswith("clean.safetensors")


def test_descriptions_are_used_and_averaged(model):
    default, own = model(), model(description={"bottle": ["a", "b"]})
    assert not torch.allclose(default.text_embeddings, own.text_embeddings)
    same = model(description=["a", "b"])
    assert torch.equal(same.text_embeddings, own.text_embeddings)
    assert torch.equal(model(description="dark bottle").text_embeddings, default.text_embeddings)


def test_the_digest_is_of_clip_and_adapters(model, tiny_clip, adapters_file):
    digest = model().weights_digest
    assert digest != tiny_clip().digest
    assert digest == model().weights_digest
    assert digest != model(adapters=adapters_file("other", run=1)).weights_digest


def test_half_precision_keeps_what_decides_ranks(model):
    own, batch = model(), images()
    expected = own(batch)
    anchors = own.text_embeddings.clone()
    own.bfloat16()
    assert torch.equal(own.text_embeddings, anchors)
    assert own.text_embeddings.dtype == torch.float32
    assert own.visual_encoder.visual.proj.dtype == torch.bfloat16
    scored = own(batch.bfloat16())
    assert scored.anomaly_map.dtype == torch.float32
    torch.testing.assert_close(scored.anomaly_map, expected.anomaly_map, atol=0.01, rtol=0)
    own.set_class("cable")  # the text half is still in float32 on the CPU
    assert own.text_embeddings.dtype == torch.float32


def test_a_copy_and_a_pickle_score_the_same(adapters_file, weight_file, tmp_path):
    own = AaClipModel(adapters=adapters_file("clean"), class_name="bottle", text_cache_dir=tmp_path)
    for other in (copy.deepcopy(own), pickle.loads(pickle.dumps(own))):  # noqa: S301
        assert torch.equal(other(images()).pred_score, own(images()).pred_score)
        other.set_class("cable")
    assert own.class_name == "bottle"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"adapters": None}, r"anoclip train aaclip.*anoclip convert aaclip.*adapters=demo"),
        ({"mode": "fast"}, "mode='fast' is unknown"),
        ({"image_weight": 1.5}, "image_weight"),
        ({"scales": []}, "scales"),
        ({"scales": [0.4]}, "from 0.5 to 2"),
        ({"scales": [0.5, 1], "mode": "reference"}, "reads an image once"),
        ({"blur_kernel": 4}, "odd number"),
        ({"blur_sigma": 0.0}, "blur_sigma"),
        ({"encode_batch_size": 0}, "encode_batch_size"),
        ({"precision": "int8"}, "precision"),
        ({"image_size": 65}, "multiple"),
        ({"image_size": (64, 64, 64)}, "image_size"),
        ({"backbone": "ViT-B-16"}, "trained with backbone 'tiny'"),
        ({"activation": "gelu"}, "activation"),
        ({"class_name": " "}, "not empty"),
        ({"description": {"bottle": ""}}, "not empty"),
    ],
)
def test_bad_arguments_are_refused(model, arguments, message):
    with pytest.raises(ValueError, match=message):
        model(**arguments)


def test_images_and_class_are_asked_for(model):
    with pytest.raises(RuntimeError, match="knows no class"):
        model(class_name=None)(images())
    with pytest.raises(ValueError, match="a video"):
        model()(torch.randn(1, 2, 3, 64, 64))


def test_an_unknown_class_uses_its_name_and_says_so(model, caplog):
    with caplog.at_level("INFO"):
        made = model(class_name="gear_box")
        made.set_class("gear_box")  # Lightning sets it up for each stage
        assert caplog.text.count("Nobody described the class 'gear_box'; the prompts use its name: 'gear box'") == 1
        made.set_class("bolt")
        made.set_class("gear_box")
    assert caplog.text.count("'gear_box'") == 2
