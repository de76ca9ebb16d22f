"""The same weights give the same results under open_clip 2.24 and the installed version."""

import json
import os
import subprocess
import sys
from pathlib import Path

import open_clip
import torch
from safetensors.torch import load_file

from tests.architectures import ARCHITECTURES, SUPPORTED

ROOT = Path(__file__).parents[2]
NAMES = [name for name in SUPPORTED if name != "tiny-patch8"]

SCRIPT = """
import json, sys
folder, names, out = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3]
import open_clip, torch
from safetensors.torch import save_file
from anoclip_anomalib.clip import LoadedClip, TextEncoder, VisualEncoder, embed_class, load_clip
from anoclip_anomalib.clip.weights import _load_clip
from anoclip_anomalib.prompts import PromptBuilder
torch.set_num_threads(1)
open_clip.add_model_config(folder)
prompts = PromptBuilder(templates=["a {}", "a {domain} of the {} for visual inspection"]).sentences("metal_nut")
results = {}
for name in names:
    clip = load_clip(name, f"{folder}/{name}.safetensors")
    encoder = VisualEncoder(clip.model.visual)
    for kind, size in (("native", encoder.image_size), ("larger", [2 * n for n in encoder.image_size])):
        x = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            encoded = encoder(x)
            results[f"{name} {kind} class token"] = encoded.class_token
            results[f"{name} {kind} patch tokens"] = encoded.patch_tokens.contiguous()
            if kind == "native":
                results[f"{name} encode_image"] = clip.model.encode_image(x)
    text = embed_class(
        TextEncoder(clip, cache_dir=out + ".cache"), prompts.normal_sentences, prompts.abnormal_sentences
    )
    results[f"{name} text"] = text.class_embeddings
    results[f"{name} prompt bank"] = text.prompt_bank
    from anoclip_anomalib import AnoClipModel
    model = AnoClipModel(
        backbone=name, pretrained=f"{folder}/{name}.safetensors", class_name="metal_nut", tiling="square",
        text_cache_dir=out + ".cache", prompts={"templates": ["a {}"]},
    ) if encoder.image_size[0] == encoder.image_size[1] else None
    if model is not None:
        side = encoder.image_size[0]
        with torch.no_grad():
            scores = model(torch.randn(2, 3, side, side * 3 // 2, generator=torch.Generator().manual_seed(1)))
        results[f"{name} score"], results[f"{name} map"] = scores.pred_score, scores.anomaly_map
    for activation in ("gelu", "quick_gelu"):
        other = load_clip(name, f"{folder}/{name}.safetensors", activation=activation)
        with torch.no_grad():
            x = torch.randn(1, 3, *encoder.image_size, generator=torch.Generator().manual_seed(0))
            results[f"{name} {activation}"] = VisualEncoder(other.model.visual)(x).patch_tokens.contiguous()
        results[f"{name} {activation} text"] = TextEncoder(other, cache_dir=out + ".cache").encode(["a bottle"])
        results[f"{name} {activation} digest"] = torch.tensor([int(other.digest[:15], 16)])
    results[f"{name} digest"] = torch.tensor([int(clip.digest[:15], 16)])
save_file(results, out, metadata={"version": open_clip.version.__version__})
"""


def test_results_do_not_depend_on_the_version(open_clip_224, weight_file, architectures, tmp_path):
    known = tmp_path / "architectures"
    known.mkdir()
    for name in NAMES:
        (known / f"{name}.json").write_text(json.dumps(ARCHITECTURES[name]))
        os.symlink(weight_file(name), known / f"{name}.safetensors")
    processes = {
        label: subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(known), json.dumps(NAMES), str(tmp_path / label)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join([*path, str(ROOT)])},
            stderr=subprocess.PIPE,
            text=True,
        )
        for label, path in (("older", [open_clip_224]), ("installed", []))
    }
    for process in processes.values():
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
    results = {label: load_file(tmp_path / label) for label in processes}
    assert version(tmp_path / "older") == "2.24.0"
    assert version(tmp_path / "installed") == open_clip.version.__version__ != "2.24.0"
    assert results["older"].keys() == results["installed"].keys()
    assert len(results["older"]) > 8 * len(NAMES)
    for name, expected in results["older"].items():
        torch.testing.assert_close(
            results["installed"][name], expected, atol=1e-5, rtol=0, msg=lambda m, name=name: f"{name}: {m}"
        )


def version(path: Path) -> str:
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        return file.metadata()["version"]
