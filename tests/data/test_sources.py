import subprocess
import sys
from pathlib import Path

import pytest

from anoclip_anomalib.data.sources import DataSpec, GeneratedSpec, read_source

ROOT = Path(__file__).parents[2]


def write(folder: Path, text: str) -> Path:
    path = folder / "source.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", ["visa", "mvtec", "demo"])
def test_the_sources_that_come_with_the_package(name):
    source = read_source(ROOT / "configs/sources" / f"{name}.yaml")
    assert source.seed == 111
    assert source.held_out == 0
    assert bool(source.data) != bool(source.generated)


def test_a_source_with_everything(tmp_path):
    path = write(
        tmp_path,
        """
name: mix
data:
  - {class_path: Visa, init_args: {root: old}, categories: [candle, pcb1]}
  - {class_path: BTech, init_args: {eval_batch_size: 2}}
generated: {images: 10, photos: true}
shots: 4
class_balanced: true
held_out: 0.25
seed: 5
""",
    )
    source = read_source(path, root=tmp_path)
    root = str(tmp_path)
    assert source.data == (
        DataSpec(class_path="Visa", init_args={"root": root}, categories=("candle", "pcb1")),
        DataSpec(class_path="BTech", init_args={"eval_batch_size": 2, "root": root}),
    )
    assert source.generated == GeneratedSpec(images=10, photos=True)
    assert (source.name, source.shots, source.class_balanced, source.held_out, source.seed) == ("mix", 4, True, 0.25, 5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a", "must hold a mapping"),
        ("", "must hold a mapping"),
        ("a: [", "no YAML"),
        ("!!python/object:os.system {}", "no YAML"),
        ("name: x", "names no data"),
        ("data: [{class_path: Visa}]\nshot: 2", "unknown key 'shot'; did you mean shots?"),
        ("data: {class_path: Visa}", "`data` must be a list"),
        ("data: [Visa]", "mapping with `class_path`"),
        ("data: [{class_path: Visa, categories: candle}]", "`categories` a list"),
        ("data: [{class_path: Visa}]\nsplit: train", "only 'test' has"),
        ("data: [{class_path: Visa}]\nshots: 3", "even number"),
        ("data: [{class_path: Visa}]\nheld_out: 1", r"in \[0, 1\)"),
        ("data: [{class_path: Visa}]\nseed: x", "whole number"),
        ("data: [{class_path: Visa}]\nseed: -1", "whole number"),
        ("generated: 5", "must be a mapping"),
        ("generated: {images: 1}", "an even number"),
        ("generated: {images: 5}", "an even number"),
        ("generated: {images: 4, plain: 2}", "from 0 to 1"),
        ("generated: {images: 4, photo: true}", "did you mean photos"),
    ],
)
def test_what_is_wrong_is_said(tmp_path, text, message):
    with pytest.raises(ValueError, match=message) as error:
        read_source(write(tmp_path, text))
    assert "source.yaml" in str(error.value)


def test_no_such_source(tmp_path):
    with pytest.raises(FileNotFoundError, match="No such source"):
        read_source(tmp_path / "x.yaml")


def test_a_source_is_read_without_torch():
    code = (
        "import sys; from anoclip_anomalib.data.sources import read_source; read_source('configs/sources/visa.yaml'); "
        "from anoclip_anomalib.aaclip.settings import Recipe; Recipe().check(); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
