"""Training images of adapters: fine defects, harmless variation, framing, camera, and their composition."""

import numpy as np
import pytest

from anoclip_anomalib.demo import harmless, inspection_samples
from anoclip_anomalib.demo.camera import Camera, frame, light
from anoclip_anomalib.demo.defects import DEFECTS, visible_defect
from anoclip_anomalib.demo.fine_defects import FINE_DEFECTS, TRAINING_DEFECTS
from anoclip_anomalib.demo.held_out import HELD_OUT_DEFECTS
from anoclip_anomalib.demo.inspection_samples import (
    LEAST_AREA,
    DrawnParts,
    Pair,
    damage,
    draw_pair,
    draw_scene,
    plain_pictures,
    take_pictures,
)
from anoclip_anomalib.demo.objects import CATEGORIES
from anoclip_anomalib.demo.photo_textures import SIDE, PhotoTextures
from anoclip_anomalib.demo.scene import Scene

PHOTOS = PhotoTextures(
    np.random.default_rng(0).integers(40, 220, (2, SIDE, SIDE, 3)).astype(np.uint8), np.array([True, False]), {}
)


def coin(seed: int = 0, size: int = 96) -> Scene:
    return CATEGORIES["coin"](np.random.default_rng(seed), size)


@pytest.mark.parametrize("name", FINE_DEFECTS)
def test_a_fine_defect_changes_the_image_inside_its_mask_and_hardly_outside(name: str) -> None:
    for seed, category in enumerate(("coin", "tile", "biscuit", "stone")):
        rng = np.random.default_rng(seed)
        scene = CATEGORIES[category](rng, 96)
        image, mask = visible_defect(rng, scene, FINE_DEFECTS[name], LEAST_AREA, 0.04)
        change = np.abs(np.clip(image, 0, 1) - np.clip(scene.image, 0, 1)).max(2)
        assert mask.any()
        assert mask.mean() < 0.3
        assert change[mask].mean() > 0.02
        if name != "split":  # it moves half of the part, and only the gap is marked
            assert change[mask].mean() > 4 * change[~mask].mean()


def test_fine_defects_join_the_others_and_are_no_held_out_looks() -> None:
    assert set(TRAINING_DEFECTS) == set(DEFECTS) | set(FINE_DEFECTS)
    assert not set(TRAINING_DEFECTS.values()) & set(HELD_OUT_DEFECTS.values())


@pytest.mark.parametrize("name", ["sections", "rounded", "relief", "marks", "lettering", "gleams"])
def test_variation_of_the_part_leaves_the_ground_alone(name: str) -> None:
    for seed in range(4):
        scene = coin(seed)
        changed = getattr(harmless, name)(np.random.default_rng(seed), scene)
        np.testing.assert_array_equal(changed.foreground, scene.foreground)
        away = harmless.coverage_of(scene) == 0
        np.testing.assert_allclose(changed.image[away], scene.image[away], atol=1e-6)
        assert np.abs(changed.image - scene.image)[scene.foreground].max() > 0.005


@pytest.mark.parametrize("name", ["clutter", "other_ground"])
def test_variation_of_the_ground_leaves_the_part_alone(name: str) -> None:
    for seed in range(4):
        scene = coin(seed)
        photos = (PHOTOS,) if name == "other_ground" else ()
        changed = getattr(harmless, name)(np.random.default_rng(seed), scene, *photos)
        inside = harmless.coverage_of(scene) == 1
        np.testing.assert_allclose(changed.image[inside], scene.image[inside], atol=1e-6)
        assert np.abs(changed.image - scene.image)[~scene.foreground].max() > 0.01


def test_several_parts_are_copies_on_one_ground() -> None:
    scene = coin()
    changed = harmless.several(np.random.default_rng(1), scene)
    np.testing.assert_array_equal(changed.background, scene.background)
    assert 0.1 < changed.foreground.mean() < 0.9
    away = ~changed.foreground
    assert np.abs(changed.image - scene.background)[away].mean() < 0.02


def test_a_frame_moves_picture_and_mask_together() -> None:
    mask = np.zeros((96, 96), bool)
    mask[40:56, 30:50] = True
    picture = np.repeat(mask[..., None], 3, 2).astype(np.float32)
    for seed in range(8):
        (framed, again), window = frame(np.random.default_rng(seed), [picture, picture], mask, 64)
        assert framed.shape == (64, 64, 3)
        np.testing.assert_array_equal(framed, again)
        assert window.any()
        assert ((framed[..., 0] > 0.5) == window).mean() > 0.99


def test_a_camera_treats_two_pictures_alike_and_noise_is_fresh() -> None:
    picture = np.full((48, 48, 3), 0.5, np.float32)
    means = []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        camera = Camera(rng, 48)
        first, second = (camera.take(rng, picture) for _ in range(2))
        assert first.dtype == np.uint8
        assert abs(float(first.mean()) - float(second.mean())) < 2
        assert (first != second).any() == (camera.noise > 0)
        means.append(first.mean())
    assert np.std(means) > 5


