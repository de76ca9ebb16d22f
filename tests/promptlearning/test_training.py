"""Losses against the same written out, and where gradients go."""

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from anoclip_anomalib.clip import load_clip
from anoclip_anomalib.promptlearning.methods import METHODS
from anoclip_anomalib.promptlearning.second_encoder import SecondEncoder
from anoclip_anomalib.promptlearning.settings import LOSSES, TRAINING, PromptRecipe
from anoclip_anomalib.promptlearning.train import knowledge_embeddings, new_learner
from anoclip_anomalib.promptlearning.training import HeadTraining, PromptTraining, knowledge_loss, segmentation_loss
from anoclip_anomalib.zeroshot.losses import normal_aware_loss

SIZE = (64, 64)


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(2)
    mask = torch.zeros(3, *SIZE)
    mask[0, 8:30, 10:40] = 1
    mask[2, 40:60, 40:60] = 1
    return {
        "image": torch.randn(3, 3, *SIZE, generator=generator),
        "mask": mask,
        "label": torch.tensor([1.0, 0.0, 1.0]),
        "class_index": torch.tensor([1, 0, 1]),
    }


@pytest.fixture(scope="module")
def clip():
    """The demonstration encoder with random weights: its joint space has the width of its text tower, as Crane needs."""
    return load_clip("demo", "random")


@pytest.fixture
def stage(clip):
    def make(method, **options):
        recipe = PromptRecipe(**{"method": method, "training": TRAINING[method], **options})
        with torch.random.fork_rng():
            torch.manual_seed(1)
            learner = new_learner(recipe, clip)
            second = SecondEncoder("test_vit4", "random") if method == "crane-plus" else None
        if METHODS[method].learned != "prompts":
            return HeadTraining(clip, learner, recipe, ["bottle", "metal-nut"])
        knowledge = knowledge_embeddings(clip, ["bottle", "pill"], True) if options.get("knowledge") else None
        return PromptTraining(clip, learner, recipe, second=second, knowledge=knowledge)

    return make


def focal(anomalous, mask):
    """With the authors' smoothing: labels between 1e-5 and 1 - 1e-5, and 1e-5 more for the right class."""
    truth = mask.clamp(1e-5, 1 - 1e-5)
    right = truth * anomalous + (1 - mask).clamp(1e-5, 1 - 1e-5) * (1 - anomalous) + 1e-5
    return (-((1 - right) ** 2) * right.log()).mean()


def dice(p, mask):
    items = [(2 * (a * b).sum() + 1) / (a.sum() + b.sum() + 1) for a, b in zip(p, mask, strict=True)]
    return 1 - torch.stack(items).mean()


def maps(level, text, temperature, grid, how):
    """Probability of the anomalous class at the pixels."""
    own = torch.stack([level[i] @ (text if text.ndim == 2 else text[i]).T for i in range(len(level))]) / temperature
    own = own.mT.unflatten(2, grid)
    if how == "nearest":
        return F.interpolate(own.softmax(dim=1), size=SIZE, mode="nearest")[:, 1]
    if how == "bilinear":
        return F.interpolate(own.softmax(dim=1), size=SIZE, mode="bilinear", align_corners=False)[:, 1]
    return F.interpolate(own, size=SIZE, mode="bilinear", align_corners=True).softmax(dim=1)[:, 1]


