import copy
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from anoclip_anomalib.aaclip.adapters import new_image_adapters, new_text_adapters
from anoclip_anomalib.aaclip.scoring import blur
from anoclip_anomalib.aaclip.settings import IMAGE_STAGE, TEXT_STAGE, StageSettings
from anoclip_anomalib.aaclip.text import AnchorTrainer
from anoclip_anomalib.aaclip.training import ImageStage, TextStage, batch_axis_value_attention, detection_loss, scaled
from anoclip_anomalib.clip import Tap, walk_image
from anoclip_anomalib.clip.blocks import project_out, project_qkv
from anoclip_anomalib.zeroshot.balanced_loss import balanced_segmentation_loss, peak_loss, peaks, twin_heat_loss
from anoclip_anomalib.zeroshot.losses import normal_aware_loss, segmentation_loss
from anoclip_anomalib.zeroshot.training import LOWEST_RATE, rate

CLASSES = [["bottle"], ["pill", "white pill"]]


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(2)
    return {
        "image": torch.randn(3, 3, 64, 64, generator=generator),
        "mask": (torch.rand(3, 64, 64, generator=generator) > 0.9).float() * torch.tensor([1.0, 0.0, 1.0]).view(3, 1, 1),
        "label": torch.tensor([1.0, 0.0, 1.0]),
        "class_index": torch.tensor([1, 0, 1]),
    }


@pytest.fixture
def text_stage(tiny_clip, halves):
    def make(*, reference=False, **options) -> TextStage:
        part = copy.deepcopy(halves(reference=reference)[0])
        return TextStage(tiny_clip(), part, CLASSES, TEXT_STAGE, reference=reference, **options)

    return make


@pytest.fixture
def image_stage(tiny_clip, halves):
    def make(*, reference=False, settings=IMAGE_STAGE, **options) -> ImageStage:
        anchors = F.normalize(torch.randn(2, 2, 32, generator=torch.Generator().manual_seed(4)), dim=-1)
        return ImageStage(tiny_clip(), copy.deepcopy(halves(reference=reference)[1]), anchors, settings, **options)

    return make


def logits(level, anchors, grid=(4, 4)):
    products = 100 * torch.stack([level @ anchors[:, k, :, None] for k in (0, 1)], dim=1).squeeze(-1)
    return F.interpolate(products.unflatten(2, grid), size=(64, 64), mode="bilinear", align_corners=True)


def test_batch_axis_attention_is_a_loop_over_the_places():
    v = torch.randn(3, 2, 5, 8)  # B, H, L, d
    attended = batch_axis_value_attention(v, v, v).heads
    for place in range(5):
        for head in range(2):
            own = v[:, head, place]
            weights = (own @ own.T / 8**0.5).softmax(dim=-1)
            torch.testing.assert_close(attended[:, head, place], weights @ own)
    alone = batch_axis_value_attention(v[:1], v[:1], v[:1]).heads
    torch.testing.assert_close(alone, v[:1])  # of one image each token attends to itself


