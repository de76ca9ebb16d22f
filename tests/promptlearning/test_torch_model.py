"""Each method's forward against the same written out with open_clip's own modules."""

import pytest
import torch
import torch.nn.functional as F

from anoclip_anomalib import PromptClipModel
from anoclip_anomalib.clip import load_clip
from anoclip_anomalib.clip.patch_embedding import interpolate_position
from anoclip_anomalib.promptlearning.methods import METHODS
from anoclip_anomalib.promptlearning.prompt_learner import embed_prompts
from anoclip_anomalib.promptlearning.scoring import anomaly_map, image_score, smooth
from anoclip_anomalib.prompts.april_gan import ADACLIP_TEMPLATES, sentences
from tests.promptlearning.conftest import TAPS

SECOND = {"second_encoder": "test_vit4", "second_pretrained": "random"}


@pytest.fixture
def model(prompts_file):
    def make(method="anomalyclip", **arguments) -> PromptClipModel:
        second = SECOND if method == "crane-plus" else {}
        named = {"class_name": "metal-nut"} if METHODS[method].needs_class else {}
        return PromptClipModel(**{"adapters": prompts_file(method), **second, **named, **arguments}).eval()

    return make


def start(visual, images, kind):
    """Tokens before the first block, another grid than the trained one included."""
    x = visual.conv1(images)
    grid = x.shape[-2:]
    x = torch.cat([visual.class_embedding.expand(len(x), 1, -1), x.flatten(2).mT], dim=1)
    return visual.ln_pre(x + interpolate_position(visual.positional_embedding, (4, 4), tuple(grid), kind)), tuple(grid)


def attend(block, x, pairs):
    """Plain multi-head attention of LN1, softmaxes of the named pairs summed."""
    u = block.ln_1(x)
    heads = block.attn.num_heads
    q, k, v = F.linear(u, block.attn.in_proj_weight, block.attn.in_proj_bias).unflatten(-1, (3, heads, -1)).unbind(2)
    named = {"q": q, "k": k, "v": v}
    weights = sum(torch.einsum("bnhd,bmhd->bhnm", named[a], named[b]).div(q.shape[-1] ** 0.5).softmax(dim=-1) for a, b in pairs)
    return block.attn.out_proj(torch.einsum("bhnm,bmhd->bnhd", weights, v).flatten(2))


def by_hand(visual, images, pairs, class_norm):
    """Class token, patches of the local path over the last 10 of 12 blocks, and the state in the middle of the last."""
    x, grid = start(visual, images, "bilinear")
    z = None
    for number, block in enumerate(visual.transformer.resblocks, start=1):
        if number == 3:
            z = x
        added = attend(block, x, pairs) if z is not None else None
        middle = x + attend(block, x, ["qk"])
        x = middle + block.mlp(block.ln_2(middle))
        z = None if z is None else z + added
    token = (visual.ln_post(x[:, 0]) if class_norm else x[:, 0]) @ visual.proj
    return F.normalize(token, dim=-1), F.normalize(visual.ln_post(z[:, 1:]) @ visual.proj, dim=-1), middle, grid


@pytest.mark.parametrize("size", [64, 96])
@pytest.mark.parametrize("name", ["anomalyclip", "crane"])
def test_anomalyclip_and_crane(model, learner, tiny_clip, name, size):
    method = METHODS[name]
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    found = model(name, image_size=size)(images)
    pairs = ["vv"] if name == "anomalyclip" else ["qq", "kk", "vv"]
    token, patches, _, grid = by_hand(tiny_clip().model.visual, images, pairs, class_norm=name == "crane")
    text = embed_prompts(tiny_clip(), learner(name))
    torch.testing.assert_close(found.pred_score, image_score(method, [patches], token, text), atol=1e-5, rtol=0)
    expected = smooth(anomaly_map(method, [patches], text, grid, (size, size)), 4 * size / 518)
    torch.testing.assert_close(found.anomaly_map, expected, atol=1e-5, rtol=0)


