import csv

import pytest
import torch

from anoclip_anomalib.submission.model_config import ModelConfig
from anoclip_anomalib.submission.mvtec_ad2.runtime import (
    SIZES,
    anomaly_image,
    measure,
    prepare,
    protocol_counts,
    write_runtime_csv,
)

from ..fake_model import Brightness


def test_protocol():
    assert SIZES == ((256, 256), (512, 512), (1024, 1224))
    assert protocol_counts(torch.device("cuda")) == (1000, 1000)
    assert protocol_counts(torch.device("cpu")) == (0, 1000)


def test_counts_and_csv(tmp_path):
    images = []
    rows = measure(Brightness(), torch.device("cpu"), [(32, 48), (64, 64)], 2, 5, lambda size, n: images.append((size, n)))
    assert images == [("48 x 32", 1)] * 7 + [("64 x 64", 1)] * 7
    for row in rows:
        assert 0 < row.runtime_min <= row.runtime_mean <= row.runtime_max
        assert row.runtime_std >= 0
        assert row.peak_memory > 1  # MiB: at least Python itself, where the system tells
    with write_runtime_csv(tmp_path / "runtimes_and_memory_cpu.csv", rows).open() as stream:
        table = list(csv.reader(stream))
    assert table[0] == [
        "image_height",
        "image_width",
        "runtime_mean",
        "runtime_std",
        "runtime_min",
        "runtime_max",
        "peak_memory",
    ]
    assert [row[:2] for row in table[1:]] == [["32", "48"], ["64", "64"]]


def test_anomaly_image_has_the_inputs_size_and_lies_on_the_cpu():
    image = anomaly_image(Brightness().eval(), torch.rand(1, 3, 30, 50), torch.device("cpu"))
    assert image.shape == (1, 1, 30, 50)
    assert image.device.type == "cpu"


def test_bad_input(tmp_path):
    with pytest.raises(ValueError, match="count=0 must be at least 1"):
        measure(Brightness(), torch.device("cpu"), SIZES, 0, 0, print)
    if not torch.cuda.is_available():
        with pytest.raises(RuntimeError, match="No CUDA device"):
            measure(Brightness(), torch.device("cuda"), SIZES, 0, 1, print)
    fake = ["--model", "tests.submission.fake_model.Brightness"]
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        prepare(ModelConfig([*fake, "--ckpt_path", str(tmp_path / "x.ckpt")]))
    with pytest.raises(ValueError, match="EarlyStopping: such callbacks run inside a trainer only"):
        prepare(ModelConfig([*fake, "--trainer.callbacks", "EarlyStopping", "--trainer.callbacks.monitor", "x"]))
