"""The page of an inspection, read as a browser and as a screen reader read it."""

import base64
import csv
import hashlib
import json
import re
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image

from anoclip_anomalib.inspection import page as module
from anoclip_anomalib.inspection.page import write_page

COLUMNS = ("path", "score", "rank", "z", "verdict", "threshold", "picture", "regions", "fault")
DECISION = {
    "image_threshold": 0.6,
    "pixel_threshold": 0.7,
    "rule": "a quantile of 4 good images",
    "expected_false_alarm_rate": 0.2,
    "good": [{"path": f"good/{index}.jpg", "score": 0.5 + index / 20} for index in range(4)],
}


class Page(HTMLParser):
    """Elements with their attributes and the text inside."""

    VOID = ("meta", "input", "img", "br", "rect")

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.found: list[tuple[str, dict, list[str]]] = []
        self._open: list[tuple[str, dict, list[str]]] = []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        assert not self._open, "elements that are not closed"

    def handle_starttag(self, tag, attributes):
        element = (tag, dict(attributes), [])
        assert len(attributes) == len(element[1]), "an attribute is there twice"
        self.found.append(element)
        if tag not in self.VOID:
            self._open.append(element)

    def handle_startendtag(self, tag, attributes):
        self.found.append((tag, dict(attributes), []))

    def handle_endtag(self, tag):
        assert self._open.pop()[0] == tag

    def handle_data(self, data):
        for _, _, text in self._open:
            text.append(data)

    def all(self, tag, **wanted):
        return [
            (attributes, " ".join("".join(text).split()))
            for name, attributes, text in self.found
            if name == tag and all(attributes.get(key.strip("_").replace("_", "-")) == value for key, value in wanted.items())
        ]

    def cells(self, name):
        return [text for tag in ("td", "th") for attributes, text in self.all(tag) if attributes.get("class") == name]

    @property
    def addresses(self):
        return [attributes[key] for _, attributes, _ in self.found for key in ("src", "href") if key in attributes]


