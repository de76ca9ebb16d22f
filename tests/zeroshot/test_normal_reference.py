"""Scales, fusion and thresholds of few normal images, by closed forms and by leaving out for real."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from anomalib.post_processing import PostProcessor

from anoclip_anomalib.zeroshot.normal_reference import (
    NormalReference,
    highest_patches,
    joint_evidence,
    leave_out_each,
    set_thresholds,
    standard_scale,
    turned,
)


@pytest.fixture
def model(anoclip_model):
    return anoclip_model().eval()


def images(model, count: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, *model.image_size, generator=generator)


def fill(model, batch: torch.Tensor, **options) -> None:
    with torch.no_grad():
        described = model.describe_normal(batch)
        model.reference.remember(described, [[] for _ in described], **{"keep_copies": False, **options})


def test_evidence():
    normal, far = torch.zeros(3), torch.full((3,), 9.0)
    both = joint_evidence([far, far])
    torch.testing.assert_close(both, F.softplus(far))
    one = joint_evidence([normal, far])
    assert (one < both).all()
    assert (one > 0.7 * both).all()
    torch.testing.assert_close(joint_evidence([far, normal], (0.0, 1.0)), F.softplus(normal))
    values = torch.linspace(-8, 8, 50)
    assert (joint_evidence([torch.zeros(50), values]).diff() > 0).all()  # no ties where all are normal


def test_two_equal_scores_do_not_make_the_scale_zero():
    scale = standard_scale(torch.tensor([1.0, 1.0]), torch.tensor(0.5))
    torch.testing.assert_close(scale, torch.tensor([1.0, 0.5 / 2**0.5]))
    many = torch.randn(10_000, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(standard_scale(many, torch.tensor(5.0))[1], many.std(), atol=2e-3, rtol=0)


def test_leaving_out_is_a_memory_of_the_others(model):
    batch = images(model, 4)
    fill(model, batch)
    scales, (left_out, peaks) = model.reference.scales.clone(), model.reference.left_out.clone()
    for index in range(4):
        fill(model, torch.cat([batch[:index], batch[index + 1 :]]))
        model.reference.scales = scales
        with torch.no_grad():
            features = model.encode(batch[index : index + 1])
            patches, score = model.reference(features, model._patch_scores(features), model._image_score(features))
        torch.testing.assert_close(score[0], left_out[index], atol=1e-3, rtol=1e-3)
        torch.testing.assert_close(patches.max(), peaks[index], atol=1e-3, rtol=1e-3)


def test_copies_of_an_image_do_not_vouch_for_it(model):
    batch = images(model, 3)
    with torch.no_grad():
        described = model.describe_normal(batch)
        copies = [model.describe_normal(torch.stack([image, *turned(image)])) for image in batch]
    found = leave_out_each(described, copies)
    # Each image is a copy of itself: were it compared with its own, its distance would be 0.
    assert found.scales[1, 0] > 0.05
    assert found.scales[3, 0] > 0.01


def test_a_score_depends_on_the_image_alone(model):
    fill(model, images(model, 3))
    batch = images(model, 4, seed=1)
    with torch.no_grad():
        together = model(batch)
        alone = [model(image[None]) for image in batch]
    torch.testing.assert_close(together.pred_score, torch.cat([one.pred_score for one in alone]), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(together.anomaly_map, torch.cat([one.anomaly_map for one in alone]), atol=1e-3, rtol=1e-3)


def test_what_differs_from_the_normal_images_stands_out(model):
    batch = images(model, 6)
    fill(model, batch[:5] * 0.1 + batch[5])
    with torch.no_grad():
        like, unlike = model(batch[:1] * 0.1 + batch[5]), model(images(model, 1, seed=9))
    assert unlike.pred_score > 2 * like.pred_score
    assert unlike.pred_score > model.reference.image_threshold.value


def test_forgetting_brings_the_text_back_to_the_last_bit(model):
    batch = images(model, 2, seed=3)
    with torch.no_grad():
        before = model(batch)
        fill(model, images(model, 2))
        changed = model(batch)
        model.reference.forget()
        after = model(batch)
    assert torch.equal(before.pred_score, after.pred_score)
    assert torch.equal(before.anomaly_map, after.anomaly_map)
    assert not torch.equal(before.pred_score, changed.pred_score)


def test_turned_copies():
    image = torch.arange(3 * 4 * 4.0).view(3, 4, 4)
    copies = [image, *turned(image)]
    assert len({tuple(copy.flatten().tolist()) for copy in copies}) == 8
    assert len(turned(image[:, :3])) == 3
    assert all(copy.shape == (3, 3, 4) for copy in turned(image[:, :3]))


def test_thresholds_are_of_the_left_out_scores(model):
    fill(model, images(model, 3))
    scores = model.reference.left_out.numpy()
    assert model.reference.image_threshold.value == pytest.approx(scores[0].max())
    assert model.reference.pixel_threshold.value == pytest.approx(scores[1].max())
    assert model.reference.image_threshold.false_alarms == 0.25
    assert np.isfinite(scores).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"coreset": 0.0}, "coreset=0.0 must be a share"),
        ({"coreset": 1.5}, "coreset=1.5 must be a share"),
        ({"false_alarms": 1.0}, "false_alarms=1.0 must be a share"),
        ({"text_weight": -1.0}, "text_weight=-1.0 must be 0 or more"),
        ({"neighbourhoods": (2,)}, "must be an odd number of patches"),
    ],
)
def test_bad_settings(arguments, message):
    with pytest.raises(ValueError, match=message):
        NormalReference((1,), **arguments)


def test_bad_depths_and_no_images(anoclip_model):
    with pytest.raises(ValueError, match=r"depths=\[99\] must be numbers of blocks from 1 to"):
        anoclip_model(depths=(99,))
    with pytest.raises(ValueError, match="At least one normal image"):
        NormalReference((1,)).remember([], [], keep_copies=False)


def test_each_scale_of_the_image_scores_leans_on_that_of_its_patches(model):
    with torch.no_grad():
        described = model.describe_normal(images(model, 3))
        scales = leave_out_each(described, [[image] for image in described]).scales
    by_text = torch.stack([image.image_text for image in described])
    tokens = torch.stack([image.class_token for image in described])
    classes = torch.cdist(tokens, tokens).fill_diagonal_(torch.inf).amin(dim=1)
    torch.testing.assert_close(scales[2], standard_scale(by_text, scales[0, 1]))
    torch.testing.assert_close(scales[3], standard_scale(classes, scales[1, 1]), atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    ("left_out", "image", "pixel"),
    [
        ([[0.5, 2.0], [3.0, 5.0]], (0.5, 2.0, 3.5), (2.5, 5.0, 7.5)),
        ([[2.0], [3.0]], (1.0, 2.0, 3.0), (1.5, 3.0, 4.5)),  # of one image the lowest score is the threshold
    ],
)
def test_scores_are_spread_around_the_threshold(left_out, image, pixel):
    reference, post = NormalReference((1,)), PostProcessor()
    reference.left_out = torch.tensor(left_out)
    set_thresholds(post, reference)
    assert (float(post.image_min), float(post._image_threshold), float(post.image_max)) == image
    assert (float(post.pixel_min), float(post._pixel_threshold), float(post.pixel_max)) == pixel


@torch.no_grad()
def test_tiles_count_alike_however_long_their_class_tokens_are(anoclip_model):
    model = anoclip_model(tiling="square").eval()
    features = model.encode(torch.randn(1, 3, 64, 150), levels=True)
    longer = features._replace(class_tokens=features.class_tokens * torch.tensor([1.0, 5.0, 9.0])[:, None])
    one, other = (model.reference.describe(own, *model.text_scores(features))[0].class_token for own in (features, longer))
    torch.testing.assert_close(other, one)
    torch.testing.assert_close(one.norm(), torch.ones(()))


@pytest.mark.parametrize(("count", "expected"), [(1, 0.0), (64, 63.0), (199, 198.0), (200, 198.5), (350, 348.0)])
def test_an_images_score_is_the_mean_of_its_highest_hundredth_of_patches(count, expected):
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    both = torch.stack([order.float(), -order.float()])
    assert highest_patches(both)[0] == expected
    assert highest_patches(both[:, :1]).tolist() == both[:, 0].tolist()
