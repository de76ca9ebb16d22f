"""Anomalib's AnomalyDINO where DINOv2's weights are not at hand."""

from anomalib.models.image.anomaly_dino import torch_model
from anomalib.models.image.anomaly_dino.lightning_model import AnomalyDINO
from torch import nn

from anoclip_anomalib.zeroshot.lightning import taken_by


class UntrainedAnomalyDino(AnomalyDINO):
    """AnomalyDINO on a DINOv2 that was never trained: anomalib has no argument for it and would download the weights.

    A row of it says what its memory of patches is worth without them. The weights are drawn by the run's seed.

    Args:
        num_neighbours: As in anomalib, with the next three.
        encoder_name: See there.
        masking: See there.
        coreset_subsampling: See there.
        sampling_ratio: See there.
        pre_processor: See there, with the next three.
        post_processor: See there.
        evaluator: See there.
        visualizer: See there.
    """

    def __init__(
        self,
        num_neighbours: int = 1,
        encoder_name: str = "vit_small_patch14_dinov2",
        masking: bool = False,
        coreset_subsampling: bool = False,
        sampling_ratio: float = 0.1,
        pre_processor: nn.Module | bool = True,
        post_processor: nn.Module | bool = True,
        evaluator: nn.Module | bool = True,
        visualizer: nn.Module | bool = True,
    ) -> None:
        trained = torch_model.TimmFeatureExtractor
        torch_model.TimmFeatureExtractor = lambda **arguments: trained(**arguments | {"pre_trained": False})
        try:
            super().__init__(**taken_by(AnomalyDINO, locals()))
        finally:
            torch_model.TimmFeatureExtractor = trained
