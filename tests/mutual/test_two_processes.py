"""Neighbours in two gloo processes: what one process finds, or a message."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.mvtec_files import write_mvtec

SCRIPT = """
import json, sys
import torch
from anomalib.data import MVTecAD
from anomalib.engine import Engine
from anoclip_anomalib import AnoClip, MutualClip
from anoclip_anomalib.data import FolderImages

root, out, devices = sys.argv[1:]
torch.set_num_threads(1)
common = {"backbone": "demo", "image_size": 64, "visualizer": False}
several = {"strategy": "ddp_find_unused_parameters_false"} if devices != "1" else {}
pool = {"pool": f"{out}/pool.safetensors"}
results = {}
for name, make in {
    "few": lambda: AnoClip(**common, k_shot=2, k_seed=1),
    "folder": lambda: AnoClip(**common, normal_images=f"{root}/bottle/train/good"),
    "mutual": lambda: MutualClip(**common),
    "pool": lambda: MutualClip(**common, **pool),
}.items():
    engine = Engine(
        accelerator="cpu", devices=int(devices), default_root_dir=f"{out}/{name}{devices}", logger=False,
        enable_progress_bar=False, enable_model_summary=False, **several,
    )
    data = MVTecAD(root=root, category="bottle", num_workers=0, eval_batch_size=2)
    model = make()
    results[name] = engine.test(model, datamodule=data, verbose=False)[0]
    if name == "few":
        results["chosen"] = model.normals._remembered
try:
    engine.predict(MutualClip(**common), dataset=FolderImages(f"{root}/bottle/test"), return_predictions=False)
    results["predict"] = "no fault"
except ValueError as error:
    results["predict"] = str(error)
with open(f"{out}/{devices}-{engine.trainer.global_rank}.json", "w") as file:
    json.dump(results, file)
"""


@pytest.mark.slow
def test_two_processes_find_what_one_does(tmp_path):
    from anoclip_anomalib.cli.main import main

    root = write_mvtec(tmp_path / "data", good=3, defects=4)
    build = ["pool", "build", str(root / "bottle/test"), "--out", str(tmp_path / "pool.safetensors")]
    assert main([*build, "--backbone", "demo", "--image_size", "64"]) == 0
    (tmp_path / "script.py").write_text(SCRIPT)
    for devices in ("1", "2"):
        command = [sys.executable, str(tmp_path / "script.py"), str(root), str(tmp_path), devices]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, cwd=Path.cwd())
        assert done.returncode == 0, done.stderr[-3000:]
    one, *two = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("1-0", "2-0", "2-1"))
    for rank in two:
        assert rank["chosen"] == one["chosen"]
        for name in ("few", "folder", "mutual", "pool"):
            for metric in ("raw_ImageAUROC", "raw_PixelAUROC"):
                assert rank[name][metric] == pytest.approx(one[name][metric], abs=1e-5), (name, metric)
        assert "this method needs all images in each: use --trainer.devices 1" in rank["predict"]
    assert one["predict"] == "no fault"
