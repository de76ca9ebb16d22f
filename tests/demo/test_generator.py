"""The image generator: seeded, in range, with defects where the masks say."""

import numpy as np
import pytest

from anoclip_anomalib.bundled.pairs import CATEGORY_NAMES, PairChunks
from anoclip_anomalib.demo.dataset import draw_sample
from anoclip_anomalib.demo.defects import DEFECTS, visible_defect
from anoclip_anomalib.demo.held_out import DEFECTS_OF, HELD_OUT_CATEGORIES, HELD_OUT_DEFECTS
from anoclip_anomalib.demo.noise import turned
from anoclip_anomalib.demo.objects import CATEGORIES, OBJECTS
from anoclip_anomalib.demo.scene import Scene
from anoclip_anomalib.demo.textures import TEXTURES

ALL_CATEGORIES = {**CATEGORIES, **HELD_OUT_CATEGORIES}
ALL_DEFECTS = {**DEFECTS, **HELD_OUT_DEFECTS}


@pytest.mark.parametrize("name", ALL_CATEGORIES)
def test_same_seed_same_scene_other_seed_other_scene(name: str) -> None:
    first, again, other = (ALL_CATEGORIES[name](np.random.default_rng(seed), 64) for seed in (3, 3, 4))
    assert first.image.shape == (64, 64, 3)
    assert first.image.dtype == np.float32
    assert np.isfinite(first.image).all()
    assert first.foreground.any()
    np.testing.assert_array_equal(first.image, again.image)
    assert np.abs(first.image - other.image).max() > 0.01


@pytest.mark.parametrize("name", ALL_DEFECTS)
def test_a_defect_changes_the_image_inside_its_mask_and_hardly_outside(name: str) -> None:
    for seed, category in enumerate(("coin", "painted panel", "metal_nut", "snakeskin")):
        rng = np.random.default_rng(seed)
        scene = ALL_CATEGORIES[category](rng, 96)
        image, mask = visible_defect(rng, scene, ALL_DEFECTS[name])
        change = np.abs(np.clip(image, 0, 1) - np.clip(scene.image, 0, 1)).max(2)
        assert mask.shape == (96, 96)
        assert mask.any()
        assert mask.mean() < 0.5
        assert change[mask].mean() > 0.02
        assert change[mask].mean() > 5 * change[~mask].mean()


def test_a_defect_that_never_shows_is_an_error() -> None:
    scene = CATEGORIES["coin"](np.random.default_rng(0), 64)

    def nothing(rng: np.random.Generator, scene: Scene) -> tuple[np.ndarray, np.ndarray]:
        return scene.image, np.zeros((64, 64), bool)

    with pytest.raises(RuntimeError, match="nothing left the scene unchanged in 8 attempts"):
        visible_defect(np.random.default_rng(0), scene, nothing)


def test_training_and_held_out_data_share_no_category_and_no_defect() -> None:
    assert not set(CATEGORIES) & set(HELD_OUT_CATEGORIES)
    assert not {name.replace("_", " ") for name in HELD_OUT_CATEGORIES} & set(CATEGORIES)
    assert not set(CATEGORIES.values()) & set(HELD_OUT_CATEGORIES.values())
    assert not set(DEFECTS) & set(HELD_OUT_DEFECTS)
    assert not set(DEFECTS.values()) & set(HELD_OUT_DEFECTS.values())
    assert set(CATEGORY_NAMES) == set(CATEGORIES) == set(OBJECTS) | set(TEXTURES)
    assert set(DEFECTS_OF) == set(HELD_OUT_CATEGORIES)
    assert {kind for kinds in DEFECTS_OF.values() for kind in kinds} == set(HELD_OUT_DEFECTS)


def test_pairs_differ_by_the_defect_and_chunks_follow_their_seed() -> None:
    chunks = PairChunks(seed=5, size=48, pairs=6, count=4, easing=2)
    first, again = chunks[1], chunks[1]
    assert first.images.shape == (6, 2, 48, 48, 3)
    assert first.images.dtype == np.uint8
    np.testing.assert_array_equal(first.images, again.images)
    np.testing.assert_array_equal(first.category, again.category)
    assert (first.images[:, 0] != first.images[:, 1]).any((1, 2, 3)).all()
    assert (chunks[2].images != first.images).any()
    assert len(chunks) == 4


def test_demanding_a_larger_defect_gives_one() -> None:
    def area(least: float) -> float:
        rng = np.random.default_rng(1)
        scenes = [CATEGORIES["coin"](rng, 64) for _ in range(12)]
        return float(np.mean([visible_defect(rng, scene, DEFECTS["stain"], least)[1].mean() for scene in scenes]))

    assert area(0.06) > 1.3 * area(0.001)


@pytest.mark.parametrize("category", HELD_OUT_CATEGORIES)
def test_a_sample_differs_from_its_twin_only_around_the_mask(category: str) -> None:
    for kind in DEFECTS_OF[category]:
        image, mask, twin = draw_sample(category, kind, 128, [0, 1])
        difference = np.abs(image.astype(int) - twin.astype(int)).max(2)
        assert 0.002 < mask.mean() < 0.4
        assert difference[mask].mean() > 8
        assert difference[mask].mean() > 8 * difference[~mask].mean()
    good, mask, twin = draw_sample(category, "good", 128, 7)
    assert not mask.any()
    np.testing.assert_array_equal(good, twin)


def test_coordinates_are_those_along_turned_axes() -> None:
    x, y = np.array([1.0, 0.0], np.float32), np.array([0.0, 1.0], np.float32)
    u, v = turned(x, y, np.pi / 6, 2)
    np.testing.assert_allclose(u, [np.sqrt(3) / 4, 0.25], rtol=1e-6)
    np.testing.assert_allclose(v, [-0.25, np.sqrt(3) / 4], rtol=1e-6)
    assert u.dtype == v.dtype == np.float32
