"""Constants that make our numbers the authors' and the field's, each held once."""

import inspect
from math import pi

import numpy as np
import pytest
import torch
from sklearn.metrics import auc

from anoclip_anomalib import AaClip, AnoClip, AnoClipModel, TestTimeAdaptation
from anoclip_anomalib.aaclip.adapters import SLOPE, default_taps
from anoclip_anomalib.aaclip.scoring import BLUR_KERNEL, BLUR_SIGMA, TEMPERATURE
from anoclip_anomalib.aaclip.settings import Recipe
from anoclip_anomalib.aaclip.torch_model import IMAGE_WEIGHT
from anoclip_anomalib.aaclip.training import DISENTANGLING, LOCAL_SHARE
from anoclip_anomalib.anoclip.adapter import AdaptationSettings
from anoclip_anomalib.clip import load_clip
from anoclip_anomalib.clip.constants import CLIP_MEAN, CLIP_STD
from anoclip_anomalib.data.augment import Augmentation
from anoclip_anomalib.evaluation import AUPRO, PredictionsCsv, curves
from anoclip_anomalib.evaluation.curves import ScoreCounts
from anoclip_anomalib.evaluation.registry import METRICS
from anoclip_anomalib.evaluation.thresholds import ThresholdRule
from anoclip_anomalib.prompts.aaclip import ABNORMAL_STATES, DESCRIPTIONS, NORMAL_STATES, TEMPLATES, sentences
from anoclip_anomalib.zeroshot import views as views_module
from anoclip_anomalib.zeroshot.losses import dice_loss, focal_loss
from anoclip_anomalib.zeroshot.text_model import DEFAULT_WEIGHTS
from anoclip_anomalib.zeroshot.tiling import plan_tiles
from anoclip_anomalib.zeroshot.training import rate
from anoclip_anomalib.zeroshot.views import translate, views
from anoclip_anomalib.zeroshot.visualizer import LOGIT_SCALE

ADAPTATION = {
    "adapter": "text",
    "steps": 5,
    "lr": 1e-3,
    "noise_std": 0.055,
    "weight_decay": 0.01,
    "residual": 0.5,
    "reset_optimizer": True,
    "seed": 111,
    "guard": False,
    "guard_correlation": 0.5,
}


@pytest.mark.parametrize("owner", [TestTimeAdaptation, AdaptationSettings])
def test_adaptation(owner):
    """`vl_test.py`; `reset_optimizer` and the guard are ours."""
    assert {name: p.default for name, p in inspect.signature(owner).parameters.items()} == ADAPTATION
    assert vars(TestTimeAdaptation().settings) == ADAPTATION


def test_preprocessing():
    assert CLIP_MEAN == (0.48145466, 0.4578275, 0.40821073)
    assert CLIP_STD == (0.26862954, 0.26130258, 0.27577711)
    resize, normalise = AnoClip.configure_pre_processor().transform.transforms
    assert (list(resize.size), resize.interpolation.value, resize.antialias) == ([240, 240], "bilinear", True)
    assert (tuple(normalise.mean), tuple(normalise.std)) == (CLIP_MEAN, CLIP_STD)


def test_model():
    defaults = {name: p.default for name, p in inspect.signature(AnoClip).parameters.items()}
    expected = {
        "backbone": "ViT-B-16-plus-240",
        "views": 1,
        "tiling": "none",
        "local_attention": "value",
        "local_blocks": None,
        "text_mean": "before_norm",
        "smoothing": 3,
        "precision": "float32",
    }
    assert defaults.items() >= expected.items()
    (base,) = AnoClipModel.__bases__  # where what it does not name goes
    assert {name: p.default for name, p in inspect.signature(base).parameters.items()}.items() >= expected.items()
    loader = {name: p.default for name, p in inspect.signature(load_clip).parameters.items()}
    assert (loader["backbone"], loader["pretrained"], DEFAULT_WEIGHTS) == ("ViT-B-16-plus-240", *["laion400m_e32"] * 2)
    assert AnoClipModel(backbone="demo").natural_threshold == 0.5
    assert LOGIT_SCALE == 100.0


