from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from anomalib.data import ImageBatch
from anomalib.utils.path import generate_output_filename
from anomalib.visualization import ImageVisualizer
from PIL import Image, ImageFont

from anoclip_anomalib.data.pictures import NamedVisualizer


def trainer(folder: Path, *, root: Path | None = None, **datamodule: str) -> SimpleNamespace:
    return SimpleNamespace(
        default_root_dir=folder,
        datamodule=SimpleNamespace(**datamodule) if datamodule else None,
        predicting=root is not None,
        predict_dataloaders=SimpleNamespace(dataset=SimpleNamespace(path=root)),
    )


def draw(visualizer: ImageVisualizer, run: SimpleNamespace, paths: list[str]) -> list[str]:
    for path in map(Path, paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            Image.new("RGB", (8, 8), "grey").save(path)
    maps = torch.rand(len(paths), 8, 8)
    batch = ImageBatch(
        image=torch.rand(len(paths), 3, 8, 8),
        image_path=paths,
        anomaly_map=maps,
        pred_score=torch.rand(len(paths)),
        pred_mask=maps > 0.5,
        pred_label=torch.ones(len(paths), dtype=torch.bool),
    )
    visualizer.on_predict_batch_end(run, None, batch, batch, 0)
    folder = Path(visualizer.output_dir or run.default_root_dir / "images")
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.png"))


@pytest.mark.parametrize("root", [True, False])
def test_no_picture_replaces_another(tmp_path, root):
    paths = [str(tmp_path / name) for name in ("line1/good/001.png", "line2/good/001.png", "line2/GOOD/001.PNG")]
    run = trainer(tmp_path / "out", root=tmp_path if root else None)
    drawn = draw(NamedVisualizer(), run, paths)
    if root:
        assert drawn == [f"{tmp_path.name}/line1/good/001.png", f"{tmp_path.name}/line2/good/001.png"]
    else:
        assert drawn == ["good/001-2.png", "good/001.png"]
    assert len([path for path in (tmp_path / "out/images").rglob("*") if path.is_file()]) == 3


def test_another_run_begins_its_names_anew(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    visualizer, run = NamedVisualizer(), trainer(tmp_path / "out")
    for hook in (visualizer.on_predict_start, visualizer.on_test_start):
        hook(run, None)
        assert draw(visualizer, run, ["good/001.png"]) == ["good/001.png"]


@pytest.mark.parametrize("path", ["MVTecAD/bottle/test/spot/000.png", "elsewhere/spot/000.png"])
def test_pictures_of_data_sets_have_anomalibs_names(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    expected = generate_output_filename(path, tmp_path, "MVTecAD", "bottle", mkdir=False).relative_to(tmp_path)
    run = trainer(tmp_path / "out", name="MVTecAD", category="bottle")
    assert draw(NamedVisualizer(), run, [path]) == [expected.as_posix()]


def test_no_picture_leaves_the_folder(tmp_path, monkeypatch):
    (tmp_path / "1/2/3/MVTecAD/bottle").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "1/2/3")
    run = trainer(tmp_path / "out", name="MVTecAD", category="bottle")
    assert len(draw(NamedVisualizer(output_dir=tmp_path / "a/b"), run, ["MVTecAD/bottle/../../../../x.png"])) == 1


def test_settings_of_another_visualizer_are_kept(tmp_path):
    other = ImageVisualizer(
        fields=["image"],
        overlay_fields=[("image", ["anomaly_map"])],
        field_size=(64, 48),
        fields_config={"image": {"a": 1}},
        overlay_fields_config={"pred_mask": {"alpha": 0.7}},
        text_config={"size": 20},
        output_dir=tmp_path,
    )
    same = NamedVisualizer.like(other)
    for name in vars(other):
        assert getattr(same, name) == getattr(other, name)


def test_the_photograph_is_drawn_as_it_was_read_for_the_prediction(tmp_path):
    """Upright, to the last value where nothing is to be turned; a file that has gone costs its own picture only."""
    photograph = Image.effect_noise((256, 256), 90).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 6
    photograph.save(tmp_path / "a.png")
    photograph.save(tmp_path / "b.png", exif=exif)
    visualizer = NamedVisualizer(fields=["image"], overlay_fields=[("image", ["gt_mask"])], text_config={"enable": False})
    run = trainer(tmp_path / "out", root=tmp_path)
    paths = [str(tmp_path / name) for name in ("a.png", "b.png")]
    assert len(draw(visualizer, run, paths)) == 2
    for name, expected in (("a.png", photograph), ("b.png", photograph.transpose(Image.Transpose.ROTATE_270))):
        drawn = Image.open(tmp_path / "out/images" / tmp_path.name / name).convert("RGB").crop((0, 0, 256, 256))
        assert drawn.tobytes() == expected.tobytes()
    draw_missing = ImageBatch(image=torch.rand(2, 3, 8, 8), image_path=[str(tmp_path / "gone.png"), paths[0]])
    visualizer.on_predict_start(run, None)
    visualizer.on_predict_batch_end(run, None, draw_missing, draw_missing, 0)
    assert not (tmp_path / "out/images" / tmp_path.name / "gone.png").exists()


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1)])
def test_a_photograph_of_one_pixel_does_not_end_the_run(tmp_path, size):
    Image.new("RGB", size, (200, 10, 10)).save(tmp_path / "one.png")
    visualizer = NamedVisualizer(fields=["image"], text_config={"enable": False})
    (name,) = draw(visualizer, trainer(tmp_path / "out", root=tmp_path), [str(tmp_path / "one.png")])
    assert Image.open(tmp_path / "out/images" / name).convert("RGB").getpixel((128, 128)) == (200, 10, 10)


@pytest.mark.parametrize("side", [128, 256, 518])
def test_titles_fit_their_picture(side):
    visualizer = NamedVisualizer(field_size=(side, side))
    title = ImageFont.load_default(size=visualizer.text_config["size"]).getlength("Image + Anomaly Map")
    assert 0.5 * side < title < 0.9 * side
    assert NamedVisualizer(text_config={"size": 30}).text_config["size"] == 30
    assert NamedVisualizer.like(visualizer).text_config == visualizer.text_config
