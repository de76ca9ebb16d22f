"""The few-shot interface of the VAND 3.0 challenge (2025, category 2; github.com/cvpr-vand/challenge) around AnoClip.

The evaluation kit imports ``eval.submission.model.Model``, builds it without arguments, and for every category, seed and
number of shots calls ``setup({"few_shot_samples": (k, 3, 256, 256) in [0, 1], "dataset_category": name})`` and then
``model(images (B, 3, 256, 256) in [0, 1])``, whose ``pred_score`` it measures by F1-max.
``write_model_file`` writes the file that goes there.
"""

import importlib.util
import pprint
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from anomalib.data import ImageBatch
from torch import nn

from anoclip_anomalib import registry
from anoclip_anomalib.files import atomic_write
from anoclip_anomalib.submission.provenance import write_provenance
from anoclip_anomalib.zeroshot.features import Features
from anoclip_anomalib.zeroshot.memory import PatchMemory

CATEGORIES = ("breakfast_box", "juice_bottle", "pushpins", "screw_bag", "splicing_connectors")
"""MVTec LOCO's, which the challenge is about."""

IMAGE_SIZE = (256, 256)


class Model(nn.Module):
    """AnoClip with the interface of the VAND few-shot kit.

    The text scores are AnoClip's. The few normal images add what text cannot tell, how this very product looks: the
    distance of each patch to the nearest patch of the references, as in WinCLIP+ (arXiv 2303.14814), but on AnoClip's
    local patch tokens.

    Args:
        reference_weight: Share of the reference distance in image score and map; 0 is plain zero-shot AnoClip.
        **arguments: ``AnoClip``'s constructor arguments: ``backbone``, ``pretrained``, ``prompts``, ``local_attention``, ...

    Raises:
        ValueError: If the weight is not in [0, 1].
    """

    batch_size = 32  # the largest that the kit should try

    def __init__(self, reference_weight: float = 0.5, **arguments: Any) -> None:
        super().__init__()
        if not 0.0 <= reference_weight <= 1.0:
            raise ValueError(f"reference_weight={reference_weight} must lie in [0, 1]")
        self.reference_weight = reference_weight
        self.anoclip = registry.load("AnoClip")(visualizer=False, evaluator=False, post_processor=False, **arguments)
        self.references = PatchMemory(persistent=False)  # they belong to a category and not to the weights

    def weights_url(self, category: str) -> str | None:
        """``None``: the weights come with the backbone's name, and are the same for every category."""
        return None

    def setup(self, setup_data: dict[str, Any]) -> None:
        """Take over a category and its normal images; what an earlier call set is forgotten.

        Args:
            setup_data: ``dataset_category`` (the class name), and ``few_shot_samples`` (k, 3, H, W) in [0, 1], which may be
                absent.

        Raises:
            KeyError: If there is no ``dataset_category``.
        """
        if "dataset_category" not in setup_data:
            raise KeyError("setup_data needs 'dataset_category', the name of the product")
        self.anoclip.model.set_class(str(setup_data["dataset_category"]))
        self.references.forget()
        samples = setup_data.get("few_shot_samples")
        if samples is not None and len(samples) and self.reference_weight > 0.0:
            with torch.no_grad():
                features = self._encode(samples if samples.ndim == 4 else samples.unsqueeze(0))
            self.references.remember(features.patch_tokens.unsqueeze(0))

    def forward(self, image: torch.Tensor) -> ImageBatch:
        """Score images.

        Args:
            image: (B, 3, H, W) in [0, 1].

        Returns:
            ``ImageBatch`` with the image itself, ``pred_score`` (B,) and ``anomaly_map`` (B, H, W).

        Raises:
            RuntimeError: Before ``setup``.
        """
        features = self._encode(image)
        result = self.anoclip.model.score(features)
        pred_score, anomaly_map = result.pred_score, result.anomaly_map
        if len(self.references):
            layout = features.layout
            distances, _ = self.references(features.patch_tokens.unsqueeze(0))
            distances = (distances**2 / 4).unflatten(-1, features.grid)  # half of one minus the cosine, as WinCLIP+ has it
            maps = F.interpolate(distances.flatten(0, 1).unsqueeze(1), size=layout.tile, mode="bilinear")
            weight = self.reference_weight
            pred_score = (1.0 - weight) * pred_score + weight * distances.flatten(1).amax(dim=1)
            anomaly_map = (1.0 - weight) * anomaly_map + weight * layout.stitch(maps)
        anomaly_map = F.interpolate(anomaly_map, size=image.shape[-2:], mode="bilinear")
        return ImageBatch(image=image, pred_score=pred_score, anomaly_map=anomaly_map.squeeze(1))

    def _encode(self, image: torch.Tensor) -> Features:
        return self.anoclip.model.encode(self.anoclip.pre_processor(image))


