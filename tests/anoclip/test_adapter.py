"""The adapter in the model's seam: every image on its own, whatever its neighbours."""

import pytest
import torch
import torch.nn.functional as F

from anoclip_anomalib.anoclip.adaptation import AdapterWeights, initial_weights, optimise, pixel_values
from anoclip_anomalib.anoclip.adapter import AdaptationSettings, TokenAdapter
from anoclip_anomalib.zeroshot.tiling import plan_tiles

B, D, M = 4, 16, 30
GRID, LAYOUT = (3, 3), plan_tiles(24, 40, "square")


@pytest.fixture
def text() -> torch.Tensor:
    return F.normalize(torch.randn(2, D, generator=torch.Generator().manual_seed(1)), dim=-1)


@pytest.fixture
def bank() -> torch.Tensor:
    return F.normalize(torch.randn(M, D, generator=torch.Generator().manual_seed(2)), dim=-1)


@pytest.fixture
def tokens() -> torch.Tensor:
    return torch.randn(B, len(LAYOUT), 9, D, generator=torch.Generator().manual_seed(3))


@pytest.fixture(params=["text", "linear"])
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


def test_batch_equals_one_by_one_in_any_order(kind, text, bank, tokens) -> None:
    adapter = TokenAdapter(AdaptationSettings(adapter=kind), text, bank)
    together = adapter(tokens, GRID, LAYOUT)
    alone = torch.cat([adapter(image, GRID, LAYOUT) for image in tokens.split(1)])
    backwards = adapter(tokens.flip(0), GRID, LAYOUT).flip(0)
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
    torch.testing.assert_close(together, backwards, atol=1e-5, rtol=0)
    assert not torch.allclose(together, tokens, atol=1e-3), "the adapter did nothing"


def test_two_runs_are_identical_and_the_seed_matters(kind, text, bank, tokens) -> None:
    first, second = (TokenAdapter(AdaptationSettings(adapter=kind), text, bank)(tokens, GRID, LAYOUT) for _ in range(2))
    other = TokenAdapter(AdaptationSettings(adapter=kind, seed=7), text, bank)(tokens, GRID, LAYOUT)
    assert torch.equal(first, second)
    assert not torch.allclose(first, other, atol=1e-4)


def test_zero_steps_and_the_residual_alone_change_nothing(kind, text, bank, tokens) -> None:
    adapter = TokenAdapter(AdaptationSettings(adapter=kind, steps=0, residual=1.0), text, bank)
    torch.testing.assert_close(adapter(tokens, GRID, LAYOUT), tokens)
    assert adapter.report is not None
    assert adapter.report.losses.shape == (1, B)


def test_works_in_inference_mode_and_leaves_no_gradients(kind, text, bank, tokens) -> None:
    before = text.clone(), bank.clone()
    with torch.inference_mode():
        inside = TokenAdapter(AdaptationSettings(adapter=kind), text, bank)(tokens * 1, GRID, LAYOUT)
    outside = TokenAdapter(AdaptationSettings(adapter=kind), text, bank)(tokens, GRID, LAYOUT)
    torch.testing.assert_close(inside, outside)
    assert not outside.requires_grad
    assert text.grad is None
    assert bank.grad is None
    assert torch.equal(text, before[0])
    assert torch.equal(bank, before[1])


def test_loss_falls(kind, text, bank, tokens) -> None:
    adapter = TokenAdapter(AdaptationSettings(adapter=kind, lr=1e-2, steps=20), text, bank)
    adapter(tokens, GRID, LAYOUT)
    assert adapter.report is not None
    assert (adapter.report.losses[-1] < adapter.report.losses[0]).all()


def test_another_number_of_tokens_has_draws_of_its_own_from_the_same_seed(kind, text, bank, tokens) -> None:
    """Images of other shapes before or between change nothing."""
    one, two = plan_tiles(24, 24, "square"), LAYOUT
    settings = AdaptationSettings(adapter=kind)
    adapter = TokenAdapter(settings, text, bank)
    for layout in (two, one, two):
        part = tokens[:, : len(layout)]
        expected = TokenAdapter(settings, text, bank)(part, GRID, layout)
        assert torch.equal(adapter(part, GRID, layout), expected)


