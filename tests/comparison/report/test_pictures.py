import numpy as np
from PIL import Image

from anoclip_anomalib.comparison.report.pictures import Strips, choose, grid, overlay

from .generated import SIDE, write_results


def test_choice_is_best_worst_and_disputed_on_images_that_all_models_have(tmp_path):
    rows = write_results(tmp_path, models=2, categories=1, seeds=1, samples=9)
    quality = {0: [0.9] * 9, 1: [0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.0]}
    for index, row in enumerate(rows):
        for sample, value in zip(row["samples"], quality[index], strict=True):
            sample[3] = value
    rows[0]["samples"][0][3] = None
    chosen = choose(rows, ["model 0", "model 1"], "data", each=2)
    by_reason = {reason: [c.path[-7:-4] for c in chosen if c.reason == reason] for reason in ("best", "worst", "disputed")}
    assert by_reason["worst"] == ["008", "007"]
    assert by_reason["disputed"] == ["006", "005"]
    assert by_reason["best"] == ["001", "003"]  # anomalous images first
    assert len({(c.category, c.path) for c in chosen}) == 6


def test_grid_has_a_picture_for_every_model(tmp_path):
    rows = write_results(tmp_path, models=3, categories=2, seeds=2, samples=4)
    shown = grid(tmp_path, rows, ["model 0", "model 1", "model 2"], "data", each=1)
    assert [row["reason"] for row in shown] == ["best", "worst", "disputed"]
    assert all(cell["picture"].startswith("data:image/jpeg") for row in shown for cell in row["cells"])


def test_overlay_keeps_shape():
    assert overlay(np.zeros((4, 5, 3), np.uint8), np.zeros((4, 5), np.uint8)).shape == (4, 5, 3)


def test_every_picture_is_its_own_square_and_a_lost_one_is_none(tmp_path):
    (row,) = write_results(tmp_path, models=1, categories=1, seeds=1, samples=3)
    levels = np.repeat(np.array([0, 100, 200], np.uint8), SIDE)[None].repeat(SIDE, axis=0)
    images = next((tmp_path / "pictures").glob("*-images.jpg"))
    Image.fromarray(np.stack([levels] * 3, axis=2)).save(images, quality=95)
    for name in (f"{row['id']}.png", f"{row['id']}-masks.png"):
        Image.fromarray(levels).save(tmp_path / "pictures" / name)
    strips = Strips(tmp_path)
    for level, (path, *_) in zip((0, 100, 200), row["samples"], strict=True):
        image, mask = strips.image_and_mask(row, path)
        assert image.shape == (SIDE, SIDE, 3)
        assert abs(image.astype(int) - level).max() < 5
        assert (mask == (level == 200)).all()
        assert (strips.heatmap(row, path) == level).all()
    assert strips.heatmap(row, "another.png") is None
    images.unlink()
    assert Strips(tmp_path).image_and_mask(row, row["samples"][0][0])[0] is None