_TEMPLATE = '''"""Model for the VAND few-shot evaluation kit, written by `anoclip submit vand-fewshot`."""

from anoclip_anomalib.submission.vand.fewshot import Model as _Model


class Model(_Model):
    """AnoClip with the settings of this submission; the kit builds it without arguments."""

    def __init__(self) -> None:
        super().__init__(**{settings})
'''


def write_model_file(path: str | Path, settings: dict[str, Any]) -> Path:
    """Write the ``model.py`` that the kit imports.

    Args:
        path: Usually ``src/eval/submission/model.py`` in a clone of the kit.
        settings: Arguments of ``Model``; plain data.
    """
    text = _TEMPLATE.replace("{settings}", pprint.pformat(settings, width=100, sort_dicts=True))
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return Path(path)


def check_model_file(path: str | Path) -> list[float]:
    """Import a ``model.py`` as the kit does and use it once as the kit does, with two normal images, all of them random.

    Returns:
        The scores of two images.

    Raises:
        TypeError, ValueError: If the model does not keep the interface; the message says where.
    """
    path = Path(path)
    spec = importlib.util.spec_from_file_location("vand_submission_model", path)
    if spec is None or spec.loader is None:
        raise ValueError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    model = getattr(module, "Model", None)
    if not (isinstance(model, type) and issubclass(model, nn.Module)):
        raise TypeError(f"{path} has no class Model(nn.Module)")
    instance = model().eval()
    url = instance.weights_url(CATEGORIES[0])
    if url is not None and not str(url).startswith(("https://", "http://")):
        raise ValueError(f"weights_url() must return None or a URL, not {url!r}")
    images = torch.rand(4, 3, *IMAGE_SIZE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        instance.setup({"few_shot_samples": images[:2], "dataset_category": CATEGORIES[0]})
        output = instance(images[2:])
    if not isinstance(output, ImageBatch):
        raise TypeError(f"forward() must return anomalib's ImageBatch, not {type(output).__name__}")
    score = output.pred_score
    if not isinstance(score, torch.Tensor) or score.shape != (2,) or not torch.isfinite(score).all():
        raise ValueError(f"pred_score must be 2 finite numbers for 2 images, it is {score}")
    return [float(value) for value in score]


def make_model_file(path: Path, settings: dict[str, Any]) -> tuple[list[float], Path]:
    """Write ``model.py``, try it as the kit would, and write its provenance.

    Args:
        path: Where it goes.
        settings: Arguments of ``Model``; plain data.

    Returns:
        The scores of two random images, and the provenance's path.

    Raises:
        ValueError: If the model does not take the settings.
    """
    try:
        model = Model(**settings)
    except TypeError as error:
        raise ValueError(f"AnoClip does not take these arguments: {error}") from error
    scores = check_model_file(write_model_file(path, settings))
    facts = {
        "leaderboard": "VAND 3.0 category 2 (few-shot, MVTec LOCO)",
        "settings": settings,
        "weights_digest": model.anoclip.weights_digest,
        "threshold_rule": "none: the kit measures F1-max",
    }
    return scores, write_provenance(path, facts, path)


def try_model_file(path: str | Path) -> tuple[list[float], str | None]:
    """Try a ``model.py``, whoever wrote it; this runs its code.

    Returns:
        The scores of two random images, and what is wrong with the file, if anything is.
    """
    try:
        return check_model_file(path), None
    except Exception as error:  # noqa: BLE001 (foreign code: whatever it raises is what is wrong with it)
        return [], f"{type(error).__name__}: {error}"
