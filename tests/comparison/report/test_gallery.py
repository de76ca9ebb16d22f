"""The gallery: one file, nothing from outside, every picture decodable."""

import base64
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest

from anoclip_anomalib.comparison.report.gallery import (
    Gallery,
    GalleryItem,
    MetricRow,
    colour_range,
    gallery_of,
    heatmap_overlay,
    write_gallery,
)

from .generated import write_results

NOTICE = "No inspector of real parts <really> & truly."


def _gallery() -> Gallery:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (60, 90, 3), dtype=np.uint8)
    mask = np.zeros((60, 90), bool)
    mask[20:30, 40:60] = True
    maps = {"value": rng.random((15, 15), dtype=np.float32), "query-key": rng.random((15, 15), dtype=np.float32)}
    items = [GalleryItem("dent/000", image, mask, maps, {"value": 0.5012}), GalleryItem("good/000", image, None, maps)]
    rows = [
        MetricRow("nut", "value", {"AUROC": 0.91, "AUPRO": float("nan")}),
        MetricRow("nut", "query-key", {"AUROC": 0.5, "AUPRO": float("nan")}),
    ]
    return Gallery("Title", NOTICE, {"nut": items}, rows, {"seed": "0"})


class _Sources(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]
        if tag not in ("meta", "img", "link", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_one_self_contained_page(tmp_path: Path) -> None:
    path = write_gallery(_gallery(), tmp_path / "sub" / "gallery.html")
    page = path.read_text(encoding="utf-8")
    parser = _Sources()
    parser.feed(page)
    assert parser.open == []
    assert len(parser.links) == 8
    assert not re.search(r"(https?:)?//\w", re.sub(r"data:image/\w+;base64,[\w+/=]+", "", page))
    assert "@import" not in page
    assert "url(" not in page
    for link in parser.links:
        kind, data = re.fullmatch(r"data:image/(jpeg|png);base64,(.+)", link).groups()
        decoded = cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR)
        assert kind in ("jpeg", "png")
        assert decoded.shape == (107, 160, 3)
    assert list(path.parent.iterdir()) == [path]


def test_notice_is_on_top_and_escaped_and_values_are_shown(tmp_path: Path) -> None:
    page = write_gallery(_gallery(), tmp_path / "gallery.html").read_text(encoding="utf-8")
    assert "No inspector of real parts &lt;really&gt; &amp; truly." in page
    assert page.index("No inspector") < page.index("<table>") < page.index("<figure>")
    assert '<td class="best">91.0</td>' in page
    assert "<td>50.0</td>" in page
    assert "nan" not in page.lower().split("base64")[0]
    assert "0.5012" in page
    assert "prefers-color-scheme: dark" in page
    assert 'name="viewport"' in page


def test_overlay_is_hot_where_the_map_is_high() -> None:
    image = np.full((32, 32, 3), 128, np.uint8)
    anomaly_map = np.zeros((8, 8), np.float32)
    anomaly_map[:, 6:] = 1.0
    overlay = heatmap_overlay(image, anomaly_map, 0.0, 1.0).astype(int)
    assert overlay.shape == (32, 32, 3)
    assert overlay[16, 30, 0] > overlay[16, 30, 2]  # red
    assert overlay[16, 2, 2] > overlay[16, 2, 0]  # blue
    flat = heatmap_overlay(image, np.full((8, 8), 0.3, np.float32), 0.3, 0.3)
    assert np.ptp(flat[..., 0].astype(int)) == 0


def test_range_is_common_to_all_maps() -> None:
    low, high = colour_range([np.zeros((10, 10)), np.ones((10, 10))])
    assert low == pytest.approx(0.0)
    assert high == pytest.approx(1.0)


@pytest.mark.parametrize("anomaly_map", [np.zeros((1, 4, 4)), np.full((4, 4), np.nan)])
def test_maps_that_cannot_be_drawn(anomaly_map: np.ndarray) -> None:
    with pytest.raises(ValueError, match="two-dimensional and finite"):
        heatmap_overlay(np.zeros((8, 8, 3), np.uint8), anomaly_map, 0, 1)


def test_gallery_of_results_shows_the_same_images_of_every_model(tmp_path: Path) -> None:
    rows = write_results(tmp_path, models=2, categories=2, seeds=2, samples=4)
    found = gallery_of(tmp_path, "T", "N", {"image": "image_AUROC"}, each=1, facts={"command": "x"})
    assert list(found.items) == ["category_00", "category_01"]
    for items in found.items.values():
        assert len({item.name.split("/")[0] for item in items}) == len(items)
        assert all(set(item.maps) == set(item.scores) == {"model 0", "model 1"} for item in items)
        assert all(item.mask is not None and 0 < item.mask.mean() < 1 for item in items)
    first = next(
        row for row in rows if row["job"] == {"model": "model 0", "data": "data", "category": "category_00", "seed": 0}
    )
    assert found.rows[0].values["image"] == first["metrics"]["image_AUROC"]
    own = [row["metrics"]["image_AUROC"] for row in rows if row["job"]["model"] == "model 1"]
    assert found.rows[-1].values["image"] == pytest.approx(np.mean(own))
    assert found.rows[-1].category == "mean"
    assert found.facts["command"] == "x"


def test_gallery_of_nothing_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no suite\.json"):
        gallery_of(tmp_path, "T", "N", {})


def test_no_figure_is_best_where_all_are_equal(tmp_path: Path) -> None:
    figures = {"one": (0.7, 0.8), "two": (0.7, 0.9), "three": (0.7, 0.9)}
    rows = [MetricRow("nut", model, {"AUROC": first, "AP": second}) for model, (first, second) in figures.items()]
    page = write_gallery(Gallery("T", NOTICE, {}, rows), tmp_path / "gallery.html").read_text(encoding="utf-8")
    cells = re.findall(r'<td( class="best")?>([\d.]+)</td>', page)
    assert [value for best, value in cells if best] == ["90.0", "90.0"]
    assert [value for best, value in cells if not best] == ["70.0", "80.0", "70.0", "70.0"]


def test_heatmaps_of_results_have_the_scores_that_their_grey_stands_for(tmp_path: Path) -> None:
    rows = write_results(tmp_path, models=2, categories=1, seeds=1, samples=4)
    found = {}
    for scale in (None, [0.2, 0.7]):
        for row in rows:
            path = tmp_path / "rows" / f"{row['id']}.json"
            path.write_text(json.dumps(row if scale is None else row | {"map_scale": scale}))
        (items,) = gallery_of(tmp_path, "T", "N", {}, each=4).items.values()
        found[scale is None] = np.stack([one for item in items for one in item.maps.values()])
    assert found[True].max() <= 1
    assert np.ptp(found[True]) > 0.5
    np.testing.assert_allclose(found[False], 0.2 + 0.5 * found[True], atol=1e-6)


def test_a_figure_is_best_also_beside_an_undefined_one(tmp_path: Path) -> None:
    rows = [MetricRow("nut", model, {"AUROC": value}) for model, value in (("a", float("nan")), ("b", 0.5), ("c", 0.9))]
    page = write_gallery(Gallery("T", NOTICE, {}, rows), tmp_path / "gallery.html").read_text(encoding="utf-8")
    assert re.findall(r'<td( class="best")?>([\d.–]+)</td>', page) == [("", "–"), ("", "50.0"), (' class="best"', "90.0")]
