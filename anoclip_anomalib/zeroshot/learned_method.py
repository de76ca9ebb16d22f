"""The wiring of methods that learned on an auxiliary data set, which they must not be tested on."""

import logging
from dataclasses import replace

from torchvision.transforms.v2 import InterpolationMode

from anoclip_anomalib.zeroshot.lightning import ZeroShotClip
from anoclip_anomalib.zeroshot.method import MethodFacts
from anoclip_anomalib.zeroshot.normal_images import images_of_loaders
from anoclip_anomalib.zeroshot.source_overlap import source_overlap

logger = logging.getLogger(__name__)


class LearnedClip(ZeroShotClip):
    """Mixin, in place of :class:`ZeroShotClip`, for a method whose weights come from a file with a header of facts.

    Its torch model has ``training_facts``. Images are resized bicubically, as the authors of these methods and CLIP do.

    Attributes:
        allow_source_overlap: Test on the data of the training too, which is otherwise refused.
        overlap: What the last test had in common with it.
    """

    allow_source_overlap = False
    overlap: str | None = None
    interpolation = InterpolationMode.BICUBIC
    default_size = (518, 518)

    @property
    def method_facts(self) -> MethodFacts:
        """What tables say about the method; a test on its own source is named."""
        facts: MethodFacts = self.model.facts
        if self.overlap is None:
            return facts
        return replace(facts, auxiliary_data=f"{facts.auxiliary_data}; tested on its own source ({self.overlap})")

    def on_test_start(self) -> None:
        """See :class:`ZeroShotClip`; refuse the data of the training.

        Raises:
            ValueError: If it is, and ``allow_source_overlap`` is off.
        """
        images = [str(path) for path in images_of_loaders(self.trainer.test_dataloaders)]
        training, datamodule = self.model.training_facts, getattr(self.trainer, "datamodule", None)
        self.overlap = source_overlap(training, datamodule, images)
        if self.overlap is not None:
            what = f"{self.overlap} of this test belong to what the adapters were trained on ({training.auxiliary_data})"
            if not self.allow_source_overlap:
                raise ValueError(
                    f"{what[0].upper()}{what[1:]}: the figures would not be zero-shot. Test on other data, or say that this is "
                    "meant with allow_source_overlap=True (--model.allow_source_overlap true)"
                )
            logger.warning("%s; the figures are not zero-shot", what)
        super().on_test_start()
