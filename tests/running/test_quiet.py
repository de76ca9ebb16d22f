import logging
import warnings

import pytest

from anoclip_anomalib.running.quiet import LIBRARIES, log_to_stderr, quiet


@pytest.mark.parametrize(
    "name", ["lightning.pytorch", "anomalib", "lightning.pytorch.utilities.rank_zero", "onnx_ir.passes", "torch.onnx"]
)
def test_remarks_of_libraries_are_silent_and_their_errors_are_not(name, caplog):
    logger = logging.getLogger(name)
    before = [logging.getLogger(library).level for library in LIBRARIES]
    with quiet():
        logger.warning("a tip")
        logger.error("a fault")
        logging.getLogger("anoclip_anomalib.x").warning("ours")
    assert [record.message for record in caplog.records if record.message != "a fault"] == ["ours"]
    assert logger.isEnabledFor(logging.ERROR)
    assert [logging.getLogger(library).level for library in LIBRARIES] == before


def test_warnings_of_one_library_can_come_through(caplog):
    with quiet(warnings_of="anomalib"), quiet(warnings_of="anomalib"):
        logging.getLogger("anomalib.engine").warning("no checkpoint")
        logging.getLogger("anomalib.engine").info("a step")
        logging.getLogger("lightning.pytorch").warning("a tip")
    assert [record.message for record in caplog.records] == ["no checkpoint"]


def test_a_random_start_is_no_news_and_only_within(caplog):
    said = "No pretrained weights loaded for model 'x'. Model initialized randomly."
    with quiet():
        with quiet():
            logging.warning(said)
        logging.warning(said)
        logging.warning("another warning")
    assert [record.message for record in caplog.records] == ["another warning"]
    logging.warning(said)
    assert caplog.records[-1].message == said


def test_warnings_of_libraries_alone_are_ignored_and_only_within():
    def warn(module):
        warnings.warn_explicit("text", UserWarning, "file", 1, module=module, registry={})

    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        with quiet():
            for module in ("lightning.pytorch.trainer", "torch", "timm.models.layers", "torchish", "anoclip_anomalib.x"):
                warn(module)
        warn("torch")
    assert len(seen) == 3


def test_one_handler_on_stderr_that_drops_what_the_root_logger_remarks(capsys):
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        log_to_stderr()
        log_to_stderr()
        assert len(root.handlers) == 1
        logging.info("a step of open_clip")
        logging.warning("its warning")
        logging.getLogger("anoclip_anomalib").info("ours")
        error = capsys.readouterr().err
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
    assert "a step" not in error
    assert "its warning" in error
    assert "ours" in error
