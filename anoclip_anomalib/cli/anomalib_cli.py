"""anomalib's command line, with folders read robustly, the seed applied, a table at the end and errors in one line."""

import csv
import logging
import sys
from pathlib import Path
from typing import Any

from anomalib.cli.cli import AnomalibCLI
from lightning.pytorch import seed_everything
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from anoclip_anomalib.clip import WeightsUnavailableError
from anoclip_anomalib.data import FolderImages, check_masks
from anoclip_anomalib.evaluation import PredictionsCsv
from anoclip_anomalib.running.quiet import log_to_stderr
from anoclip_anomalib.running.signals import run_command

logger = logging.getLogger(__name__)

USER_ERRORS = (
    ValueError,
    TypeError,
    FileNotFoundError,
    NotADirectoryError,
    WeightsUnavailableError,
    MisconfigurationException,
)
WITH_PREDICTIONS = ("test", "predict")
ROWS_SHOWN = 20


class AnoclipCLI(AnomalibCLI):
    """anomalib's command line; see there for its options."""

    def before_instantiate_classes(self) -> None:
        """Apply ``--seed_everything``, which anomalib 2.7 declares and does not use."""
        super().before_instantiate_classes()
        seed = self._get(self.config, "seed_everything")
        if isinstance(seed, int) and not isinstance(seed, bool):
            seed_everything(seed, workers=True)

    def instantiate_engine(self) -> None:
        """Have test and predict write ``predictions.csv``, unless the user has set that up differently."""
        trainer = self.config_init[self.subcommand]["trainer"]
        callbacks = trainer.get("callbacks") or []
        callbacks = list(callbacks) if isinstance(callbacks, list | tuple) else [callbacks]
        if self.subcommand in WITH_PREDICTIONS and not any(isinstance(c, PredictionsCsv) for c in callbacks):
            callbacks.append(PredictionsCsv())
        trainer["callbacks"] = callbacks
        super().instantiate_engine()

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        arguments = super()._prepare_subcommand_kwargs(subcommand)
        check_masks(arguments.get("datamodule"))
        folder: str | Path | None = arguments.pop("data_path", None)
        if folder is not None:
            arguments["dataset"] = FolderImages(folder)
            # Thousands of maps would otherwise pile up in a list that nobody reads.
            arguments["return_predictions"] = False
        return arguments

    @property
    def predictions_file(self) -> Path | None:
        """The ``predictions.csv`` that the run has written."""
        engine = getattr(self, "engine", None)
        callbacks = engine.trainer.callbacks if engine is not None and self.subcommand in WITH_PREDICTIONS else []
        return next((callback.path for callback in callbacks if isinstance(callback, PredictionsCsv)), None)


def main(argv: list[str]) -> int:
    """Run one of anomalib's commands.

    Args:
        argv: Command and options.

    Returns:
        0; 2 after an error of the input, which is printed in one line; 130 or 143 after a signal.
    """
    log_to_stderr()
    return run_command(f"anoclip {argv[0]}" if argv else "anoclip", lambda: _run(argv), "nothing goes on by itself")


def _run(argv: list[str]) -> int:
    try:
        cli = AnoclipCLI(args=argv)
    except USER_ERRORS as error:
        logger.debug("The error in full", exc_info=True)
        print(f"anoclip: error: {clear_message(error)}", file=sys.stderr)
        return 2
    if cli.subcommand == "predict" and cli.predictions_file is not None:
        print_predictions(cli.predictions_file)
    return 0


def clear_message(error: Exception) -> str:
    """An error's own words, without the types and the whole configuration that jsonargparse puts around them."""
    message = str(error)
    if not message.startswith("Does not validate against any of the Union subtypes"):
        return message
    reasons = message.partition("Errors:\n")[2].partition("\nGiven value type:")[0].removeprefix("  - ").split("\n  - ")
    own = [reason.strip() for reason in reasons if reason and not reason.startswith("Expected a <class")]
    return "; ".join(own) or message


def print_predictions(path: Path) -> None:
    """Print the most anomalous images of a ``predictions.csv``, and where everything is.

    Args:
        path: The file.
    """
    with path.open(encoding="utf-8", newline="") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: -float(row["score"]))
    console = Console()
    if rows:
        table = Table(title=f"{len(rows)} images, most anomalous first", caption=f"Threshold: {rows[0]['threshold_rule']}")
        for name in ("image", "score", "decision"):
            table.add_column(name, justify="right" if name == "score" else "left", overflow="fold")
        for row in rows[:ROWS_SHOWN]:
            decision = {"1": "[red]defect[/red]", "0": "normal"}.get(row["label"], "no threshold")
            table.add_row(escape(row["path"]), f"{float(row['score']):.5f}", decision)
        console.print(table)
    console.print(f"All scores: {path}", soft_wrap=True)
    images = path.parent / "images"
    if images.is_dir():
        console.print(f"Heatmaps:   {images}", soft_wrap=True)
