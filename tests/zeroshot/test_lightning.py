"""The mixin with a method that is not AnoCLIP, and what every method gets from it."""

import json

import pytest
import torch
from anomalib.data import Folder, InferenceBatch, PredictDataset
from anomalib.models.components import AnomalibModule
from torch import nn

from anoclip_anomalib import AnoClip, AnoClipModel
from anoclip_anomalib.clip import VisualEncoder, load_clip
from anoclip_anomalib.zeroshot.features import Features
from anoclip_anomalib.zeroshot.lightning import COMPONENTS, ZeroShotClip, taken_by
from anoclip_anomalib.zeroshot.method import MethodFacts, weights_digest
from anoclip_anomalib.zeroshot.tiling import plan_tiles
from tests.anoclip.test_lightning_model import engine, mvtec, raw_scores, root  # noqa: F401


class SpreadModel(nn.Module):
    """Patches unlike their image's mean patch are anomalous; with one learned weight, and without text."""

    natural_threshold = 0.25
    facts = MethodFacts(auxiliary_data="VisA test split", category_data="none")
    tiling = "none"
    class_name = None

    def __init__(self, gain: float) -> None:
        super().__init__()
        clip = load_clip("demo")
        self.visual_encoder = VisualEncoder(clip.visual_tower())
        self.gain = nn.Parameter(torch.tensor(gain), requires_grad=False)
        self.image_size, self.provenance = (64, 64), clip.provenance
        self._digest = weights_digest(clip, {"gain": self.gain})

    @property
    def weights_digest(self) -> str:
        return self._digest

    def encode(self, images: torch.Tensor) -> Features:
        encoded = self.visual_encoder(images)
        layout = plan_tiles(*images.shape[-2:], "none")
        return Features(encoded.class_token[None, :, None], encoded.patch_tokens[:, None], encoded.grid, layout)

    def score(self, features: Features) -> InferenceBatch:
        tokens = features.patch_tokens[:, 0]
        distance = self.gain * (tokens - tokens.mean(dim=1, keepdim=True)).norm(dim=-1)
        maps = distance.unflatten(1, features.grid).unsqueeze(1)
        maps = nn.functional.interpolate(maps, features.layout.size)
        return InferenceBatch(pred_score=maps.amax(dim=(1, 2, 3)), anomaly_map=maps)

    def forward(self, images: torch.Tensor) -> InferenceBatch:
        return self.score(self.encode(images))


class Spread(ZeroShotClip, AnomalibModule):
    needs_class = False

    def __init__(self, gain: float = 1.0, pre_processor: nn.Module | bool = True, visualizer: bool = False) -> None:
        model = SpreadModel(gain)
        super().__init__(pre_processor=self.pre_processor_for(model, pre_processor), visualizer=visualizer)
        self.connect(model)
        self.save_hyperparameters(ignore=COMPONENTS)


def test_a_method_plugs_in(engine, root, tmp_path, caplog):  # noqa: F811
    model = Spread(gain=2.0, visualizer=True)
    (figures,) = engine().test(model, datamodule=mvtec(root), verbose=False)
    assert {"raw_ImageAUROC", "raw_AUPRO", "image_AUROC"} <= figures.keys()
    assert "No class name" not in caplog.text
    (checkpoint,) = (tmp_path / "results").rglob("*.ckpt")
    state = torch.load(checkpoint, weights_only=False)["state_dict"]
    assert [name for name in state if name.startswith("model.")] == ["model.gain"]
    loaded = Spread.load_from_checkpoint(checkpoint)
    assert loaded.hparams == {"gain": 2.0}
    paths = sorted(map(str, (root / "bottle/test").rglob("*.png")))
    assert torch.equal(raw_scores(loaded, paths), raw_scores(model, paths))
    (written,) = (tmp_path / "results").rglob("weights.json")
    assert json.loads(written.read_text())["weights_digest"] == model.weights_digest


def test_a_method_describes_itself(anoclip):
    model = Spread()
    assert (model.method_facts.auxiliary_data, model.natural_threshold) == ("VisA test split", 0.25)
    assert (anoclip().method_facts, anoclip().natural_threshold) == (MethodFacts(), 0.5)


def test_the_digest_knows_learned_weights():
    clip = load_clip("demo")
    one, other = torch.ones(2), torch.zeros(2)
    assert weights_digest(clip) == weights_digest(clip, {}) == clip.digest
    assert len({weights_digest(clip, learned) for learned in (None, {"a": one}, {"a": other}, {"b": one})}) == 4
    assert Spread(1.0).weights_digest != Spread(2.0).weights_digest


def test_a_checkpoint_of_another_gain_is_noticed(engine, root, tmp_path, caplog):  # noqa: F811
    engine().test(Spread(gain=2.0), datamodule=mvtec(root), verbose=False)
    (checkpoint,) = (tmp_path / "results").rglob("*.ckpt")
    Spread.load_from_checkpoint(checkpoint, gain=3.0)
    assert "made with other CLIP weights" in caplog.text


