"""AnomalyDINO without weights: nothing is downloaded, and it runs as anomalib's."""

from anomalib.models.image.anomaly_dino import torch_model

from anoclip_anomalib.baselines.anomaly_dino import UntrainedAnomalyDino
from tests.anoclip.test_lightning_model import engine, mvtec, root  # noqa: F401


def test_it_fits_and_tests_without_weights(engine, root):  # noqa: F811
    extractor = torch_model.TimmFeatureExtractor
    model = UntrainedAnomalyDino(visualizer=False, pre_processor=UntrainedAnomalyDino.configure_pre_processor((56, 56)))
    assert torch_model.TimmFeatureExtractor is extractor
    runner = engine()
    runner.fit(model, datamodule=mvtec(root))
    (figures,) = runner.test(model, datamodule=mvtec(root), verbose=False)
    assert 0 <= figures["image_AUROC"] <= 1
    assert len(model.model.memory_bank) > 0
