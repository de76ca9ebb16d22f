"""anomalib's command line, with folders read robustly, the seed applied and errors in one line."""

import logging
import sys
from pathlib import Path
from typing import Any

from anomalib.cli.cli import AnomalibCLI
from anomalib.loggers import configure_logger
from lightning.pytorch import seed_everything
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from anoclip_anomalib.clip import WeightsUnavailableError
from anoclip_anomalib.data import FolderImages

logger = logging.getLogger(__name__)

USER_ERRORS = (ValueError, FileNotFoundError, NotADirectoryError, WeightsUnavailableError, MisconfigurationException)


class AnoclipCLI(AnomalibCLI):
    """anomalib's command line; see there for its options."""

    def before_instantiate_classes(self) -> None:
        """Apply ``--seed_everything``, which anomalib 2.7 declares and does not use."""
        super().before_instantiate_classes()
        seed = self._get(self.config, "seed_everything")
        if isinstance(seed, int) and not isinstance(seed, bool):
            seed_everything(seed, workers=True)

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        arguments = super()._prepare_subcommand_kwargs(subcommand)
        folder: str | Path | None = arguments.pop("data_path", None)
        if folder is not None:
            arguments["dataset"] = FolderImages(folder)
        return arguments


def main(argv: list[str]) -> int:
    """Run one of anomalib's commands.

    Args:
        argv: Command and options.

    Returns:
        0, or 2 after an error of the input, which is printed in one line.
    """
    configure_logger()
    try:
        AnoclipCLI(args=argv)
    except USER_ERRORS as error:
        logger.debug("The error in full", exc_info=True)
        print(f"anoclip: error: {error}", file=sys.stderr)
        return 2
    return 0
