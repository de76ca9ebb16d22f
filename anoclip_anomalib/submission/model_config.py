"""Any anomalib model, its data and its trainer from a configuration file and the command line."""

from argparse import ArgumentError
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from anomalib.data import AnomalibDataModule
from anomalib.models import AnomalibModule
from jsonargparse import ActionConfigFile, ArgumentParser, Namespace
from lightning.pytorch import Callback, Trainer, seed_everything

from anoclip_anomalib.checks import own_words
from anoclip_anomalib.running.quiet import quiet


class ModelConfig:
    """The parsed options ``--model``, ``--data``, ``--trainer``, ``--ckpt_path``, ``--seed_everything`` and ``--config``.

    They are anomalib's own options with anomalib's own meaning, so that the configuration of a test run can be used as it is.

    Args:
        arguments: The command line's part with these options; the data module is MVTecAD2 when none is given.

    Raises:
        ValueError: If an option is unknown or does not fit, with the parser's words.
    """

    def __init__(self, arguments: Sequence[str]) -> None:
        self.parser = parser = ArgumentParser(prog="anoclip submit", exit_on_error=False, add_help=False)
        parser.add_argument("-c", "--config", action=ActionConfigFile)
        parser.add_subclass_arguments(AnomalibModule, "model", fail_untyped=False, required=True)
        parser.add_subclass_arguments(AnomalibDataModule, "data", fail_untyped=False)
        parser.add_class_arguments(Trainer, "trainer", fail_untyped=False, instantiate=False, sub_configs=True)
        parser.add_argument("--seed_everything", type=int, default=0)
        parser.add_argument("--ckpt_path", type=str | None, default=None)
        parser.add_argument("--default_root_dir", type=str | None, default=None)
        parser.add_argument("--logging.log_graph", type=bool, default=False)
        try:
            self.config: Namespace = self.parser.parse_args(["--data", "MVTecAD2", *arguments])
        except ArgumentError as error:
            raise ValueError(" ".join(own_words(error).split())) from error

    def checkpoint(self, object_name: str = "{object}") -> Path | None:
        """The checkpoint, if there is one; ``{object}`` in its path stands for the object's name.

        Raises:
            FileNotFoundError: If it does not exist.
        """
        if self.config.ckpt_path is None:
            return None
        path = Path(self.config.ckpt_path.replace("{object}", object_name))
        if not path.is_file():
            raise FileNotFoundError(f"There is no checkpoint {path}")
        return path

    @property
    def data_class(self) -> str:
        """Class path of the data module."""
        return self.config.data.class_path

    @property
    def data_arguments(self) -> dict[str, Any]:
        """Arguments of the data module."""
        return dict(self.config.data.init_args)

    def build(self) -> tuple[AnomalibModule, list[Callback], dict[str, Any]]:
        """A new model, new callbacks, and the remaining trainer arguments, seeded."""
        seed_everything(self.config.seed_everything, workers=True, verbose=False)
        wanted = self.config.clone()
        del wanted["data"]
        with quiet():
            built = self.parser.instantiate_classes(wanted)
        ours = ("callbacks", "default_root_dir", "logger", "enable_progress_bar")
        trainer = {key: value for key, value in built.trainer.items() if value is not None and key not in ours}
        return built.model, _as_list(built.trainer.callbacks), trainer

    def result_settings(self) -> dict[str, Any]:
        """The part of the configuration that decides scores: not where data lies or how many processes read it."""
        trainer = self.config.trainer
        return _plain(
            {
                "model": self.config.model.as_dict(),
                "callbacks": [item.as_dict() if isinstance(item, Namespace) else item for item in _as_list(trainer.callbacks)],
                "precision": trainer.precision,
                "seed": self.config.seed_everything,
                "checkpoint": self.config.ckpt_path,
                "augmentations": {key: value for key, value in self.data_arguments.items() if key.endswith("augmentations")},
            }
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain data for provenance."""
        return _plain(self.config.as_dict())


def _as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [] if value is None else [value]


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items() if key not in {"config", "trainer_config"}}
    if isinstance(value, list | tuple | set):
        return [_plain(item) for item in value]
    return value if isinstance(value, str | int | float | bool) or value is None else str(value)