@pytest.mark.parametrize("kind", ["text", "linear"])
def test_every_setting_goes_into_the_optimisation(kind, text, bank, tokens) -> None:
    """Against the functions by hand: weights drawn before the noise, loss at patches (text) or pixels (linear)."""
    settings = AdaptationSettings(
        adapter=kind,
        steps=3,
        lr=0.02,
        noise_std=0.3,
        weight_decay=0.5,
        residual=0.25,
        seed=9,  # fmt: skip
    )
    flat = tokens.flatten(1, 2)
    generator = torch.Generator().manual_seed(9)
    start = initial_weights(M if kind == "text" else D, D, generator)
    noises = torch.randn(3, *flat.shape[1:], generator=generator) * 0.3
    weights = AdapterWeights(*(w.repeat(B, *[1] * (w.ndim - 1)).requires_grad_() for w in start))
    expected = optimise(
        flat, weights, torch.optim.AdamW(weights, lr=0.02, weight_decay=0.5), noises, steps=3, text=text, residual=0.25,
        anchors=bank if kind == "text" else None,
        to_places=lambda values: values if kind == "text" else pixel_values(values, GRID, LAYOUT),
    )  # fmt: skip
    adapter = TokenAdapter(settings, text, bank)
    torch.testing.assert_close(adapter(tokens, GRID, LAYOUT).flatten(1, 2), expected.tokens, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(adapter.report.losses, expected.losses, atol=1e-6, rtol=1e-5)


def test_carried_optimizer_depends_on_the_order_and_only_from_the_second_image_on(kind, text, bank, tokens) -> None:
    settings = AdaptationSettings(adapter=kind, reset_optimizer=False)
    forwards = TokenAdapter(settings, text, bank)(tokens, GRID, LAYOUT)
    backwards = TokenAdapter(settings, text, bank)(tokens.flip(0), GRID, LAYOUT).flip(0)
    fresh = TokenAdapter(AdaptationSettings(adapter=kind), text, bank)(tokens, GRID, LAYOUT)
    torch.testing.assert_close(forwards[0], fresh[0], atol=1e-5, rtol=0)
    assert not torch.allclose(forwards[1:], backwards[1:], atol=1e-5)


def test_carried_optimizer_is_one_adamw_over_weights_drawn_anew(text, bank, tokens) -> None:
    adapted = TokenAdapter(AdaptationSettings(reset_optimizer=False, seed=9), text, bank)(tokens, GRID, LAYOUT)
    torch.manual_seed(9)  # the same stream of random numbers as torch's own modules draw from
    linear, optimizer = torch.nn.Linear(D, M), None
    for index, image in enumerate(tokens.flatten(1, 2)):
        if optimizer is None:
            optimizer = torch.optim.AdamW(linear.parameters(), lr=1e-3)
        else:
            linear.reset_parameters()
        noises = torch.randn(5, *image.shape) * 0.055

        def adapt(x: torch.Tensor) -> torch.Tensor:
            return 0.5 * x + 0.5 * linear(F.normalize(x, dim=-1)).tanh() @ bank

        for noise in noises:
            clean, noisy = ((F.normalize(adapt(x), dim=-1) @ text.T).softmax(-1) for x in (image, image + noise))
            loss = -(clean * clean.log()).sum(-1).mean() + 0.5 * (-noisy[:, 1].log() - clean[:, 0].log()).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            torch.testing.assert_close(adapted[index].flatten(0, 1), adapt(image), atol=1e-5, rtol=1e-5)


def test_an_image_that_is_not_finite_keeps_its_tokens_and_harms_nobody(kind, text, bank, tokens) -> None:
    adapter = TokenAdapter(AdaptationSettings(adapter=kind), text, bank)
    clean = adapter(tokens, GRID, LAYOUT)
    broken = tokens.clone()
    broken[1, 0, 2, 3] = float("nan")
    adapted = adapter(broken, GRID, LAYOUT)
    torch.testing.assert_close(adapted[1], broken[1], equal_nan=True)
    torch.testing.assert_close(adapted[[0, 2, 3]], clean[[0, 2, 3]], atol=1e-5, rtol=0)
    assert adapter.report is not None
    assert adapter.report.broken.tolist() == [False, True, False, False]


def test_guard_keeps_tokens_that_moved_too_far_or_did_not_improve(text, bank, tokens) -> None:
    broken = tokens.clone()
    broken[1, 0, 2, 3] = float("inf")
    strict = TokenAdapter(AdaptationSettings(guard=True, guard_correlation=1.0), text, bank)
    strict(broken, GRID, LAYOUT)
    assert strict.report is not None
    assert strict.report.guarded.tolist() == [True, False, True, True]  # the other one is broken, not guarded
    torch.testing.assert_close(strict(tokens, GRID, LAYOUT), tokens)
    assert strict.report is not None
    assert strict.report.guarded.all()
    no_step = TokenAdapter(AdaptationSettings(guard=True, steps=0, guard_correlation=-1.0), text, bank)
    torch.testing.assert_close(no_step(tokens, GRID, LAYOUT), tokens)
    lenient = TokenAdapter(AdaptationSettings(guard=True, lr=1e-2, steps=20, guard_correlation=-1.0), text, bank)
    plain = TokenAdapter(AdaptationSettings(lr=1e-2, steps=20), text, bank)
    torch.testing.assert_close(lenient(tokens, GRID, LAYOUT), plain(tokens, GRID, LAYOUT))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"steps": -1}, "steps=-1"),
        ({"lr": 0.0}, "lr=0.0"),
        ({"lr": float("nan")}, "lr=nan"),
        ({"noise_std": -0.1}, "noise_std=-0.1"),
        ({"weight_decay": -1.0}, "weight_decay=-1.0"),
        ({"residual": 1.5}, "residual=1.5"),
        ({"adapter": "mlp"}, "adapter='mlp'"),
        ({"guard_correlation": 2.0}, "guard_correlation=2.0"),
    ],
)
def test_settings_out_of_range_are_named(setting, message) -> None:
    with pytest.raises(ValueError, match=message):
        AdaptationSettings(**setting)


def test_settings_at_the_ends_of_their_ranges_are_taken() -> None:
    for value in (0.0, 1.0):
        AdaptationSettings(steps=0, noise_std=0.0, weight_decay=0.0, residual=value, guard_correlation=2 * value - 1)