def write_run(folder: Path, rows, decision=DECISION, complete=True, side=8, **facts) -> Path:
    """A results folder; a row is (path, score, picture) or (path, fault)."""
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    with (folder / "results.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        ranked = sorted((row[1] for row in rows if len(row) == 3), reverse=True)
        for row in rows:
            if len(row) == 2:
                writer.writerow({"path": row[0], "fault": row[1]})
                continue
            path, score, picture = row
            verdict = "" if decision is None else "defect" if score > decision["image_threshold"] else "good"
            regions = json.dumps(
                [{"box": [0, 0, 2, 2], "area": 4, "peak": score}, {"box": [4, 4, 5, 5], "area": 1, "peak": 0.1}]
            )
            cells = (path, score, ranked.index(score) + 1, (score - 0.5) / 0.1, verdict, "", picture, regions, "")
            writer.writerow(dict(zip(COLUMNS, cells, strict=True)))
            if picture.startswith("pictures/") and not re.search(r"\.\.|link", picture):
                name = picture.removeprefix("pictures/").removesuffix(".png")
                for target in (picture, f"page/{name}.photo.jpg", f"page/{name}.heat.jpg"):
                    (folder / target).parent.mkdir(parents=True, exist_ok=True)
                    Image.fromarray(rng.integers(0, 255, (side, 2 * side, 3), dtype=np.uint8)).save(folder / target)
    run = {"facts": {"product": "cookie", "model": "AnoClip"} | facts, "decision": decision, "contrast": [0.2, 0.9]}
    run |= {
        "counts": {},
        "complete": complete,
        "started": "2026-01-02T03:04:05",
        "seconds": 2.0,
        "command": "anoclip inspect x",
    }
    (folder / "run.json").write_text(json.dumps(run), encoding="utf-8")
    return folder


def some(count: int) -> list[tuple]:
    return [
        (f"/data/line {i % 2}/{i}.jpg", round(0.4 + 0.4 * i / count, 3), f"pictures/line {i % 2}/{i}.png") for i in range(count)
    ]


def test_photographs_are_ranked_with_score_z_and_verdict(tmp_path):
    page = Page(write_page(write_run(tmp_path, some(4))))
    assert page.cells("name") == ["line 1/3.jpg", "line 0/2.jpg", "line 1/1.jpg", "line 0/0.jpg"]
    assert page.cells("rank") == ["1", "2", "3", "4"]
    assert page.cells("score") == ["score 0.7000", "score 0.6000", "score 0.5000", "score 0.4000"]
    assert page.cells("z") == ["z +2.0", "z +1.0", "z +0.0", "z -1.0"]
    assert page.cells("verdict") == ["defect", "good", "good", "good"]
    assert page.cells("regions")[0] == "2 regions, peak 0.7000"
    tiles = dict(zip((text for _, text in page.all("dt")), (text for _, text in page.all("dd")), strict=True))
    shown = {"photographs": "4", "defects": "1", "good": "3", "threshold": "0.6000", "false alarms expected, at most": "20 %"}
    assert shown.items() <= tiles.items()
    assert "a quantile of 4 good images" in page.source


def test_without_a_decision_there_is_rank_and_z_and_the_way_to_one(tmp_path):
    page = Page(write_page(write_run(tmp_path, some(4), decision=None)))
    assert page.cells("verdict") == [""] * 4
    assert page.cells("z")[0] == "z +2.0"
    assert any("--good FOLDER" in text for _, text in page.all("p"))
    assert "data-threshold" not in page.all("body")[0][0]
    assert not {"defects", "good", "threshold"} & {text for _, text in page.all("dt")}


def test_no_name_does_harm(tmp_path):
    hostile = [
        "<script>alert(1)</script>",
        "\" onerror='x' x=\"",
        "&lt;b&gt;",
        "a\nb",
        "{{ 7 * 7 }}",
        "-->",
        "</td></table>",
        "\\xff",
    ]
    rows = [(f"/data/{name}", 0.1 * index, f"pictures/{index}.png") for index, name in enumerate(hostile)]
    rows += [("/data/<img src=x>", "cannot <b>read</b>\x00")]
    page = Page(write_page(write_run(tmp_path, rows, product="<script>x</script>", note="\udcff")))
    assert page.cells("name") == [name.replace("\n", "\\n") for name in reversed(hostile)]
    scripts = page.all("script")
    assert len(scripts) == 1
    assert not any(key.startswith("on") for _, attributes, _ in page.found for key in attributes)
    assert "cannot <b>read</b>\\x00" in [text for _, text in page.all("td")]
    assert "\x00" not in page.source
    assert not [tag for tag, *_ in page.found if tag in ("iframe", "object", "embed", "link", "base")]


def test_no_network_and_no_other_script(tmp_path):
    page = Page(write_page(write_run(tmp_path, some(2))))
    script = files("anoclip_anomalib.inspection").joinpath("page.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    ((policy, _),) = page.all("meta", http_equiv="Content-Security-Policy")
    assert f"script-src 'sha256-{digest}'" in policy["content"]
    assert "default-src 'none'" in policy["content"]
    assert f"<script>{script}</script>" in page.source
    assert all(re.match(r"(data:image/(jpeg|webp);base64,|pictures/|#faults$)", address) for address in page.addresses)
    assert "url(" not in page.source
    assert "@import" not in page.source


def test_few_photographs_are_one_file(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "EMBEDDED", 3)  # no less than these
    folder = write_run(tmp_path, some(3))
    photo = (folder / "page/line 1/1.photo.jpg").read_bytes()
    page = Page(write_page(folder))
    sources = [attributes["src"] for attributes, _ in page.all("img", class_="photo")]
    assert base64.b64decode(sources[1].partition(",")[2]) == photo
    assert len(page.all("img", class_="heat")) == 3
    assert not (folder / "page").exists()
    assert (folder / "pictures/line 1/1.png").exists()
    again = Page(write_page(folder))  # what is left is shown
    assert [attributes["src"] for attributes, _ in again.all("img", class_="photo")][1] == "pictures/line%201/1.png"


def test_what_a_stopped_run_goes_on_with_is_kept(tmp_path):
    folder = write_run(tmp_path, some(3), complete=False)
    page = Page(write_page(folder))
    assert (folder / "page").exists()
    assert any("--resume" in text for _, text in page.all("p"))


def test_many_photographs_stay_beside_the_page(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "EMBEDDED", 3)
    odd = ["a b#c?.png", "ü%20.png", "javascript:x.png", "'\".png"]
    folder = write_run(tmp_path, [(name, index / 10, f"pictures/{name}") for index, name in enumerate(odd)])
    page = Page(write_page(folder))
    assert (folder / "page").exists()
    assert len(page.addresses) == 3 * len(odd)
    for address in page.addresses:
        assert not re.search(r"[ #?:'\"]", address)
        assert (folder / unquote(address)).is_file()
    assert all(attributes["loading"] == "lazy" for attributes, _ in page.all("img"))


def test_three_hundred_are_embedded_and_one_more_is_not():
    assert module.EMBEDDED == 300


def test_large_photographs_are_made_smaller_when_they_are_embedded(tmp_path, monkeypatch):
    folder = write_run(tmp_path, some(2), side=40)
    photographs = sum(path.stat().st_size for path in folder.rglob("*.photo.jpg"))
    monkeypatch.setattr(module, "EMBEDDED_BYTES", photographs + 1)  # their heat counts too
    monkeypatch.setattr(module, "EMBEDDED_SIDE", 16)
    page = Page(write_page(folder))
    for attributes, _ in page.all("img"):
        content = base64.b64decode(attributes["src"].partition("data:image/webp;base64,")[2])
        (tmp_path / "one.webp").write_bytes(content)
        assert Image.open(tmp_path / "one.webp").size == (16, 8)


@pytest.mark.parametrize("picture", ["../secret.png", "pictures/../../secret.png", "pictures/link.png", "/etc/hostname", ""])
def test_nothing_outside_of_the_folder_is_shown(tmp_path, picture):
    folder = write_run(tmp_path / "run", [("a.jpg", 0.5, picture)])
    for name in ("secret.png", "secret.photo.jpg", "page/secret.photo.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    (folder / "pictures").mkdir()
    (folder / "pictures/link.png").symlink_to(tmp_path / "secret.png")
    page = Page(write_page(folder))
    assert not page.all("img")
    assert "no picture was kept" in page.source


def test_what_was_not_inspected_is_listed(tmp_path):
    folder = write_run(tmp_path, [*some(2), ("/data/broken.jpg", "truncated")])
    with (folder / "results.csv").open("a") as file:
        file.write("/data/half")  # a line that was not finished
    page = Page(write_page(folder))
    listed = page.source.partition('id="faults"')[2]
    assert re.search(r"/data/broken.jpg</th><td>truncated", listed)
    assert re.search(r"/data/half</th><td>its line has no score", listed)
    assert any(text.startswith("2 not inspected") for _, text in page.all("p"))


def test_screen_readers_find_captions_scopes_and_names(tmp_path):
    page = Page(write_page(write_run(tmp_path, [*some(2), ("/data/x", "y")])))
    tables = page.all("table")
    assert len(page.all("caption")) == len(tables) == 4
    assert all("scope" in attributes for attributes, _ in page.all("th"))
    assert all("alt" in attributes for attributes, _ in page.all("img"))
    assert page.all("html")[0][0]["lang"] == "en"
    labels = " ".join(text for _, text in page.all("label"))
    named = re.findall(r"<label[^>]*>.*?</label>", page.source, re.S)
    for attributes, _ in page.all("input"):
        element = f'id="{attributes["id"]}"' if "id" in attributes else f'value="{attributes["value"]}"'
        assert "aria-label" in attributes or any(element in label for label in named), attributes
    assert "Threshold" in labels
    assert all("aria-label" in attributes for attributes, _ in page.all("a", class_="open"))
    ((cards, _),) = page.all("table", role="table")
    assert cards["id"] == "photographs"
    assert len(page.all("td", role="cell")) == 2 * 6


def test_a_page_that_cannot_be_finished_leaves_the_old_one(tmp_path, monkeypatch):
    folder = write_run(tmp_path, some(2), complete=False)
    old = write_page(folder).read_bytes()

    def full(path):
        raise OSError("disk full")

    monkeypatch.setattr(module, "_aspect", full)
    with pytest.raises(OSError, match="disk full"):
        write_page(folder)
    assert (folder / "index.html").read_bytes() == old
    assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == []


def test_a_damaged_picture_is_left_out(tmp_path):
    folder = write_run(tmp_path, some(3))
    (folder / "page/line 0/0.heat.jpg").write_bytes(b"no picture")
    (folder / "page/line 1/1.photo.jpg").write_bytes(b"no picture")
    page = Page(write_page(folder))
    shown = {attributes["alt"]: attributes["src"][:16] for attributes, _ in page.all("img", class_="photo")}
    assert sorted(shown.values()) == ["data:image/jpeg;", "data:image/jpeg;", "pictures/line%20"]
    assert len(page.all("img", class_="heat")) == 1


def test_of_very_many_the_most_unusual_are_shown(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SHOWN", 3)
    page = Page(write_page(write_run(tmp_path, some(5))))
    assert page.cells("rank") == ["1", "2", "3"]
    assert any("The 3 most unusual of 5" in text for _, text in page.all("p"))


@pytest.mark.parametrize("scores", [[], [0.5], [0.5, 0.5]])
def test_hardly_any_photographs(tmp_path, scores):
    rows = [(f"{index}.jpg", score, f"pictures/{index}.png") for index, score in enumerate(scores)]
    page = Page(write_page(write_run(tmp_path, rows, decision=None)))
    assert len(page.cells("rank")) == len(scores)


def test_the_slider_counts_and_the_filter_hides(tmp_path, in_browser):
    path = write_page(write_run(tmp_path, some(4)))
    act = """
      const element = id => document.getElementById(id);
      const set = (id, value) => { element(id).value = value; element(id).dispatchEvent(new Event("input")); };
      window.requestAnimationFrame = act => act();
      set("slider", 0.5);
      document.querySelector("[value=defect]").click();
      set("find", "line 1");
      const shown = [...document.querySelectorAll("tbody tr:not([hidden]) .name")].map(name => name.textContent);
      document.title = [counted.textContent, shown].join("|");
    """
    source = re.sub(r'<meta http-equiv="Content-Security-Policy".*', "", path.read_text(encoding="utf-8"))
    path.write_text(source.replace("</body>", f"<script>{act}</script></body>"), encoding="utf-8")
    title = re.search(r"<title>(.*?)</title>", in_browser(path))
    assert title is not None
    expected = "2 of 4 photographs are defects; 3 of 4 good examples would be false alarms · use it with --threshold 0.5"
    assert title[1] == f"{expected}|line 1/3.jpg"