def test_crane_plus_takes_the_second_encoders_similarities(model, learner, tiny_clip, images):
    own = model("crane-plus")
    found = own.encode(images)
    visual = tiny_clip().model.visual
    token, patches, middle, grid = by_hand(visual, images, ["qq", "kk", "vv"], class_norm=True)
    block = visual.transformer.resblocks[-1]
    similar = own.second_encoder(images, grid)
    rows = []
    for index in range(3):
        cosine = similar[index] @ similar[index].T
        centred = 3 * (cosine - 1.2 * cosine.mean())
        centred = torch.where((centred < 0) & ~torch.eye(16, dtype=bool), -torch.inf, centred)
        width = middle.shape[-1]
        v = F.linear(
            block.ln_1(middle[index, 1:]), block.attn.in_proj_weight[2 * width :], block.attn.in_proj_bias[2 * width :]
        )
        rows.append(block.attn.out_proj(centred.softmax(dim=-1) @ v))
    second = F.normalize(visual.ln_post(torch.stack(rows)) @ visual.proj, dim=-1)
    torch.testing.assert_close(found.levels[0], second, atol=1e-5, rtol=0)
    torch.testing.assert_close(found.levels[1], patches, atol=1e-5, rtol=0)
    text = embed_prompts(tiny_clip(), learner("crane-plus"))
    expected = image_score(METHODS["crane-plus"], [second, patches], token, text)
    torch.testing.assert_close(own(images).pred_score, expected, atol=1e-5, rtol=0)


def adaclip_by_hand(clip, learned, image, cast):
    """One image: its unnormalised embedding makes prompts for both towers."""
    visual, tower = clip.model.visual, clip.text_tower
    condition = clip.model.encode_image(image)
    dynamic = torch.stack([linear(condition[0]) for linear in learned.image_prompts.generator])
    x, grid = start(visual, image, "bicubic")
    count = x.shape[1]
    levels = []
    for number, block in enumerate(visual.transformer.resblocks, start=1):
        if number <= 4:
            prompt = cast(learned.image_prompts.static[number - 1] + dynamic)
            x = torch.cat([x[:, :count], prompt[None]], dim=1)
        x = x + attend(block, x, ["qk"])
        x = x + block.mlp(block.ln_2(x))
        if number in TAPS:
            head = learned.patches[TAPS.index(number)]
            levels.append(F.normalize(head(x[:, 1:count]), dim=-1))
    token = F.normalize(learned.class_token(visual.ln_post(x[:, 0]) @ visual.proj), dim=-1)
    means = []
    for texts in sentences("metal nut", ADACLIP_TEMPLATES):
        tokens = clip.tokenize(texts)
        x = tower.token_embedding(tokens) + tower.positional_embedding
        dynamic = torch.stack([linear(condition[0]) for linear in learned.text_prompts.generator])
        for number, block in enumerate(tower.transformer.resblocks, start=1):
            if number == 2:
                prompt = cast(learned.text_prompts.static[1] + dynamic)
                x = torch.cat([x[:, :1], prompt.expand(len(x), -1, -1), x[:, 6:]], dim=1)
            u = block.ln_1(x)
            mask = torch.full((77, 77), -torch.inf).triu(1)
            x = x + block.attn(u, u, u, need_weights=False, attn_mask=mask)[0]
            x = x + block.mlp(block.ln_2(x))
        text = tower.ln_final(x)[torch.arange(len(x)), tokens.argmax(dim=-1)] @ tower.text_projection
        means.append(F.normalize(F.normalize(text, dim=-1).mean(dim=0), dim=-1))
    return levels, token, torch.stack(means), grid


@pytest.mark.parametrize("rounded", [False, True])
def test_adaclip_encodes_images_and_text_with_prompts_from_the_image(model, learner, tiny_clip, images, rounded):
    """A number on the border between two of float16 may fall to either side."""
    found = model("adaclip", rounded_tokens=rounded).encode(images)
    cast, near = (lambda x: x.half().float(), 1e-3) if rounded else (lambda x: x, 1e-5)
    for index in range(len(images)):
        levels, token, text, _ = adaclip_by_hand(tiny_clip(), learner("adaclip"), images[index : index + 1], cast)
        for own, expected in zip(found.levels, levels, strict=True):
            torch.testing.assert_close(own[index], expected[0], atol=near, rtol=0)
        torch.testing.assert_close(found.class_token[index], token[0], atol=near, rtol=0)
        torch.testing.assert_close(found.text[index], text, atol=near, rtol=0)
    assert not torch.allclose(found.text[0], found.text[1], atol=1e-3)


def test_rounding_is_seen_in_adaclip(model, images):
    rounded, exact = (model("adaclip", rounded_tokens=on).encode(images) for on in (True, False))
    assert float((rounded.text - exact.text).abs().max()) > 2e-5
    assert float((rounded.levels[0] - exact.levels[0]).abs().max()) > 2e-5