def test_light_is_a_factor_around_one() -> None:
    factors = np.stack([light(np.random.default_rng(seed), 32) for seed in range(30)])
    assert factors.shape == (30, 32, 32, 1)
    assert factors.min() >= 0.15
    assert factors.max() <= 2
    assert 0.7 < factors.mean() < 1.2


@pytest.mark.parametrize("photos", [None, PHOTOS])
def test_a_pair_differs_where_the_mask_says_and_follows_its_seed(photos: PhotoTextures | None) -> None:
    for seed in range(10):
        pair, again = (draw_pair(np.random.default_rng(seed), 96, photos) for _ in range(2))
        np.testing.assert_array_equal(pair.bad, again.bad)
        assert pair.good.shape == pair.bad.shape == (96, 96, 3)
        change = np.abs(pair.bad - pair.good).max(2)
        assert pair.mask.any()
        assert change[pair.mask].mean() > 0.02


def test_scenes_are_of_all_kinds() -> None:
    scenes = [draw_scene(np.random.default_rng(seed), 48, PHOTOS) for seed in range(40)]
    filled = [scene.foreground.mean() for scene in scenes]
    assert any(share == 1 for share in filled)
    assert any(share < 0.6 for share in filled)
    assert all(np.isfinite(scene.image).all() for scene in scenes)


def test_pictures_of_a_pair_are_a_good_and_a_bad_one() -> None:
    good = np.full((96, 96, 3), 0.5, np.float32)
    mask = np.zeros((96, 96), bool)
    mask[30:60, 30:60] = True
    bad = good.copy()
    bad[mask] = 0.95
    for seed in range(6):
        images, masks = take_pictures(np.random.default_rng(seed), Pair(good, bad, mask), 64)
        assert images.shape == (2, 64, 64, 3)
        assert not masks[0].any()
        assert masks[1].any()
        assert images[1][masks[1]].mean() > images[1][~masks[1]].mean() + 10


def test_drawn_parts_follow_epoch_and_index_and_alternate_good_and_bad() -> None:
    parts = DrawnParts(4, 48, seed=3)
    assert len(parts) == 4
    for index in range(4):
        image, mask, category = parts.draw(1, index)
        again, _, _ = DrawnParts(4, 48, seed=3).draw(1, index)
        other, _, _ = parts.draw(2, index)
        assert image.shape == (48, 48, 3)
        assert image.dtype == np.uint8
        np.testing.assert_array_equal(image, again)
        assert (image != other).any()
        assert mask.any() == (index % 2 == 1)
        assert category in DrawnParts.categories
        assert category == parts.draw(1, index ^ 1)[2], "both images of a pair have one name"
    assert DrawnParts.in_pairs


@pytest.mark.parametrize("plain", [0.0, 1.0])
def test_both_images_of_a_drawn_pair_show_one_part(plain: float, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    for name in ("plain_pictures", "draw_pair"):
        own = getattr(inspection_samples, name)
        monkeypatch.setattr(inspection_samples, name, lambda *args, own=own, name=name: drawn.append(name) or own(*args))
    parts = DrawnParts(4, 48, seed=3, plain=plain)
    for index in range(4):
        parts.draw(0, index)
    assert drawn == 2 * ["plain_pictures" if plain else "draw_pair"], "drawn once for both"


def test_plain_pictures_show_a_whole_part_good_and_bad() -> None:
    for seed in range(6):
        images, masks = plain_pictures(np.random.default_rng(seed), 64)
        again, _ = plain_pictures(np.random.default_rng(seed), 64)
        np.testing.assert_array_equal(images, again)
        assert images.shape == (2, 64, 64, 3)
        assert not masks[0].any()
        assert masks[1].any()


def test_damage_passes_over_kinds_that_leave_no_trace() -> None:
    def nothing(rng: np.random.Generator, scene: Scene) -> tuple[np.ndarray, np.ndarray]:
        return scene.image, np.zeros(scene.foreground.shape, bool)

    scene = coin()
    for seed in range(4):
        image, mask = damage(np.random.default_rng(seed), scene, (nothing, DEFECTS["stain"]), 1, 0.05)
        assert mask.any()
        assert (image != scene.image).any()
    _, mask = damage(np.random.default_rng(0), scene, (nothing,), 1, 0.05)
    assert not mask.any()


def test_two_defects_are_both_in_picture_and_mask() -> None:
    def spot(row: int):
        def draw(rng: np.random.Generator, scene: Scene) -> tuple[np.ndarray, np.ndarray]:
            mask = np.zeros(scene.foreground.shape, bool)
            mask[row : row + 8, 40:56] = True
            return np.where(mask[..., None], 1 - scene.image, scene.image), mask

        return draw

    scene = Scene(np.zeros((96, 96, 3), np.float32), np.ones((96, 96), bool), np.zeros((96, 96, 3), np.float32))
    image, mask = damage(np.random.default_rng(0), scene, (spot(10), spot(60)), 2, 0.05)
    assert mask.sum() == 2 * 8 * 16
    np.testing.assert_array_equal(image[..., 0] > 0.5, mask)
