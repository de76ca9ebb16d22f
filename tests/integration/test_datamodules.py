"""Every image datamodule of anomalib, on generated files in its layout, with AnoClip and with adaptation at test time."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import anomalib.data
import numpy as np
import pytest
import tifffile
from anomalib.data import AnomalibDataModule
from anomalib.engine import Engine
from pandas import DataFrame
from PIL import Image

from anoclip_anomalib import TestTimeAdaptation
from anoclip_anomalib.evaluation.left_out import left_out
from tests.mvtec_files import write_mvtec

Layout = Callable[[Path], AnomalibDataModule]
LAYOUTS: dict[str, Layout] = {}


def layout(name: str) -> Callable[[Layout], Layout]:
    """Enter a function that writes 3 flawless and 3 defective test images and opens them with a datamodule."""

    def enter(write: Layout) -> Layout:
        LAYOUTS[name] = write
        return write

    return enter


def opened(datamodule: str, root: Path, **arguments: object) -> AnomalibDataModule:
    return getattr(anomalib.data, datamodule)(root=root, num_workers=0, train_batch_size=4, eval_batch_size=4, **arguments)


@layout("MVTecAD")
def mvtec_ad(root: Path) -> AnomalibDataModule:
    return opened("MVTecAD", write_mvtec(root), category="bottle")


@layout("MPDD")
def mpdd(root: Path) -> AnomalibDataModule:
    return opened("MPDD", write_mvtec(root, ("tubes",)), category="tubes")


@layout("VAD")
def vad(root: Path) -> AnomalibDataModule:
    return opened("VAD", write_mvtec(root, ("vad",)), category="vad")


@layout("Visa")
def visa(root: Path) -> AnomalibDataModule:
    base = write_mvtec(root / "visa_pytorch", ("candle",)) / "candle"
    for part in ("test", "ground_truth"):
        (base / part / "spot").rename(base / part / "bad")
    (root / "split_csv").mkdir()
    return opened("Visa", root, category="candle")


@layout("BTech")
def btech(root: Path) -> AnomalibDataModule:
    base = write_mvtec(root, ("01",)) / "01"
    for part, old, new in (
        ("train", "good", "ok"),
        ("test", "good", "ok"),
        ("test", "spot", "ko"),
        ("ground_truth", "spot", "ko"),
    ):
        (base / part / old).rename(base / part / new)
    for mask in (base / "ground_truth/ko").iterdir():
        mask.rename(mask.with_name(mask.name.replace("_mask", "")))
    return opened("BTech", root, category="01")


@layout("MVTecAD2")
def mvtec_ad2(root: Path) -> AnomalibDataModule:
    base = write_mvtec(root, ("can",)) / "can"
    shutil.copytree(base / "train/good", base / "validation/good")
    (base / "test").rename(base / "test_public")
    (base / "test_public/spot").rename(base / "test_public/bad")
    (base / "test_public/ground_truth").mkdir()
    (base / "ground_truth/spot").rename(base / "test_public/ground_truth/bad")
    return opened("MVTecAD2", root, category="can")


def _mask_in_a_folder(base: Path, name: str) -> None:
    for mask in sorted((base / "ground_truth/spot").glob("*.png")):
        folder = mask.with_name(mask.stem.removesuffix("_mask"))
        folder.mkdir()
        mask.rename(folder / name)


@layout("MVTecLOCO")
def mvtec_loco(root: Path) -> AnomalibDataModule:
    base = write_mvtec(root, ("pushpins",)) / "pushpins"
    shutil.copytree(base / "train/good", base / "validation/good")
    _mask_in_a_folder(base, "000.png")
    return opened("MVTecLOCO", root, category="pushpins")


@layout("AutoVI")
def auto_vi(root: Path) -> AnomalibDataModule:
    _mask_in_a_folder(write_mvtec(root, ("pipe_clip",)) / "pipe_clip", "0000.png")
    return opened("AutoVI", root, category="pipe_clip")


@layout("Kolektor")
def kolektor(root: Path) -> AnomalibDataModule:
    """One fifth of the flawless images is tested."""
    base = write_mvtec(root / "from", good=15) / "bottle"
    (root / "to/kos01").mkdir(parents=True)
    for number, image in enumerate(sorted(base.glob("test/*/*.png"))):
        mask = base / "ground_truth/spot" / f"{image.stem}_mask.png"
        masked = Image.open(mask) if image.parent.name == "spot" else Image.new("L", (64, 64))
        masked.save(root / f"to/kos01/Part{number:02d}_label.bmp")
        Image.open(image).save(root / f"to/kos01/Part{number:02d}.jpg")
    return opened("Kolektor", root / "to")


@layout("BMAD")
def bmad(root: Path) -> AnomalibDataModule:
    base = write_mvtec(root, ("Brain",)) / "Brain"
    for part in ("test", "valid"):
        (root / part).mkdir()
        for kind, source in (("good/img", "test/good"), ("Ungood/img", "test/spot"), ("Ungood/label", "ground_truth/spot")):
            shutil.copytree(base / source, root / part / kind)
    for mask in root.glob("*/Ungood/label/*.png"):
        mask.rename(mask.with_name(mask.name.replace("_mask", "")))
    for old in ("test", "ground_truth"):
        shutil.rmtree(base / old)
    for part in ("test", "valid"):
        (root / part).rename(base / part)
    return opened("BMAD", root, category="Brain")


@layout("RealIAD")
def real_iad(root: Path) -> AnomalibDataModule:
    base = write_mvtec(root / "realiad_256", ("audiojack",)) / "audiojack"

    def entries(pattern: str) -> list[dict[str, str | None]]:
        found = []
        for path in sorted(base.glob(pattern)):
            bad = path.parent.name == "spot"
            mask = f"ground_truth/spot/{path.stem}_mask.png" if bad else None
            found.append(
                {"image_path": str(path.relative_to(base)), "mask_path": mask, "anomaly_class": "spot" if bad else "OK"}
            )
        return found

    path = root / "realiad_jsons/realiad_jsons/audiojack.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"train": entries("train/*/*.png"), "test": entries("test/*/*.png")}))
    return opened(
        "RealIAD", root, category="audiojack", resolution=256, test_split_mode="from_dir"
    )  # else without the flawless ones


@layout("Folder")
def folder(root: Path) -> AnomalibDataModule:
    folders = {"normal_dir": "train/good", "abnormal_dir": "test/spot", "normal_test_dir": "test/good"}
    arguments = {**folders, "mask_dir": "ground_truth/spot", "name": "parts", "val_split_mode": "same_as_test"}
    return opened("Folder", write_mvtec(root) / "bottle", **arguments)


@layout("Tabular")
def tabular(root: Path) -> AnomalibDataModule:
    base = write_mvtec(root) / "bottle"
    images = sorted(base.glob("t*/*/*.png"))
    samples = {
        "image_path": [str(path.relative_to(base)) for path in images],
        "label_index": [int(path.parent.name == "spot") for path in images],
        "split": [path.parts[-3] for path in images],
    }
    return anomalib.data.Tabular(
        name="parts", samples=samples, root=base, num_workers=0, eval_batch_size=4, val_split_mode="same_as_test"
    )


@layout("Datumaro")
def datumaro(root: Path) -> AnomalibDataModule:
    """Flawless images are for training, of which it takes some for the test."""
    base = write_mvtec(root / "from", good=6) / "bottle"
    (root / "images/default").mkdir(parents=True)
    items = []
    for number, path in enumerate(sorted(base.glob("test/*/*.png"))):
        shutil.copy(path, root / f"images/default/{number}.png")
        annotation = {"label_id": int(path.parent.name == "spot")}
        items.append({"id": str(number), "annotations": [annotation], "image": {"path": f"{number}.png"}})
    (root / "annotations").mkdir()
    labels = {"label": {"labels": [{"name": "Normal"}, {"name": "Anomalous"}]}}
    (root / "annotations/default.json").write_text(json.dumps({"categories": labels, "items": items}))
    return opened("Datumaro", root, val_split_mode="same_as_test")


@layout("Kaputt")
def kaputt(root: Path) -> AnomalibDataModule:
    pytest.importorskip("pyarrow")
    base = write_mvtec(root / "from") / "bottle"
    (root / "datasets").mkdir()
    for part, folder in (("train", "train"), ("validation", "test"), ("test", "test")):
        rows = []
        for number, path in enumerate(sorted(base.glob(f"{folder}/*/*.png"))):
            name, bad = f"data/{part}/{number}.png", path.parent.name == "spot"
            mask = base / "ground_truth/spot" / f"{path.stem}_mask.png"
            for kind, source in (("image", path), ("mask", mask)):
                (root / f"query-{kind}/data/{part}").mkdir(parents=True, exist_ok=True)
                if bad or kind == "image":
                    shutil.copy(source, root / f"query-{kind}" / name)
            row = {
                "capture_id": str(number),
                "item_material": "book_other",
                "defect": bad,
                "defect_types": "x" if bad else None,
            }
            rows.append({**row, "query_image": name, "query_crop": name, "query_mask": name})
        DataFrame(rows).to_parquet(root / f"datasets/query-{part}.parquet")
    return opened("Kaputt", root, category="book_other")


def _with_depth(root: Path, category: str) -> Path:
    base = write_mvtec(root, (category,)) / category
    for folder in [path for path in base.glob("t*/*") if path.is_dir()]:
        images = sorted(folder.glob("*.png"))
        for part in ("rgb", "xyz", "gt"):
            (folder / part).mkdir()
        for image in images:
            tifffile.imwrite(folder / "xyz" / f"{image.stem}.tiff", np.zeros((64, 64, 3), np.float32))
            mask = base / "ground_truth/spot" / f"{image.stem}_mask.png"
            masked = Image.open(mask) if folder.name == "spot" else Image.new("L", (64, 64))
            masked.save(folder / "gt" / image.name)
            image.rename(folder / "rgb" / image.name)
    shutil.rmtree(base / "ground_truth")
    shutil.copytree(base / "train", base / "validation")
    return root


@layout("MVTec3D")
def mvtec_3d(root: Path) -> AnomalibDataModule:
    return opened("MVTec3D", _with_depth(root, "bagel"), category="bagel")


@layout("Folder3D")
def folder_3d(root: Path) -> AnomalibDataModule:
    base = _with_depth(root, "parts") / "parts"
    folders = {"normal": "train/good", "abnormal": "test/spot", "normal_test": "test/good"}
    arguments = {f"{kind}_dir": f"{folder}/rgb" for kind, folder in folders.items()}
    arguments |= {f"{kind}_depth_dir": f"{folder}/xyz" for kind, folder in folders.items()}
    return opened("Folder3D", base, name="parts", mask_dir="test/spot/gt", val_split_mode="same_as_test", **arguments)


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_datamodule_is_measured_with_and_without_adaptation(anoclip, tmp_path, name):
    datamodule = LAYOUTS[name](tmp_path / "data")
    category = getattr(datamodule, "category", None)
    quiet = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    figures = []
    for callbacks in ([], [TestTimeAdaptation(adapter="linear", steps=1)]):
        model = anoclip()
        engine = Engine(default_root_dir=tmp_path / "results", callbacks=callbacks, **quiet)
        figures += engine.test(model, datamodule=datamodule, verbose=False)
        assert model.model.class_name == (str(category) if category else "object")
    assert len(datamodule.test_dataloader().dataset) == 6
    assert left_out(datamodule) == []
    plain, adapted = figures
    assert plain["raw_ImageAUROC"] == adapted["raw_ImageAUROC"]  # adaptation leaves the image score alone
    assert 0.0 <= plain["raw_ImageAUROC"] <= 1.0
    masks = datamodule.test_data.task == "segmentation"
    assert np.isfinite(plain["raw_PixelAUROC"]) == np.isfinite(adapted["raw_AUPRO"]) == masks