def test_anomalyclip(stage, batch):
    own = stage("anomalyclip")
    found = own.losses(batch, own.part)
    (level,), token, grid = own.features(batch["image"])
    text = own.text(own.part)
    p = maps(level, text, 0.07, grid, "bilinear")
    expected = 4 * (focal(p, batch["mask"]) + dice(p, batch["mask"]) + dice(1 - p, 1 - batch["mask"]))
    torch.testing.assert_close(found["segmentation"], expected, atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(found["image"], F.cross_entropy(token @ text.T / 0.07, batch["label"].long()))


def test_crane_has_weights_8_8_and_a_fifth_and_text_of_each_image(stage, batch):
    own = stage("crane")
    found = own.losses(batch, own.part)
    (level,), token, grid = own.features(batch["image"])
    text = own.text(own.part, token)
    assert text.shape == (3, 2, 64)
    p = maps(level, text, 0.07, grid, "nearest")
    expected = 8 * dice(p, batch["mask"]) + 8 * focal(p, batch["mask"])
    torch.testing.assert_close(found["segmentation"], expected, atol=1e-3, rtol=1e-4)
    weights = (torch.einsum("ble,bce->blc", level, text) / 0.07).softmax(dim=-1)[..., 1:]
    pooled = F.normalize((weights * level).sum(dim=1), dim=-1)
    feature = F.normalize(0.5 * pooled + 0.5 * token, dim=-1)
    logits = torch.einsum("be,bce->bc", feature, text) / 0.01
    torch.testing.assert_close(found["image"], 0.2 * F.cross_entropy(logits, batch["label"].long()), atol=1e-4, rtol=1e-4)


def test_crane_plus_sums_two_levels_with_weight_2(stage, batch):
    own = stage("crane-plus")
    found = own.losses(batch, own.part)
    levels, token, grid = own.features(batch["image"])
    assert len(levels) == 2
    text = own.text(own.part, token)
    parts = [maps(level, text, 0.07, grid, "nearest") for level in levels]
    expected = sum(2 * dice(p, batch["mask"]) + 2 * focal(p, batch["mask"]) for p in parts)
    torch.testing.assert_close(found["segmentation"], expected, atol=1e-3, rtol=1e-4)


def test_april_gan_upsamples_logits_and_has_no_image_loss(stage, batch):
    own = stage("april-gan")
    found = own.losses(batch, own.part)
    tapped, _, grid = own.features(batch["image"])
    text = own.static_text[batch["class_index"]]
    levels = [F.normalize(head(x), dim=-1) for head, x in zip(own.part.patches, tapped, strict=True)]
    parts = [maps(level, text, 0.01, grid, "logits") for level in levels]
    expected = sum(dice(p, batch["mask"]) + focal(p, batch["mask"]) for p in parts)
    assert found.keys() == {"segmentation"}
    torch.testing.assert_close(found["segmentation"], expected, atol=1e-3, rtol=1e-4)


def test_adaclips_dice_is_of_each_row_of_pixels():
    generator = torch.Generator().manual_seed(0)
    level = F.normalize(torch.randn(2, 16, 8, generator=generator), dim=-1)
    text = F.normalize(torch.randn(2, 8, generator=generator), dim=-1)
    mask = (torch.rand(2, *SIZE, generator=generator) > 0.8).float()
    found = segmentation_loss(METHODS["adaclip"], LOSSES["adaclip"], level, text, mask, (4, 4))
    p = maps(level, text, 0.01, (4, 4), "logits")
    rows, truth = p.reshape(-1, SIZE[1]), mask.reshape(-1, SIZE[1])
    expected = dice(rows, truth) + dice(1 - rows, 1 - truth) + focal(p, mask)
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-4)


def test_adaclip_trains_on_text_of_each_image(stage, batch):
    own = stage("adaclip")
    found = own.losses(batch, own.part)
    alone = [
        own.losses({name: tensor[i : i + 1] for name, tensor in batch.items()}, own.part)["segmentation"] for i in range(3)
    ]
    torch.testing.assert_close(found["segmentation"], torch.stack(alone).mean(), atol=1e-3, rtol=1e-3)
    assert found["image"] > 0


@pytest.mark.parametrize("method", METHODS)
def test_gradients_reach_what_is_learned_and_nothing_else(stage, batch, clip, method):
    own = stage(method)
    torch.stack(list(own.losses(batch, own.part).values())).sum().backward()
    for name, parameter in own.part.named_parameters():
        assert parameter.grad is not None, name
        assert float(parameter.grad.abs().sum()) > 0, name
    learned = {id(parameter) for parameter in own.part.parameters()}
    assert all(parameter.grad is None for parameter in own.parameters() if id(parameter) not in learned)
    assert all(parameter.grad is None for parameter in clip.model.parameters())
    if method == "adaclip":
        assert not own.part.text_prompts.static.grad[0].any(), "the text prompts of the first block are not used"