def test_views():
    """`vl_test.py`: angles in radians, shifts in halves of the side, reflected at the border."""
    angles = [view.keywords["angle"] for view in views(22) if "angle" in getattr(view, "keywords", {})]
    shifts = [(view.keywords["x"], view.keywords["y"]) for view in views(22) if "x" in getattr(view, "keywords", {})]
    small = [sign * n * pi / 16 for n in (1, 2, 3, 4) for sign in (1, -1)]
    assert sorted(angles) == pytest.approx(sorted([*small, pi / 2, pi, 3 * pi / 2]))
    assert sorted(shifts) == sorted((x * t, y * t) for t in (0.1, 0.2) for x in (1, -1) for y in (1, -1))
    assert len(views(22)) == 21
    assert views_module._LUMINANCE == (0.299, 0.587, 0.114)
    row = torch.arange(241.0).expand(1, 3, 3, 241)  # a shift of 0.2 half sides is 24 pixels of 240
    assert translate(row, 0.2, 0.0)[0, 0, 1, :5].tolist() == pytest.approx([24.0, 25, 26, 27, 28], abs=1e-3)
    assert translate(row, 0.2, 0.0)[0, 0, 1, -1].item() == pytest.approx(240 - 24, abs=1e-3)


@pytest.mark.parametrize("size", [(240, 300), (240, 471), (300, 240)])
def test_tiles(size):
    """`vis_test.py`: two squares at the ends of the longer side."""
    end = max(size) - 240
    expected = ((0, 0), (0, end)) if size[1] > size[0] else ((0, 0), (end, 0))
    layout = plan_tiles(*size, "square")
    assert (layout.offsets, layout.tile) == (expected, (240, 240))


# Evaluation: one region of two pixels, ten normal pixels. The PRO curve runs through (0, 0), (0.2, 0.5) and (1, 1).
COARSE = ScoreCounts(
    score=np.array([0.0, 1.0]),
    normal=np.array([8.0, 2.0]),
    anomalous=np.array([1.0, 1.0]),
    overlap=np.array([0.5, 0.5]),
    regions=1.0,
    minimum=0.0,
    maximum=1.0,
)
# At 0.3 it is interpolated to 0.5625, at 0.05 to 0.125.
AREA_03 = (0.2 * 0.5 / 2 + 0.1 * (0.5 + 0.5625) / 2) / 0.3
AREA_005 = 0.125 / 2


def test_aupro_is_interpolated_at_its_limit():
    assert curves.aupro(COARSE.curve, 0.3) == pytest.approx(AREA_03)
    assert curves.aupro(COARSE.curve, 0.05) == pytest.approx(AREA_005)
    assert curves.aupro(COARSE.curve, 0.2) == pytest.approx(0.25)
    assert curves.aupro(COARSE.curve, 1.0) == pytest.approx(0.05 + 0.8 * 0.75)


def test_the_limits_are_mvtecs():
    """0.3 as in MVTec AD's evaluation code, 0.05 as in MVTec AD 2's."""
    assert curves.aupro(COARSE.curve) == pytest.approx(AREA_03)
    assert AUPRO().value(COARSE) == pytest.approx(AREA_03)
    assert AUPRO(fpr_limit=0.05).value(COARSE) == pytest.approx(AREA_005)
    found = {name: METRICS[name].compute(COARSE, 0.5) for name in ("AUPRO", "AUPRO_0.05")}
    assert found == pytest.approx({"AUPRO": AREA_03, "AUPRO_0.05": AREA_005})


