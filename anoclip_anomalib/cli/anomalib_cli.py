"""Anomalib's command line, with folders read robustly, the seed applied, a table at the end and errors in one line."""

import csv
import logging
import pickle
import re
from pathlib import Path
from typing import Any

from anomalib.cli.cli import AnomalibCLI
from anomalib.data import AnomalibDataModule
from anomalib.visualization import ImageVisualizer
from lightning.pytorch import seed_everything
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from anoclip_anomalib.checks import own_words
from anoclip_anomalib.cli.early_checks import INSTALL_EXPORT
from anoclip_anomalib.cli.parser import refused
from anoclip_anomalib.clip import WeightsUnavailableError
from anoclip_anomalib.data import FolderImages, check_masks, warn_of_depth
from anoclip_anomalib.data.pictures import NamedVisualizer
from anoclip_anomalib.evaluation import PredictionsCsv
from anoclip_anomalib.inspection.decision import NO_VERDICTS
from anoclip_anomalib.running.engine import learns
from anoclip_anomalib.running.quiet import log_to_stderr, quiet
from anoclip_anomalib.running.signals import run_command

logger = logging.getLogger(__name__)

USER_ERRORS = (ValueError, TypeError, OSError, WeightsUnavailableError, MisconfigurationException)
WITH_PREDICTIONS = ("test", "predict")
ROWS_SHOWN = 20
DEFAULT_SEED = 0
UNREAD = 3  # exit code


class AnoclipCLI(AnomalibCLI):
    """Anomalib's command line; see there for its options.

    Attributes:
        exported: The file that the command ``export`` has written.
    """

    exported: Path | None = None

    def before_instantiate_classes(self) -> None:
        """Apply ``--seed_everything``, which anomalib 2.7 declares and does not use; its default stands for seed 0."""
        super().before_instantiate_classes()
        if self._seed is not None:
            seed_everything(self._seed, workers=True)
            logger.info("Seed set to %d", self._seed)

    @property
    def _seed(self) -> int | None:
        """The seed; ``None`` where the command has none, or ``--seed_everything false`` was asked for."""
        seed = self._get(self.config, "seed_everything", False)
        if isinstance(seed, bool):
            return DEFAULT_SEED if seed else None
        return seed

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
        if type(self.model.visualizer) is ImageVisualizer:
            self.model.visualizer = NamedVisualizer.like(self.model.visualizer)
        if not learns(self.model):
            logging.getLogger("anomalib.engine.engine").addFilter(_is_about_training)
        datamodule = arguments.get("datamodule")
        check_masks(datamodule)
        warn_of_depth(datamodule)
        if isinstance(datamodule, AnomalibDataModule) and datamodule.seed is None:
            # Otherwise which images are tested is drawn anew in every run.
            datamodule.seed = self._seed
        folder: str | Path | None = arguments.pop("data_path", None)
        if folder is not None:
            arguments["dataset"] = FolderImages(folder)
            # Thousands of maps would otherwise pile up in a list that nobody reads.
            arguments["return_predictions"] = False
        return arguments

    def _run_subcommand(self) -> None:
        try:
            if self.subcommand == "export":
                self.exported = self.engine.export(**self._prepare_subcommand_kwargs("export"))
            else:
                super()._run_subcommand()
        except (pickle.UnpicklingError, EOFError) as error:
            found = re.search(r"GLOBAL (\S+)", str(error))
            inside = f"code ({found[1]})" if found else "something else than tensors"
            fault = f"is damaged or holds {inside}, which could run when it is loaded; it is refused"
            raise ValueError(f"The checkpoint {self._get(self.config, 'ckpt_path')} {fault}") from error

    @property
    def predictions(self) -> PredictionsCsv | None:
        """The callback that has written the run's ``predictions.csv``."""
        engine = getattr(self, "engine", None)
        callbacks = engine.trainer.callbacks if engine is not None and self.subcommand in WITH_PREDICTIONS else []
        return next((callback for callback in callbacks if isinstance(callback, PredictionsCsv)), None)


def main(argv: list[str]) -> int:
    """Run one of anomalib's commands.

    Args:
        argv: Command and options.

    Returns:
        0; 2 after an error of the input, which is printed in one line; 3 if some images could not be read; 130 or 143 after a
        signal.
    """
    log_to_stderr()
    return run_command(f"anoclip {argv[0]}" if argv else "anoclip", lambda: _run(argv), "nothing goes on by itself")


def _run(argv: list[str]) -> int:
    try:
        with quiet(warnings_of="anomalib"):
            cli = AnoclipCLI(args=argv)
    except USER_ERRORS as error:
        logger.debug("The error in full", exc_info=True)
        return refused(f"anoclip: error: {own_words(error)}")
    except ImportError as error:  # anomalib and torch import what an export needs when they are there
        if argv[0] != "export":
            raise
        return refused(f"anoclip: error: {error}; {INSTALL_EXPORT}")
    if cli.exported is not None:
        print(f"Exported: {cli.exported}")
    if cli.subcommand != "predict" or cli.predictions is None or cli.predictions.path is None:
        return 0
    if cli.engine.trainer.is_global_zero:  # of several processes one tells
        print_predictions(cli.predictions.path)
    return UNREAD if cli.predictions.faults else 0


def _is_about_training(record: logging.LogRecord) -> bool:
    """Not that there is no checkpoint: a model that learns nothing needs none."""
    return not record.getMessage().startswith("ckpt_path is not provided")


def print_predictions(path: Path) -> None:
    """Print the most anomalous images of a ``predictions.csv``, and where everything is.

    Args:
        path: The file.
    """
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    scored = sorted((row for row in rows if row["score"]), key=lambda row: -float(row["score"]))
    unread = [row for row in rows if row["fault"]]
    console = Console()
    if scored:
        table = Table(title=f"{len(scored)} images, most anomalous first", caption=f"Threshold: {scored[0]['threshold_rule']}")
        for name in ("image", "score", "decision"):
            table.add_column(name, justify="right" if name == "score" else "left", overflow="fold")
        for row in scored[:ROWS_SHOWN]:
            decision = {"1": "[red]defect[/red]", "0": "normal"}.get(row["label"], "no threshold")
            table.add_row(escape(row["path"]), f"{float(row['score']):.5f}", decision)
        console.print(table)
        if not any(row["label"] for row in scored):
            hint = "Photographs of good parts do: anoclip inspect PHOTOS --good FOLDER"
            console.print(f"{NO_VERDICTS} {hint}", soft_wrap=True)
    if unread:
        console.print(f"[red]NOT INSPECTED: {len(unread)} of {len(rows)} could not be read[/red]")
        for row in unread[:ROWS_SHOWN]:
            console.print(f"  {escape(row['fault'])}", soft_wrap=True)
    console.print(f"All scores: {path}", soft_wrap=True)
    images = path.parent / "images"
    if images.is_dir():
        console.print(f"Heatmaps:   {images}", soft_wrap=True)