def test_april_gan_projects_raw_patches(model, learner, tiny_clip, images):
    visual, learned = tiny_clip().model.visual, learner("april-gan")
    found = model("april-gan")
    x, grid = start(visual, images, "bicubic-antialias")
    levels = []
    for number, block in enumerate(visual.transformer.resblocks, start=1):
        x = x + attend(block, x, ["qk"])
        x = x + block.mlp(block.ln_2(x))
        if number in TAPS:
            levels.append(F.normalize(learned.patches[TAPS.index(number)](x[:, 1:]), dim=-1))
    result = found(images)
    expected = anomaly_map(METHODS["april-gan"], levels, found.text_embeddings, grid, (64, 64))
    torch.testing.assert_close(result.anomaly_map, expected, atol=1e-4, rtol=0)
    token = F.normalize(tiny_clip().model.encode_image(images), dim=-1)
    expected = (100 * token @ found.text_embeddings.T).softmax(dim=-1)[:, 1]
    torch.testing.assert_close(result.pred_score, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", METHODS)
def test_one_more_image_in_the_batch_changes_nothing(model, name, images):
    """Of AdaCLIP without the rounding, which makes half a unit of float16 of the last digit of float32."""
    own = model(name, rounded_tokens=name != "adaclip")
    both, alone = own(images), own(images[1:2])
    torch.testing.assert_close(both.pred_score[1:2], alone.pred_score, atol=1e-5, rtol=0)
    torch.testing.assert_close(both.anomaly_map[1:2], alone.anomaly_map, atol=1e-5, rtol=0)
    own.encode_batch_size = 2
    torch.testing.assert_close(own(images).pred_score, both.pred_score, atol=1e-5, rtol=0)
    assert not own.facts.sees_other_test_images


def test_crane_plus_with_the_batch_mean_depends_on_the_batch_and_says_so(model, images):
    own = model("crane-plus", similarity_mean="batch", encode_batch_size=1)
    images = torch.cat([images, torch.zeros(1, 3, 64, 64)])
    assert not torch.allclose(own(images).anomaly_map[0], own(images[:1]).anomaly_map[0], atol=1e-6)
    assert own.facts.sees_other_test_images


@pytest.mark.parametrize("name", METHODS)
def test_what_tables_say(model, name):
    own = model(name)
    assert own.facts.auxiliary_data == "VisA test split, with masks"
    assert own.facts.category_data == ("its name" if name in ("adaclip", "april-gan") else "nothing")
    assert own.provenance["method"] == name
    assert own.weights_digest != load_clip(own.backbone, own.pretrained).digest


def test_the_class_matters_only_where_the_prompts_name_it(model, images):
    for name, depends in (("anomalyclip", False), ("crane", False), ("april-gan", True), ("adaclip", True)):
        own = model(name, class_name="bottle")
        first = own(images).pred_score
        own.set_class("screw")
        assert own.class_name == "screw"
        assert bool((own(images).pred_score != first).any()) == depends


def test_text_that_needs_a_class_asks_for_one(model, images):
    for name in ("april-gan", "adaclip"):
        with pytest.raises(RuntimeError, match="knows no class"):
            model(name, class_name=None)(images)
    model("crane", class_name=None)(images)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"adapters": None}, "needs adapters"),
        ({"method": "crane"}, "holds weights of the method 'anomalyclip', not of 'crane'"),
        ({"method": "winclip"}, "no method 'winclip' among"),
        ({"backbone": "ViT-B-16"}, "trained with backbone 'tiny'"),
        ({"activation": "gelu"}, "trained with activation 'as_trained'"),
        ({"encode_batch_size": 0}, "encode_batch_size=0"),
        ({"smoothing": -1.0}, "smoothing=-1.0"),
        ({"similarity_mean": "class"}, "similarity_mean='class'"),
        ({"image_size": 65}, "multiple of the patch size"),
        ({"precision": "float8"}, "Unknown precision"),
    ],
)
def test_bad_arguments(prompts_file, arguments, message):
    with pytest.raises(ValueError, match=message):
        PromptClipModel(**{"adapters": prompts_file(), **arguments})


def test_smoothing_is_an_argument(model, images):
    rough, plain = model(smoothing=0.0)(images).anomaly_map, model()(images).anomaly_map
    torch.testing.assert_close(smooth(rough, 4 * 64 / 518), plain)
    assert rough.var() > plain.var()


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_cast_models_score_alike(model, name, dtype, images):
    exact = model(name)(images)
    own = model(name).to(dtype)
    found = own(images.to(dtype))
    assert found.anomaly_map.dtype == torch.float32
    tolerance = 0.15 if dtype == torch.bfloat16 else 0.01
    assert float((found.pred_score - exact.pred_score).abs().max()) < tolerance
    assert torch.equal(model(name)(images).pred_score, exact.pred_score), "the shared tower was cast"