def test_reference_features_of_the_first_stage_are_an_explicit_walk_in_the_authors_layout(text_stage, batch):
    stage = text_stage(reference=True)
    visual, images = stage.visual_encoder.visual, batch["image"]
    levels, token, grid = stage.features(images)
    (x, plain), _ = walk_image(visual, images, [Tap(block=2, tokens="all", norm=False, project=False), Tap(tokens="class")])
    for block in visual.transformer.resblocks[2:]:  # 19 of 24 blocks are 10 of 12
        _, _, v = project_qkv(block, block.ln_1(x))
        out = torch.empty_like(v)
        for place in range(v.shape[2]):
            own = v[:, :, place].transpose(0, 1)  # (H, B, d)
            out[:, :, place] = ((own @ own.mT / v.shape[-1] ** 0.5).softmax(-1) @ own).transpose(0, 1)
        x = x + project_out(block, out)
        x = x + block.mlp(block.ln_2(x))
    expected = F.normalize(visual.ln_post(x[:, 1:]) @ visual.proj, dim=-1) + F.normalize(plain, dim=-1)[:, None]
    assert len(levels) == 1
    assert grid == (4, 4)
    torch.testing.assert_close(levels[0], expected, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(token, F.normalize(plain, dim=-1))
    changed = images.clone()
    changed[1] += 1
    assert not torch.allclose(stage.features(changed)[0][0][0], levels[0][0], atol=1e-4)


def test_clean_features_of_the_first_stage_do_not_depend_on_the_batch(text_stage, batch):
    stage = text_stage()
    levels, _, _ = stage.features(batch["image"])
    assert len(levels) == 4
    alone, _, _ = stage.features(batch["image"][1:2])
    for one, all_ in zip(alone, levels, strict=True):
        torch.testing.assert_close(one[0], all_[1], atol=1e-5, rtol=1e-4)


def test_levels_of_the_first_stage_are_of_the_value_attention_tower(text_stage):
    assert [(tap.block, tap.stream) for tap in text_stage().taps] == [(block, "local") for block in (3, 6, 9, 12)]
    assert (text_stage().local.blocks, text_stage().local.with_mlp) == (10, True)  # 19 of 24 blocks are 10 of 12


@pytest.mark.parametrize("reference", [False, True])
def test_losses_of_the_text_stage(text_stage, tiny_clip, batch, reference):
    stage = text_stage(reference=reference)
    levels, token, _ = stage.features(batch["image"])
    anchors = AnchorTrainer(tiny_clip(), CLASSES)(stage.part, batch["class_index"])
    assert len(levels) == (1 if reference else 4)
    own = stage.losses(batch, stage.part)
    expected = sum(segmentation_loss(logits(level, anchors).softmax(dim=1), batch["mask"]) for level in levels)
    torch.testing.assert_close(own["segmentation"], expected)
    cosine = (anchors[:, 0] * anchors[:, 1]).sum(-1).mean()
    torch.testing.assert_close(own["disentangling"], len(levels) * 0.1 * cosine**2)
    assert ("detection" in own) != reference
    if not reference:
        products = torch.stack([(token * anchors[:, k]).sum(-1) for k in (0, 1)], dim=1)
        torch.testing.assert_close(own["detection"], F.cross_entropy(products, batch["label"].long()))


def test_losses_of_the_image_stage(image_stage, batch):
    stage = image_stage()
    taps = [Tap(block=block, project=False) for block in (3, 6, 9, 12)]
    tapped, _ = walk_image(stage.visual_encoder.visual, batch["image"], taps, after_block=stage.part.adapters)
    levels, detection = stage.part.project(tapped)
    anchors = stage.anchors[batch["class_index"]]
    own = stage.losses(batch, stage.part)
    expected = sum(segmentation_loss(logits(level, anchors).softmax(dim=1), batch["mask"]) for level in levels)
    torch.testing.assert_close(own["segmentation"], expected)
    products = torch.stack([(detection * anchors[:, k]).sum(-1) for k in (0, 1)], dim=1)
    torch.testing.assert_close(own["detection"], F.cross_entropy(products, batch["label"].long()))
    assert own.keys() == {"segmentation", "detection"}


def test_the_balanced_loss_is_of_every_level_and_of_the_map_of_test_time(image_stage, batch):
    stage = image_stage(settings=StageSettings(epochs=1, batch_size=1, lr=1.0, loss="balanced", detection_scale=20.0))
    taps = [Tap(block=block, project=False) for block in (3, 6, 9, 12)]
    tapped, _ = walk_image(stage.visual_encoder.visual, batch["image"], taps, after_block=stage.part.adapters)
    levels, detection = stage.part.project(tapped)
    direction = stage.anchors[batch["class_index"]].diff(dim=1).squeeze(1)
    maps = [100 * torch.einsum("ble,be->bl", level, direction).unflatten(1, (4, 4)) for level in levels]
    smooth = blur((sum(maps) / 4)[:, None])[:, 0]

    def of(one):
        pixels = F.interpolate(one[:, None], size=(64, 64), mode="bilinear", align_corners=True)[:, 0]
        return balanced_segmentation_loss(pixels, batch["mask"])

    own = stage.losses(batch, stage.part)
    torch.testing.assert_close(own["segmentation"], sum(of(one) for one in maps) / 4 + of(smooth))
    torch.testing.assert_close(own["peak"], peak_loss(smooth, batch["label"]))
    products = 20 * (detection * direction).sum(-1)
    torch.testing.assert_close(own["detection"], F.binary_cross_entropy_with_logits(products, batch["label"]))


@pytest.mark.parametrize("order", [[0, 1, 2], [0, 2, 1]])  # either image of the pair may be the hotter one
def test_pairs_are_compared_in_maps_and_verdicts(image_stage, batch, order):
    own = {"epochs": 1, "batch_size": 1, "lr": 1.0, "loss": "balanced", "detection_scale": 20.0}
    batch = {**batch, "image": batch["image"][order], "pair": torch.tensor([-1, 5, 5])}
    plain, compared = (image_stage(settings=StageSettings(**own, pairs=weight)) for weight in (0.0, 0.5))
    before, after = (stage.losses(batch, stage.part) for stage in (plain, compared))
    assert after.keys() - before.keys() == {"twin", "order"}
    assert all(torch.equal(before[name], after[name]) for name in before)
    tapped, _ = walk_image(plain.visual_encoder.visual, batch["image"], plain.part.reads, after_block=plain.part.adapters)
    levels, detection = plain.part.project(tapped)
    direction = plain.anchors[batch["class_index"]].diff(dim=1).squeeze(1)
    maps = [100 * torch.einsum("ble,be->bl", level, direction).unflatten(1, (4, 4)) for level in levels]
    smooth = blur((sum(maps) / 4)[:, None])[:, 0]

    def heat(one):
        pixels = F.interpolate(one[:, None], size=(64, 64), mode="bilinear", align_corners=True)[:, 0]
        return twin_heat_loss(pixels, batch["mask"], torch.tensor([1]))

    peak, verdict = peaks(smooth), 20 * (detection * direction).sum(-1)
    expected = sum(heat(one) for one in maps) / 4 + heat(smooth) + F.softplus(peak[1] - peak[2])
    torch.testing.assert_close(after["twin"], 0.5 * expected)
    torch.testing.assert_close(after["order"], 0.5 * F.softplus(verdict[1] - verdict[2]))


@pytest.mark.parametrize("which", ["text", "image"])
def test_gradients_reach_exactly_what_is_trained(text_stage, image_stage, batch, which):
    stage = text_stage() if which == "text" else image_stage()
    torch.stack(list(stage.losses(batch, stage.part).values())).sum().backward()
    reached = {name for name, parameter in stage.named_parameters() if parameter.grad is not None}
    assert reached == {f"part.{name}" for name, _ in stage.part.named_parameters()}
    assert all(parameter.grad.abs().sum() > 0 for parameter in stage.part.parameters())
    assert {name for name, parameter in stage.named_parameters() if parameter.requires_grad} == reached


@pytest.mark.parametrize("which", ["text", "image"])
def test_gradient_checkpointing_changes_nothing(text_stage, image_stage, batch, which):
    grads = []
    for checkpointing in (False, True):
        stage = (text_stage if which == "text" else image_stage)(checkpointing=checkpointing)
        torch.stack(list(stage.losses(batch, stage.part).values())).sum().backward()
        grads.append([parameter.grad for parameter in stage.part.parameters()])
    for plain, checkpointed in zip(*grads, strict=True):
        torch.testing.assert_close(checkpointed, plain)


def test_detection_loss_in_closed_form():
    vector, anchors = torch.tensor([[1.0, 0.0]]), torch.tensor([[[0.2, 1.0], [0.7, 0.0]]])
    expected = -(torch.tensor(0.7).exp() / (torch.tensor(0.2).exp() + torch.tensor(0.7).exp())).log()
    torch.testing.assert_close(detection_loss(vector, anchors, torch.tensor([1.0])), expected)
    sharp = -(torch.tensor(1.4).exp() / (torch.tensor(0.4).exp() + torch.tensor(1.4).exp())).log()
    torch.testing.assert_close(detection_loss(vector, anchors, torch.tensor([1.0]), 2.0), sharp)


def settings(**changes):
    return StageSettings(epochs=1, batch_size=1, lr=1.0, **changes)


def test_schedules():
    halving = settings(schedule="milestones", milestones=(3, 5))
    assert [rate(halving, step, 9) for step in range(7)] == [1, 1, 1, 0.5, 0.5, 0.25, 0.25]
    assert [rate(settings(), step, 9) for step in (0, 8)] == [1, 1]
    assert [rate(settings(warmup=4), step, 9) for step in range(5)] == [0.25, 0.5, 0.75, 1, 1]
    cosine = settings(schedule="cosine", hold=0.5)
    assert [rate(cosine, step, 8) for step in (0, 4)] == [1, 1]
    assert rate(cosine, 6, 8) == pytest.approx(0.02 + 0.98 / 2)
    assert rate(cosine, 8, 8) == rate(cosine, 9, 8) == pytest.approx(LOWEST_RATE)


def test_scaling_keeps_image_and_mask_together():
    image = torch.zeros(1, 3, 8, 8)
    image[..., :4, 4:] = 1
    batch = {"image": image, "mask": image[:, 0], "label": torch.ones(1)}
    half = scaled(batch, 4)
    expected = torch.zeros(1, 4, 4)
    expected[:, :2, 2:] = 1
    assert torch.equal(half["mask"], expected)
    assert half["image"].shape == (1, 3, 4, 4)
    assert ((half["image"][:, 0] > 0.5) == expected.bool()).all()
    assert scaled(batch, 8) is batch


def test_batches_take_the_sizes_in_turn(image_stage, batch, monkeypatch):
    stage = image_stage(settings=StageSettings(epochs=1, batch_size=1, lr=1.0, sizes=(32, 64)))
    stage._trainer = SimpleNamespace(strategy=SimpleNamespace(reduce=lambda value, reduce_op: value), current_epoch=0)
    monkeypatch.setattr(stage, "log_dict", lambda *_, **__: None)
    seen = []
    losses = stage.losses
    monkeypatch.setattr(stage, "losses", lambda own, part: seen.append(own["image"].shape[-1]) or losses(own, part))
    for index in range(4):
        stage.training_step(batch, index)
    assert seen == [32, 64, 32, 64]


def test_the_average_follows_and_is_what_is_kept(image_stage):
    stage = image_stage(settings=StageSettings(epochs=1, batch_size=1, lr=1.0, average=0.75))
    stage._trainer = SimpleNamespace(accumulate_grad_batches=2)
    weight, kept = stage.part.detection.weight, stage.result.detection.weight
    assert stage.result is not stage.part
    first = weight.detach().clone()
    stage.on_train_batch_end(None, {}, 1)
    with torch.no_grad():
        weight.add_(1.0)
    stage.on_train_batch_end(None, {}, 2)  # no step here: two batches make one
    torch.testing.assert_close(kept, first)
    stage.on_train_batch_end(None, {}, 3)
    torch.testing.assert_close(kept, first + 0.25)
    assert not kept.requires_grad


def test_new_halves_fit_their_stages(tiny_clip, batch):
    for reference in (False, True):
        clip = tiny_clip()
        text = TextStage(clip, new_text_adapters(clip, reference=reference), CLASSES, TEXT_STAGE, reference=reference)
        anchors = text.text(text.part, torch.tensor([0, 1])).detach()
        image = ImageStage(clip, new_image_adapters(clip, reference=reference), anchors, IMAGE_STAGE)
        assert all(torch.isfinite(term) for term in image.losses(batch, image.part).values())


def test_the_normal_aware_term_is_of_the_detection_vector(image_stage, batch):
    settings = StageSettings(epochs=1, batch_size=3, lr=1e-3, detection_scale=5.0, normal_aware=0.5)
    own = image_stage(settings=settings)
    before = image_stage(settings=replace(settings, normal_aware=0.0)).losses(batch, own.part)
    found = own.losses(batch, own.part)
    assert {name: found[name] for name in before} == before
    tapped, _ = walk_image(own.visual_encoder.visual, batch["image"], own.part.reads, after_block=own.part.adapters)
    _, vector = own.part.project(tapped)
    anchors = own.anchors[batch["class_index"]]
    expected = normal_aware_loss(vector, anchors, batch["label"], batch["class_index"], 0.2)
    torch.testing.assert_close(found["normal_aware"], 0.5 * expected)


def test_a_pixel_that_is_half_covered_counts_as_defective():
    mask = torch.zeros(1, 8, 8)
    mask[..., :3] = 1
    half = scaled({"image": torch.zeros(1, 3, 8, 8), "mask": mask}, 4)
    assert half["mask"][0, 0].tolist() == [1, 1, 0, 0]


def test_the_held_out_loss_is_of_what_is_kept(image_stage, batch, monkeypatch):
    stage, logged = image_stage(settings=replace(IMAGE_STAGE, average=0.75)), {}
    with torch.no_grad():
        stage.part.detection.weight.mul_(-1)  # the average has not followed
    monkeypatch.setattr(stage, "log", lambda name, value, **options: logged.update({name: value}))
    stage.validation_step(batch, 0)
    kept, trained = (torch.stack(list(stage.losses(batch, part).values())).sum() for part in (stage.result, stage.part))
    torch.testing.assert_close(logged["held_out_loss"], kept)
    assert not torch.isclose(kept, trained)
