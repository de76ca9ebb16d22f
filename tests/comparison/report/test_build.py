import csv
import json
import re
import shutil
import time
from html.parser import HTMLParser

import pytest
import yaml

from anoclip_anomalib.cli.report import main
from anoclip_anomalib.comparison.report.build import build_report
from anoclip_anomalib.comparison.report.quoted import load_quoted
from anoclip_anomalib.comparison.report.tables import METRIC_TITLES
from anoclip_anomalib.comparison.report.text import csv_text
from anoclip_anomalib.comparison.run.folder import ResultsError

from .generated import save, write_results


class Reader(HTMLParser):
    """Collects tags, addresses and text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.text: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.addresses += [value for key, value in attributes if key in ("src", "href", "action", "data", "srcset")]

    def handle_data(self, data):
        self.text.append(data)


def test_html_opens_offline_and_holds_every_part(tmp_path):
    write_results(tmp_path)
    html = next(path for path in build_report(tmp_path) if path.suffix == ".html").read_text()
    page = Reader(html)
    assert all(address.startswith(("#", "data:image/")) for address in page.addresses)
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", html)
    assert "link" not in page.tags
    assert page.tags.count("img") >= 3 * 5
    text = " ".join(page.text)
    for words in (
        "mean over 3 categories",
        "By category",
        "Score",
        "Speed and memory",
        "Provenance",
        "worst",
        "disputed",
        "model 1 adapts",
    ):
        assert words.lower() in text.lower(), words
    # Five kinds of curves, of the mean and of three categories with a histogram of each model, and a chart for each metric.
    assert page.tags.count("svg") == 5 + 3 * (5 + 3) + len(METRIC_TITLES)
    assert page.tags.count("caption") == page.tags.count("table")
    assert not re.search(r"<th(?! scope=)[ >]", html)


def test_names_from_data_cannot_break_out(tmp_path):
    rows = write_results(tmp_path, models=1, categories=1, seeds=1)
    evil = "</script><script>alert(1)</script>|&_"
    suite = json.loads((tmp_path / "suite.json").read_text())
    suite["models"] = [evil]
    suite["name"] = "<img src=x onerror=alert(1)>"
    suite["data"] = {"<i>data": ["<b>category"]}
    (tmp_path / "suite.json").write_text(json.dumps(suite))
    rows[0]["job"] |= {"model": evil, "data": "<i>data", "category": "<b>category"}
    rows[0]["provenance"]["note"] = "[click](javascript:alert(1)) `code`"
    for image in rows[0]["images"]:
        image[0] = f"<svg onload=alert(1)>/{image[0].rpartition('/')[2]}"
    save(tmp_path, rows[0])
    build_report(tmp_path)
    html = (tmp_path / "report.html").read_text()
    assert "<script>alert" not in html
    assert "<img src=x" not in html
    assert not re.search("<svg onload|<i>|<b>category", html)
    assert Reader(html).tags.count("script") == 1
    markdown = (tmp_path / "report.md").read_text()
    assert "\\|&amp;_" in markdown
    assert not re.search("<(?!u>|/u>)", markdown)
    assert "\\&\\_" in (tmp_path / "tables.tex").read_text()


def test_a_formula_in_a_name_is_text_in_the_csv(tmp_path):
    rows = write_results(tmp_path, models=1, categories=1, seeds=1)
    suite = json.loads((tmp_path / "suite.json").read_text())
    suite["models"] = ["=cmd|' /C calc'!A0"]
    (tmp_path / "suite.json").write_text(json.dumps(suite))
    rows[0]["job"]["model"] = suite["models"][0]
    rows[0]["metrics"]["AUPRO"] = -0.5
    rows[0]["provenance"]["config"]["model"]["spec"]["init_args"] = {"@x": "+1+1"}
    save(tmp_path, rows[0])
    build_report(tmp_path)
    with (tmp_path / "jobs.csv").open(newline="") as file:
        line = next(csv.DictReader(file))
    assert line["model"] == "'=cmd|' /C calc'!A0"
    assert line["AUPRO"] == "-0.5"
    assert line["config.model.spec.init_args.@x"] == "'+1+1"


def test_what_makes_figures_doubtful_is_said(tmp_path):
    rows = write_results(tmp_path, models=2, categories=1, seeds=1)
    words = ["Thresholds rest on 4 normal images only", "kept up to 1.5 CPU cores busy", "keep no scores of single images"]
    build_report(tmp_path)
    assert not any(word in (tmp_path / "report.html").read_text() for word in words)
    rows[0]["counts"]["reference_images"] = 4
    rows[0]["speed"]["other_load"] = 1.5
    del rows[1]["images"]
    for row in rows:
        save(tmp_path, row)
    build_report(tmp_path)
    for name in ("report.html", "report.md"):
        assert all(word in (tmp_path / name).read_text() for word in words)
    html = (tmp_path / "report.html").read_text()
    assert re.search(r"reference images</th><td>4</td><td>30</td>", html)


def test_failed_missing_and_damaged_jobs_show(tmp_path):
    rows = write_results(tmp_path, models=2, categories=2, seeds=1)
    rows[0] = {k: rows[0][k] for k in ("format", "id", "job")} | {
        "status": "failed", "error": {"type": "ValueError", "message": "broken on purpose", "traceback": "Traceback"},
    }  # fmt: skip
    save(tmp_path, rows[0])
    (tmp_path / "rows" / f"{rows[1]['id']}.json").write_text("{")
    build_report(tmp_path)
    html = (tmp_path / "report.html").read_text()
    assert "broken on purpose" in html
    assert f"{rows[1]['id']}.json is damaged" in html
    assert "1 of 2 categories" in html
    with (tmp_path / "jobs.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["status"] for line in lines] == ["failed", "done", "done"]
    assert float(lines[1]["fit_duration"]) == 0
    assert float(lines[1]["test_duration"]) == 9
    assert {"accelerator", "job_duration", "fit_duration", "test_duration"} <= set(lines[0])  # anomalib's columns
    assert lines[1]["hardware.processor"] == "x"
    assert lines[1]["preprocessing.resize"] == "bilinear"


def test_best_and_second_best_are_marked_in_every_format(tmp_path):
    rows = write_results(tmp_path, models=3, categories=1, seeds=1)
    for row, value in zip(rows, (0.9, 0.8, 0.7), strict=True):
        row["metrics"] = {"AUPRO": value}
        save(tmp_path, row)
    build_report(tmp_path)
    markdown = (tmp_path / "report.md").read_text()
    assert "| model 0 | **90.00** |\n| model 1 | <u>80.00</u> |\n| model 2 | 70.00 |" in markdown
    assert "| category_00 | **90.00** | <u>80.00</u> | 70.00 |\n| mean |" in markdown
    lines = (tmp_path / "tables.tex").read_text().splitlines()
    assert [line for line in lines if line.startswith("model ")] == [
        r"model 0 & \textbf{90.0} \\", r"model 1 & \underline{80.0} \\", r"model 2 & 70.0 \\"
    ]  # fmt: skip
    html = (tmp_path / "report.html").read_text()
    assert re.findall(r'data-value="0\.\d" class="(\w+)"', html)[:2] == ["first", "second"]


def test_quoted_figures_are_marked_and_only_on_the_whole_data_set(tmp_path):
    rows = write_results(tmp_path, models=2, categories=1, seeds=1)
    build_report(tmp_path, quoted=True)
    assert "Quoted" not in (tmp_path / "report.html").read_text()  # one category is not MVTec AD
    own = tmp_path / "own.yaml"
    own.write_text("MVTecAD:\n  Other: {image_AUROC: 91.5, source: a paper}\n")
    build_report(tmp_path, quoted_file=own, quoted=True)
    html = (tmp_path / "report.html").read_text()
    assert "Quoted from publications, not measured here" in html
    assert 'class="quoted">quoted: Other' in html
    assert "91.50" in html
    assert "*quoted:* Other" in (tmp_path / "report.md").read_text()
    assert "Quoted, not measured here" in (tmp_path / "tables.tex").read_text()
    assert rows[0]["job"]["model"] in html


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("{image_AUROC: 91.5}", "needs its source"),
        ("{image_AUC: 91.5, source: x}", "unknown metric"),
        ("{image_AUROC: 910, source: x}", "percentage"),
    ],
)
def test_wrong_quotes_are_refused(tmp_path, entry, message):
    path = tmp_path / "quoted.yaml"
    path.write_text(f"MVTecAD:\n  Other: {entry}\n")
    with pytest.raises(ValueError, match=message):
        load_quoted("MVTecAD", path)


def test_our_quotes_have_sources_and_no_doubtful_figure():
    from anoclip_anomalib.comparison.report import quoted

    text = (quoted.files(quoted.__package__) / "quoted.yaml").read_text()
    assert "?" not in text
    for data in yaml.safe_load(text):
        assert all(entry.source and entry.trained_on and entry.metrics for entry in load_quoted(data))


def test_command(tmp_path, capsys):
    assert main([str(tmp_path)]) == 2
    assert "no results folder" in capsys.readouterr().err
    write_results(tmp_path / "r", models=1, categories=1, seeds=1)
    assert main([str(tmp_path / "r"), "-o", str(tmp_path / "out")]) == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"report.html", "report.md", "jobs.csv", "tables.tex"}
    shutil.rmtree(tmp_path / "r" / "rows")
    with pytest.raises(ResultsError, match="no results yet"):
        build_report(tmp_path / "r")


def test_command_on_a_folder_of_several_results(tmp_path, capsys):
    for name in ("a", "b"):
        write_results(tmp_path / "all" / name, models=1, categories=1, seeds=1)
    (tmp_path / "all" / "other").mkdir()
    assert main([str(tmp_path / "all")]) == 0
    assert all((tmp_path / "all" / name / "report.html").exists() for name in ("a", "b"))
    shutil.rmtree(tmp_path / "all" / "a" / "rows")
    assert main([str(tmp_path / "all"), "-o", str(tmp_path / "out")]) == 2  # a has no row, b gets its report all the same
    assert f"{tmp_path / 'all' / 'a'} has no results yet" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["b"]


def test_lost_pictures_cost_no_report(tmp_path):
    write_results(tmp_path, models=2, categories=2, seeds=1)
    for path in list((tmp_path / "pictures").iterdir())[::2]:
        path.write_bytes(b"x")
    assert len(build_report(tmp_path)) == 4


@pytest.mark.parametrize(("models", "categories", "seeds"), [(6, 15, 3)])
def test_a_large_report_is_fast_and_small(tmp_path, models, categories, seeds):
    write_results(tmp_path, models, categories, seeds, samples=4)
    start = time.monotonic()
    path = build_report(tmp_path)[0]
    assert time.monotonic() - start < 30
    assert path.stat().st_size < 20e6


def test_scripts_run_in_a_browser(tmp_path, in_browser):
    write_results(tmp_path, models=2, categories=2, seeds=1)
    path = build_report(tmp_path)[0]
    shown = in_browser(path)
    # One metric of each choice is shown.
    hidden = len(re.findall('data-choice="[^"]*" hidden', shown))
    assert hidden == 2 * (len(METRIC_TITLES) - 1) + 1
    # A click on a heading sorts, another choice shows another table, Escape puts an enlarged picture back.
    act = (
        "<script>document.querySelectorAll('table.sortable thead button')[1].click();"
        "const s = document.querySelector('.chooser select'); s.selectedIndex = 2; s.dispatchEvent(new Event('change'));"
        "const box = document.querySelector('.zoom input'); box.click(); document.title = box.checked;"
        "document.dispatchEvent(new KeyboardEvent('keydown', {key: 'Escape'})); document.title += box.checked;</script>"
    )
    clicked = tmp_path / "clicked.html"
    clicked.write_text(path.read_text().replace("</body>", act + "</body>"))
    document = in_browser(clicked)
    assert "<title>truefalse</title>" in document
    shown = [words for words in METRIC_TITLES.values() if f'data-choice="{words}"><table' in document.split("By defect")[0]]
    assert shown == [list(METRIC_TITLES.values())[2]]
    table = document.split('<table class="sortable">')[1].split("</table>")[0]
    values = [float(row.split('data-value="')[2].split('"')[0]) for row in table.split("<tbody>")[1].split("<tr>")[1:]]
    assert len(values) == 2
    assert values == sorted(values, reverse=True)


def test_whole_numbers_beside_missing_ones_stay_whole_in_the_csv():
    rows = [{"job": {"seed": seed}, "status": "done", **more} for seed, more in enumerate(({"speed": {"threads": 3}}, {}))]
    first, second = csv.DictReader(csv_text(rows).splitlines())
    assert (first["threads"], second["threads"]) == ("3", "")