def test_aupro_of_the_papers_has_200_thresholds_below_a_rate_of_03():
    """A normal pixel at each of 0, 1, ..., 200, so every threshold is a score: above 140 to 199 lie fewer than 30 %."""
    score = np.arange(201.0)
    overlap = np.where(score >= 170, 1.0, 0.0)
    counts = ScoreCounts(score, np.ones(201), overlap, overlap / overlap.sum(), 1.0, 0.0, 200.0)
    fpr = np.array([(score > threshold).mean() for threshold in range(200)])
    pro = np.array([(overlap * (score > threshold)).sum() / overlap.sum() for threshold in range(200)])
    kept = fpr < 0.3
    assert kept.sum() == 60
    x = (fpr[kept] - fpr[kept].min()) / (fpr[kept].max() - fpr[kept].min())
    assert curves.aupro_paper(counts) == pytest.approx(auc(x, pro[kept]))


def test_thresholds_are_mean_plus_three_std_or_a_probability_of_a_half():
    """MVTec's hint for AD 2; the middle of a two-way softmax."""
    assert ThresholdRule() == PredictionsCsv().rule == ThresholdRule("mean_std", k=3.0, q=0.99)
    assert ThresholdRule("natural").fit(None).value == 0.5


# AA-CLIP: `train.py`, `test.py`, `forward_utils.py`, `model/adapter.py`, `dataset/__init__.py`


def test_aaclip_recipe():
    recipe = Recipe()
    text, image = recipe.text, recipe.image
    assert (text.epochs, text.batch_size, text.lr, text.betas, text.schedule) == (5, 16, 1e-5, (0.5, 0.999), "constant")
    assert (image.epochs, image.batch_size, image.lr, image.betas) == (20, 2, 5e-4, (0.5, 0.999))
    assert (image.schedule, image.milestones) == ("milestones", (16_000, 32_000))
    assert [rate(image, step, 21_620) for step in (15_999, 16_000, 31_999, 32_000)] == [1, 0.5, 0.5, 0.25]
    assert (text.jitter, image.jitter) == (0.0, 0.5)
    assert (text.detection_scale, image.detection_scale) == (1.0, 1.0)
    assert (recipe.backbone, recipe.pretrained, recipe.image_size, recipe.seed) == ("ViT-L-14-336", "openai", 518, 111)
    assert (recipe.text_mixing, recipe.image_mixing) == (0.1, 0.1)
    assert (DISENTANGLING, LOCAL_SHARE * 24) == (0.1, 19)


def test_aaclip_model():
    assert default_taps(24) == (6, 12, 18, 24)
    assert (TEMPERATURE, BLUR_KERNEL, BLUR_SIGMA, SLOPE) == (100.0, 7, 1.0, 0.01)
    defaults = {name: p.default for name, p in inspect.signature(AaClip).parameters.items()}
    assert IMAGE_WEIGHT == 0.5
    assert defaults.items() >= {"image_weight": None, "blur_kernel": 7, "blur_sigma": 1.0, "adapters": None}.items()
    resize, normalise = AaClip.configure_pre_processor().transform.transforms
    assert (list(resize.size), resize.interpolation.value) == ([518, 518], "bicubic")
    assert (tuple(normalise.mean), tuple(normalise.std)) == (CLIP_MEAN, CLIP_STD)


def test_aaclip_losses():
    assert {name: p.default for name, p in inspect.signature(focal_loss).parameters.items()}.items() >= {
        "gamma": 2.0,
        "smooth": 1e-5,
    }.items()
    assert inspect.signature(dice_loss).parameters["smooth"].default == 1.0


def test_aaclip_augmentation():
    assert vars(Augmentation()) == {"rotation": 30.0, "translation": 0.15, "flips": True, "jitter": 0.0}


def test_aaclip_prompts():
    normal, abnormal = sentences("x")
    assert (len(normal), len(abnormal), len(NORMAL_STATES), len(ABNORMAL_STATES), len(TEMPLATES)) == (6, 10, 3, 5, 2)
    assert ABNORMAL_STATES[2] == "a {} with flaw"
    assert DESCRIPTIONS["pill"] == "oval white pill with small red speckles and the letters 'FF' engraved"
    assert DESCRIPTIONS["pcb1"] == "dual ultrasonic distance sensor pcb module"