def test_kept_features_give_the_same_loss(stage, batch):
    for method in ("anomalyclip", "crane-plus", "april-gan"):
        own = stage(method)
        levels, token, grid = own.features(batch["image"])
        kept = {name: tensor for name, tensor in batch.items() if name != "image"}
        kept |= {"levels": torch.stack(levels, dim=1), "class_token": token, "grid": torch.tensor([grid] * 3)}
        plain, found = own.losses(batch, own.part), own.losses(kept, own.part)
        assert all(torch.equal(plain[name], found[name]) for name in plain)
    with pytest.raises(ValueError, match="AdaCLIP is trained: its features cannot be kept"):
        stage("adaclip").features(batch["image"])


def test_optimisers_are_the_authors(stage):
    for method, kind, lr, betas in (
        ("anomalyclip", torch.optim.Adam, 1e-3, (0.5, 0.999)),
        ("crane", torch.optim.Adam, 1e-3, (0.6, 0.999)),
        ("adaclip", torch.optim.AdamW, 1e-2, (0.5, 0.999)),
        ("april-gan", torch.optim.Adam, 1e-3, (0.5, 0.999)),
    ):
        own = stage(method).optimizer()
        assert type(own) is kind
        assert (own.defaults["lr"], own.defaults["betas"]) == (lr, betas)
        assert own.defaults["weight_decay"] == (0.01 if method == "adaclip" else 0)


def test_knowledge_pulls_the_abnormal_prompt_and_pushes_it_from_the_normal_one():
    normal, anomalous, known = F.normalize(torch.tensor([[1.0, 0, 0], [1, 1, 0], [0, 1, 1]]), dim=-1)
    text = torch.stack([normal, anomalous])
    expected = 1 - 0.5 + (0.5**0.5 - 0.5)
    torch.testing.assert_close(knowledge_loss(text, known[None], 0.5), torch.tensor(expected))
    torch.testing.assert_close(knowledge_loss(text.expand(2, 2, 3), known.expand(2, 3), 0.9), torch.tensor(0.5))


def test_the_knowledge_term_is_of_the_images_classes(stage, batch, clip):
    own = stage("anomalyclip", knowledge=True, knowledge_weight=3.0)
    found = own.losses(batch, own.part)
    known = knowledge_embeddings(clip, ["bottle", "pill"], True)[batch["class_index"]]
    torch.testing.assert_close(found["knowledge"], 3 * knowledge_loss(own.text(own.part), known, 0.5))
    plain = copy.deepcopy(own)
    plain.knowledge = None
    assert "knowledge" not in plain.losses(batch, plain.part)


@pytest.mark.parametrize("method", ["anomalyclip", "crane", "adaclip"])
def test_the_normal_aware_term_is_added_to_the_others(stage, batch, method):
    batch["class_index"] = torch.tensor([1, 0, 0])
    plain, own = stage(method), stage(method, training=replace(TRAINING[method], normal_aware=2.0))
    before, found = plain.losses(batch, plain.part), own.losses(batch, own.part)
    assert {name: found[name] for name in before} == before
    if method == "anomalyclip":
        _, class_token, _ = own.features(batch["image"])
        expected = normal_aware_loss(class_token, own.text(own.part), batch["label"], torch.zeros(3), 0.07)
        torch.testing.assert_close(found["normal_aware"], 2 * expected)
    found["normal_aware"].backward()
    assert any(one.grad is not None and one.grad.abs().sum() > 0 for one in own.part.parameters())


def test_classes_that_nobody_described_get_the_mean_of_those_that_somebody_did(clip):
    known = knowledge_embeddings(clip, ["pill", "gadget", "bottle"], True)
    torch.testing.assert_close(known[1], F.normalize(known[0] + known[2], dim=-1))
    torch.testing.assert_close(known.norm(dim=-1), torch.ones(3))
    with pytest.raises(ValueError, match="Nobody described the defects of gadget, part"):
        knowledge_embeddings(clip, ["gadget", "part"], True)


def test_the_knowledge_term_meets_the_prompts_of_its_own_image(stage, batch, clip):
    batch["class_index"] = torch.tensor([1, 0, 0])
    own = stage("crane", knowledge=True, knowledge_weight=3.0)
    _, class_token, _ = own.features(batch["image"])
    known = knowledge_embeddings(clip, ["bottle", "pill"], True)[batch["class_index"]]
    expected = 3 * knowledge_loss(own.text(own.part, class_token), known, 0.5)
    torch.testing.assert_close(own.losses(batch, own.part)["knowledge"], expected)