def test_checkpoints_made_before_load(tmp_path, root):  # noqa: F811
    """What version 0.1.0 wrote: the class's embeddings and anomalib's components, no encoder, provenance under 'anoclip'."""
    source = AnoClip(backbone="demo", class_name="cable", image_size=64, views=22)
    source.post_processor._image_threshold.fill_(0.51)
    state = {name: value for name, value in source.state_dict().items() if not name.startswith("model.visual_encoder.")}
    old_names = {
        *("_image_threshold", "_pixel_threshold", "image_min", "image_max", "pixel_min", "pixel_max"),
    }
    assert set(state) == {"model.text_embeddings", *(f"post_processor.{name}" for name in old_names)}
    old = {
        "state_dict": state,
        "hyper_parameters": {
            **{"backbone": "demo", "pretrained": "laion400m_e32", "class_name": "cable", "prompts": None, "image_size": 64},
            **{"views": 22, "tiling": "none", "local_attention": "value", "local_blocks": None, "precision": "float32"},
            **{"text_mean": "before_norm", "smoothing": 3, "encode_batch_size": 64, "text_cache_dir": None},
        },
        "anoclip": {**source.model.provenance, "class_name": "cable"},
        "pytorch-lightning_version": "2.6.0",
    }
    torch.save(old, tmp_path / "old.ckpt")
    loaded = AnoClip.load_from_checkpoint(tmp_path / "old.ckpt")
    assert loaded.model.class_name == "cable"
    assert loaded.post_processor._image_threshold == source.post_processor._image_threshold
    paths = sorted(map(str, (root / "bottle/test").rglob("*.png")))
    assert torch.equal(raw_scores(loaded, paths), raw_scores(source, paths))


def test_a_missing_class_is_said_when_images_are_scored_and_not_before(anoclip, engine, root, caplog):  # noqa: F811
    """Anomalib's benchmark first calls fit without the data, then tests with it."""
    model, shared = anoclip(), engine()
    shared.fit(model, mvtec(root))
    assert model.model.class_name == "object"
    shared.test(model, datamodule=mvtec(root), verbose=False)
    assert model.model.class_name == "bottle"
    assert "prompts will say 'object'" not in caplog.text
    unnamed = anoclip()
    for _ in range(2):  # the class of a run before is no answer
        caplog.clear()
        engine().predict(unnamed, dataset=PredictDataset(root / "bottle/test"))
        assert "prompts will say 'object'" in caplog.text


@pytest.mark.parametrize("export_type", ["onnx", "openvino"])
def test_a_graph_of_unknown_size_is_refused_before_anything_is_written(anoclip, engine, export_type, tmp_path):  # noqa: F811
    model = anoclip(class_name="bottle", pre_processor=False)
    with pytest.raises(ValueError, match=r"Without a pre-processor that resizes.*--input_size '\[64, 64\]'"):
        engine("export").export(model, export_type=export_type)
    assert not list(tmp_path.rglob("model.*"))


def test_videos_are_refused_by_name(anoclip):
    with pytest.raises(ValueError, match=r"got \(1, 8, 3, 64, 64\), a video"):
        anoclip(class_name="bottle")(torch.zeros(1, 8, 3, 80, 80))


def test_the_frozen_encoder_is_not_trained(anoclip):
    model = anoclip()
    assert model.configure_optimizers() is None
    assert model.val_dataloader() == []
    assert not [name for name, parameter in model.named_parameters() if parameter.requires_grad]


def test_a_constructors_arguments_reach_its_model() -> None:
    assert taken_by(lambda a, b=0: None, {"a": 1, "c": 3}) == {"a": 1}
    given = {"coreset": 0.5, "views": 22, "depths": [1], "arguments": 1, "c": 3}
    assert taken_by(AnoClipModel, given) == {"coreset": 0.5, "views": 22, "depths": [1]}
    given = {"smoothing": 5, "views": 22, "text_mean": "after_norm", "encode_batch_size": 7, "image_size": (64, 128)}
    model = AnoClip(backbone="demo", **given).model
    reached = (model.smoothing, 1 + len(model.view_functions), model.text_mean, model.encode_batch_size, model.image_size)
    assert reached == tuple(given.values())


def test_a_datamodule_without_validation_images_is_refused_before_scoring(engine, root):  # noqa: F811
    folder = root / "bottle"
    data = Folder("plates", folder / "train/good", folder, normal_test_dir="test/good", val_split_mode="none", num_workers=0)
    with pytest.raises(ValueError, match="plates: val_split_mode is 'none'.*'from_train'"):
        engine("none").test(Spread(), datamodule=data)
