"""What other packages say while a model runs: kept from the display, or written by one handler."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

LIBRARIES = (
    *("lightning", "lightning.pytorch", "lightning.fabric", "lightning_fabric", "pytorch_lightning", "anomalib"),
    *("onnxscript", "onnx_ir", "torch.onnx"),  # every constant they merge; a traceback where an older opset cannot be had
)
_WARNING_MODULES = r"(lightning|lightning_fabric|anomalib|torch|torchvision|torchmetrics|timm|open_clip)(\.|$)"


@contextmanager
def quiet(warnings_of: str = "") -> Iterator[None]:
    """Silence the libraries' remarks about their own set-up (devices, tips, deprecations); their errors come through.

    Our own warnings, and those of other packages, are not touched.

    Args:
        warnings_of: A library whose logged warnings come through too.
    """
    levels = {name: logging.getLogger(name).level for name in LIBRARIES}
    for name in LIBRARIES:
        logging.getLogger(name).setLevel(logging.WARNING if name == warnings_of else logging.ERROR)
    root = logging.getLogger()  # open_clip's
    added = _is_news not in root.filters
    root.addFilter(_is_news)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=_WARNING_MODULES)
            yield
    finally:
        if added:
            root.removeFilter(_is_news)
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


def _is_news(record: logging.LogRecord) -> bool:
    """Not what we say ourselves, of untrained weights, or what comes before a file's weights are loaded."""
    return "initialized randomly" not in record.getMessage()


def log_to_stderr() -> None:
    """One handler, on standard error. open_clip reports every step of its work to the root logger; only its warnings count."""
    from rich.console import Console
    from rich.logging import RichHandler

    handler = RichHandler(console=Console(stderr=True), show_path=False, rich_tracebacks=True)
    handler.addFilter(lambda record: record.name != "root" or record.levelno >= logging.WARNING)
    logging.basicConfig(level=logging.INFO, format="%(message)s", datefmt="[%X]", handlers=[handler], force=True)
