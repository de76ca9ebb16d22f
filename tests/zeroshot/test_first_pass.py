"""The pass before a stage, with a model that writes down what it sees."""

import pytest
import torch
from anomalib.data import InferenceBatch
from anomalib.engine import Engine
from anomalib.models.components import AnomalibModule
from anomalib.pre_processing import PreProcessor
from torchvision.transforms.v2 import Resize

from anoclip_anomalib.zeroshot.first_pass import first_pass
from anoclip_anomalib.zeroshot.lightning import ZeroShotClip
from tests.anoclip.test_lightning_model import mvtec, root  # noqa: F401
from tests.zeroshot.test_lightning import SpreadModel


class Notes(SpreadModel):
    def forward(self, images: torch.Tensor) -> InferenceBatch:
        self.seen.append(images.clone())
        return super().forward(images)


class Twice(ZeroShotClip, AnomalibModule):
    needs_class = False

    def __init__(self) -> None:
        model = Notes(1.0)
        model.seen, self.before = [], []
        super().__init__(
            pre_processor=PreProcessor(transform=Resize([64, 64])), post_processor=False, evaluator=False, visualizer=False
        )
        self.connect(model, raw_evaluator=False)

    def _look(self) -> None:  # anomalib validates before it tests
        self.before.clear()
        self.model.seen.clear()
        first_pass(self, lambda batch: self.before.append(batch.image.clone()))

    def on_test_start(self) -> None:
        super().on_test_start()
        self._look()

    def on_predict_start(self) -> None:
        super().on_predict_start()
        self._look()

    def on_validation_start(self) -> None:
        super().on_validation_start()
        self._look()


def run(tmp_path, root, stage, **arguments):  # noqa: F811
    data = mvtec(root, eval_batch_size=4, num_workers=arguments.pop("num_workers", 0))
    quiet = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False}
    model = Twice()
    getattr(Engine(default_root_dir=tmp_path, **quiet, **arguments), stage)(model, datamodule=data)
    return model


@pytest.mark.parametrize("stage", ["test", "predict", "validate"])
def test_it_sees_what_the_stage_will_see(tmp_path, root, stage):  # noqa: F811
    model = run(tmp_path, root, stage)
    assert len(model.before) == len(model.model.seen) == 2
    for before, after in zip(model.before, model.model.seen, strict=True):
        assert before.shape[-2:] == (64, 64)
        assert torch.equal(before, after)


def test_limits_and_worker_processes(tmp_path, root):  # noqa: F811
    model = run(tmp_path, root, "test", limit_test_batches=1, num_workers=1)
    assert len(model.before) == len(model.model.seen) == 1
    assert torch.equal(model.before[0], model.model.seen[0])
