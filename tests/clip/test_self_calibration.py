"""SC-CLIP's steps in closed form, and all together in a second way."""

import pytest
import torch
import torch.nn.functional as F

from anoclip_anomalib.clip import VisualEncoder
from anoclip_anomalib.clip.self_calibration import (
    SelfCalibration,
    averaging_weights,
    calibrated_weights,
    local_outlier_factor,
    outlier_tokens,
    resolve_outliers,
    similarity,
)


def tokens(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_outlier_factor_as_a_plain_loop():
    x = tokens(2, 40, 6)
    found = local_outlier_factor(x, 5)
    for image, factors in zip(x.double(), found, strict=True):
        squared = ((image[:, None] - image[None]) ** 2).sum(dim=-1)
        order = squared.argsort(dim=1)[:, 1:6]
        reach = squared.gather(1, order)[:, -1]
        expected = torch.stack([(reach[i] / reach[order[i]]).mean() for i in range(40)])
        torch.testing.assert_close(factors.double(), expected, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(("count", "flagged"), [(196, 10), (225, 12), (784, 40)])
def test_how_many_outliers(count, flagged):
    found = outlier_tokens(tokens(2, count, 8), "lof")
    assert found.sum(dim=1).tolist() == [flagged, flagged]


def test_the_outlier_is_found_and_equal_tokens_give_no_nan():
    x = tokens(1, 100, 8)
    x[0, 37] = 30.0
    assert outlier_tokens(x, "lof")[0, 37]
    assert outlier_tokens(x, "norm")[0, 37]
    assert outlier_tokens(x, "norm").sum() == 10
    assert local_outlier_factor(torch.ones(1, 50, 3)).isfinite().all()


def test_outliers_become_the_mean_of_their_ordinary_neighbours():
    x = tokens(1, 20, 3)
    outliers = torch.zeros(1, 20, dtype=torch.bool)
    outliers[0, [0, 6, 7]] = True  # in a grid of 4 x 5: a corner, and two side by side
    found = resolve_outliers(x, outliers, (4, 5))
    torch.testing.assert_close(found[0, 0], x[0, [1, 5]].mean(dim=0))
    torch.testing.assert_close(found[0, 6], x[0, [1, 2, 5, 10, 11, 12]].mean(dim=0))
    assert torch.equal(found[~outliers], x[~outliers])
    everything = torch.ones(1, 20, dtype=torch.bool)
    assert torch.equal(resolve_outliers(x, everything, (4, 5)), x)


def test_averaging_weights():
    cosines = similarity(tokens(2, 30, 4))
    weights = averaging_weights(cosines)
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(2, 30), atol=1e-4, rtol=0)
    assert (weights[cosines < 0.4] == 0).all()
    assert (weights[cosines >= 0.4] > 0).all()
    torch.testing.assert_close(averaging_weights(cosines, 0.99999), torch.eye(30).expand(2, -1, -1), atol=1e-4, rtol=0)


def test_calibrated_weights_as_the_formula():
    cosines, k = similarity(tokens(2, 12, 4)), tokens(2, 3, 12, 5)
    found = calibrated_weights(cosines, k)
    torch.testing.assert_close(found.sum(dim=-1), torch.ones(2, 3, 12))
    logits = 3 * (cosines[1] - cosines[1].mean())
    logits[logits < 0] = -torch.inf
    expected = (logits.softmax(dim=1) + (k[1, 2] @ k[1, 2].T / 5**0.5).softmax(dim=1)) / 2
    torch.testing.assert_close(found[1, 2], expected)


def test_blocks_are_the_authors_and_relative_ones_elsewhere():
    base, large = SelfCalibration.of_depth(12), SelfCalibration.of_depth(24)
    assert (base.pre, base.post, base.first, base.last, base.class_weight) == (9, 4, 4, 10, 0.3)
    assert (large.pre, large.post, large.first, large.last) == (17, 7, 9, 19)
    assert large.class_weight == pytest.approx(0.1)
    for blocks in (2, 3, 6, 18, 32, 48):
        chosen = SelfCalibration.of_depth(blocks)
        assert all(1 <= number < blocks for number in chosen.blocks_read(blocks))
        assert chosen.first <= chosen.last
    with pytest.raises(ValueError, match="this encoder has 1"):
        SelfCalibration.of_depth(1)


@pytest.mark.parametrize("outliers", [None, "lof", "norm"])
def test_all_steps_in_a_second_way(tiny_clip, outliers):
    """One image after another, with plain linear layers."""
    clip = tiny_clip()
    name = "self-calibrated" + (f"-{outliers}" if outliers else "")
    encoder = VisualEncoder(clip.visual_tower("float32"), local_attention=name)
    images = tokens(2, 3, *encoder.image_size)
    visual, settings = encoder.visual, encoder.calibration
    with torch.no_grad():
        found = encoder(images)
        plain = VisualEncoder(clip.visual_tower("float32"))(images)
        torch.testing.assert_close(found.class_token, plain.class_token)
        from anoclip_anomalib.clip import Tap, walk_image

        read = settings.blocks_read(encoder.depth)
        taps = [Tap(block=number, tokens="all", norm=False, project=False) for number in read]
        levels = dict(zip(read, walk_image(visual, images, taps)[0], strict=True))
        block = visual.transformer.resblocks[-1]
        for index in range(2):
            level = {number: one[index] for number, one in levels.items()}
            x, g = level[encoder.depth - 1][1:], level[settings.pre][1:]
            if outliers:
                flagged = outlier_tokens(x[None], outliers)
                x, g = (resolve_outliers(one[None], flagged, found.grid)[0] for one in (x, g))
            S = F.normalize(g, dim=1) @ F.normalize(g, dim=1).T  # noqa: N806
            P = F.normalize(level[settings.post][1:], dim=1)  # noqa: N806
            after = averaging_weights((P @ P.T)[None])[0]

            def attend(y, S=S):  # noqa: N803
                heads = block.attn.num_heads
                qkv = F.linear(block.ln_1(y), block.attn.in_proj_weight, block.attn.in_proj_bias)
                _, k, v = (part.unflatten(1, (heads, -1)).transpose(0, 1) for part in qkv.chunk(3, dim=1))
                return block.attn.out_proj((calibrated_weights(S[None], k[None])[0] @ v).transpose(0, 1).flatten(1))

            fused = sum(level[number] for number in range(settings.first, settings.last + 1))
            out = after @ (attend(averaging_weights(S[None])[0] @ x) + settings.class_weight * level[encoder.depth - 1][0])
            out = out + after @ (attend(fused[1:]) + settings.class_weight * fused[0])
            torch.testing.assert_close(found.patch_tokens[index], visual.ln_post(out) @ visual.proj, atol=1e-4, rtol=1e-3)


def test_it_is_scored_as_anoclip(anoclip_model):
    model = anoclip_model(local_attention="self-calibrated").eval()
    images = tokens(3, 3, *model.image_size)
    with torch.no_grad():
        together, alone = model(images), [model(image[None]) for image in images]
    torch.testing.assert_close(together.anomaly_map, torch.cat([one.anomaly_map for one in alone]))
    with torch.no_grad():
        assert torch.equal(together.pred_score, anoclip_model().eval()(images).pred_score)
    half = anoclip_model(local_attention="self-calibrated", precision="bfloat16").eval()
    with torch.no_grad():
        assert half(images).anomaly_map.isfinite().all()
