"""The MVTec AD 2 leaderboard's runtime and memory protocol, and its CSV.

Batch size 1; on a GPU 1000 images of warm-up and 1000 measured ones, on a CPU 1000 measured ones; the clock runs from the copy
of the image to the device until the anomaly image, at the input's size, is back on the CPU.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from anomalib.models import AnomalibModule

from anoclip_anomalib.files import atomic_write
from anoclip_anomalib.progress import Steps
from anoclip_anomalib.running.timing import PeakMemory, synchronise
from anoclip_anomalib.submission.model_config import ModelConfig

Size = tuple[int, int]
"""(height, width)."""

SIZES: tuple[Size, ...] = ((256, 256), (512, 512), (1024, 1224))
"""Of the images, by the protocol."""


@dataclass(frozen=True)
class Runtime:
    """One row of the table; times in seconds.

    Attributes:
        peak_memory: MiB. On a GPU what the allocator had reserved at most, as the protocol asks; on a CPU, where it asks for
            nothing, the process's largest resident memory during the measurement.
    """

    image_height: int
    image_width: int
    runtime_mean: float
    runtime_std: float
    runtime_min: float
    runtime_max: float
    peak_memory: float


def prepare(config: ModelConfig) -> AnomalibModule:
    """Build a model (from its checkpoint if one is given) so that it can score an image outside a trainer.

    Callbacks that can be attached to a model, as test-time adaptation can, are, so that their time is measured too.

    Raises:
        ValueError: If the configuration has other callbacks: what they do at test time would not be measured.
        FileNotFoundError: If the checkpoint does not exist.
    """
    model, callbacks, _ = config.build()
    if alien := [type(callback).__name__ for callback in callbacks if not hasattr(callback, "attach")]:
        raise ValueError(f"{', '.join(alien)}: such callbacks run inside a trainer only and are not measured; leave them out")
    if checkpoint := config.checkpoint():
        model = type(model).load_from_checkpoint(checkpoint, map_location="cpu")
    else:
        try:
            model.setup("predict")
        except RuntimeError as error:
            # Some of anomalib's models look for the trainer's data here, which has no influence on their speed.
            if "Trainer" not in str(error):
                raise
    for callback in callbacks:
        callback.attach(model.model)
    return model


def protocol_counts(device: torch.device) -> tuple[int, int]:
    """(warm-up, measured) numbers of images that the protocol asks for."""
    return (0, 1000) if device.type == "cpu" else (1000, 1000)


def anomaly_image(model: AnomalibModule, image: torch.Tensor, device: torch.device) -> torch.Tensor:
    """From an image on the CPU to its anomaly image on the CPU.

    Args:
        model: On ``device``, in eval mode.
        image: (1, 3, H, W) in [0, 1] on the CPU.
        device: Where the model is.

    Returns:
        (1, 1, H, W) float32 on the CPU.
    """
    on_device = image.to(device)
    prepared = model.pre_processor(on_device) if model.pre_processor else on_device
    anomaly_map = model.model(prepared).anomaly_map
    if anomaly_map is None:
        raise ValueError(f"{type(model).__name__} gives no anomaly map; this leaderboard is about maps")
    anomaly_map = anomaly_map if anomaly_map.ndim == 4 else anomaly_map.unsqueeze(1)
    return F.interpolate(anomaly_map.float(), size=image.shape[-2:], mode="bilinear", align_corners=False).cpu()


def measure(
    model: AnomalibModule, device: torch.device, sizes: Sequence[Size], warmup: int, count: int, progress: Callable[..., None]
) -> list[Runtime]:
    """Measure a model by the protocol.

    Args:
        model: A model that is ready to predict.
        device: ``cpu`` or ``cuda``.
        sizes: Of the images.
        warmup: Images before the clock counts; see ``protocol_counts``.
        count: Images measured.
        progress: Called with the size as text and 1 for each image.

    Returns:
        One row for each size.

    Raises:
        ValueError: If ``count`` is below 1 or ``warmup`` negative.
        RuntimeError: If the device is not there.
    """
    if device.type == "cuda" and not torch.cuda.is_available():
        raise RuntimeError("No CUDA device is available; measure on --device cpu, or run on a machine with a GPU")
    if count < 1 or warmup < 0:
        raise ValueError(f"count={count} must be at least 1 and warmup={warmup} at least 0")
    model = model.eval().to(device)
    rows = []
    for height, width in sizes:
        image = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(0))
        times = []
        with torch.inference_mode(), PeakMemory() as memory:
            for number in range(warmup + count):
                synchronise(device)
                begun = time.perf_counter()
                anomaly_image(model, image, device)
                synchronise(device)
                if number >= warmup:
                    times.append(time.perf_counter() - begun)
                progress(f"{width} x {height}", 1)
        peak = memory.cpu_peak_mib if device.type == "cpu" else float(memory.gpu_peak_mib or 0)
        rows.append(Runtime(height, width, float(np.mean(times)), float(np.std(times)), min(times), max(times), peak))
    return rows


def make_table(
    config: ModelConfig,
    folder: Path,
    progress: Steps,
    device: str | None = None,
    sizes: Sequence[Size] | None = None,
    warmup: int | None = None,
    count: int | None = None,
) -> tuple[list[Runtime], Path, tuple[int, int]]:
    """Measure a model and write ``runtimes_and_memory_cpu.csv`` or ``..._gpu.csv``; what is ``None`` is as the protocol asks.

    Args:
        config: The model.
        folder: Where the table goes.
        progress: Told of every image.
        device: ``cpu`` or ``cuda``; ``None`` for the GPU if there is one.
        sizes: Of the images.
        warmup: Images before the clock counts.
        count: Images measured.

    Returns:
        The rows, the file, and the numbers of images before and while the clock counts.

    Raises:
        ValueError: See :func:`prepare` and :func:`measure`.
        RuntimeError: If the device is not there.
        FileNotFoundError: If the checkpoint does not exist.
    """
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    model, sizes = prepare(config), sizes or SIZES
    asked = protocol_counts(place)
    before, measured = (asked[0] if warmup is None else warmup), count or asked[1]
    progress.start(f"measuring on {place}", len(sizes) * (before + measured))
    rows = measure(model, place, sizes, before, measured, progress=lambda _, images: progress.advance(images))
    path = write_runtime_csv(folder / f"runtimes_and_memory_{'cpu' if place.type == 'cpu' else 'gpu'}.csv", rows)
    return rows, path, (before, measured)


def write_runtime_csv(path: str | Path, rows: Sequence[Runtime]) -> Path:
    """Write the leaderboard's table, such as ``runtimes_and_memory_gpu.csv``."""
    with atomic_write(path) as temporary:
        pd.DataFrame(rows).to_csv(temporary, index=False, lineterminator="\n")
    return Path(path)
