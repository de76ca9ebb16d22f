"""The inspector: photographs in, results out. torch is loaded when one is made, not before."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, overload

from anoclip_anomalib.files import printable

if TYPE_CHECKING:
    import torch

    from anoclip_anomalib.inspection.contrast import Contrast
    from anoclip_anomalib.inspection.decision import Decision
    from anoclip_anomalib.inspection.good import State
    from anoclip_anomalib.inspection.inspection import Inspection

logger = logging.getLogger(__name__)

GPU_BATCH = 16
GENERAL = "object"
"""What the sentences say where no product was named."""


@dataclass
class _Prepared:
    """What belongs to one product, adapted or not: the good images, what the model knows of it, what is decided."""

    product: str | None
    adaptation: dict[str, Any] | None
    good: tuple[Any, ...]
    state: "State"
    decision: "Decision | None"
    contrast: "Contrast | None"


class Inspector:
    """Inspects photographs of a product.

    A score depends on its photograph alone, and is what ``anoclip predict`` gives with the same model and arguments. Several
    inspectors may live in one process; neither threads nor random numbers of torch are touched.

    Args:
        product: What is to be seen, such as ``"cookie"``: the sentences are about it. ``None`` for "object".
        good: Photographs of good parts: a folder, or a list of photographs. They give the thresholds, and AnoClip compares
            others with them.
        model: One of ``anoclip_anomalib.registry.MODELS``; ``None`` for :func:`usual_model`'s: AnoClip, but AaClip with
            adapters, and with its bundled ones where no encoder, good photographs or settings are given.
        backbone: open_clip architecture, ``"demo"`` for the bundled encoder; ``None`` for that of the adapters, or ``"demo"``.
        weights: Of the backbone: an open_clip tag or a file; ``None`` for its usual ones. A file that ``anoclip train``
            wrote is taken for ``adapters``.
        adapters: Learned weights for AaClip; ``None`` for the bundled ones of the bundled encoder.
        device: ``"auto"`` for a GPU if there is one, or as torch names it.
        threshold: ``"auto"``: from the good images, without any there is no verdict. ``"natural"``: where the model is
            undecided. A number: scores above it are defects.
        image_size: Side, or (height, width), that photographs are resized to; ``None`` for what suits the encoder.
        batch_size: Photographs that go through the encoder at once; ``None`` for 16 on a GPU and 1 on the CPU, where more are
            no faster. Results of other batches differ by rounding.
        false_alarms: Share of good photographs that may be called defects, if there are good images enough to promise it.
        settings: Further arguments of the model, such as ``precision="bfloat16"``, ``tiling="square"`` or ``pool=FILE``.

    Attributes:
        model: Its name.
        device: Where the model is.
        batch_size: As it is used.
        module: The Lightning model.

    Raises:
        ValueError: For an argument that cannot be used, with what could be.
        FileNotFoundError: If a file of weights is not there.
        WeightsUnavailableError: If weights must be downloaded and cannot be.
    """

    def __init__(
        self,
        product: str | None = None,
        good: "str | Path | Sequence[Any] | None" = None,
        model: str | None = None,
        backbone: str | None = None,
        weights: str | None = None,
        adapters: str | None = None,
        device: str = "auto",
        threshold: str | float = "auto",
        image_size: int | tuple[int, int] | None = None,
        batch_size: int | None = None,
        false_alarms: float = 0.1,
        **settings: Any,
    ) -> None:
        from anoclip_anomalib.inspection.decision import check_threshold
        from anoclip_anomalib.inspection.model import build_model, check_model, on_device, usual_model

        model = check_model(model or usual_model(adapters, backbone, weights, good, settings or None))
        self._threshold = check_threshold(threshold)
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size={batch_size} must be at least 1")
        if not 0 < false_alarms < 1:
            raise ValueError(f"false_alarms={false_alarms} must be a share between 0 and 1")
        _check_product(product)
        self.model, self.false_alarms = model, false_alarms
        from anoclip_anomalib.inspection.good import collect_good  # from here on torch is needed
        from anoclip_anomalib.running.quiet import quiet

        images = collect_good(good)
        with quiet():
            module = build_model(model, backbone, weights, adapters, image_size, settings)
            self.module, self.device = on_device(module, device)
        self.batch_size = batch_size or (1 if self.device == "cpu" else GPU_BATCH)
        self._alone = Lock()
        self._prepared: dict[tuple[str | None, str], _Prepared] = {}
        self._current: _Prepared
        self._select(product, None, images)

    # Which product, and how

    def use(self, product: str | None, good: "str | Path | Sequence[Any] | None" = None) -> "Inspector":
        """Turn to another product, with the same encoder.

        What was prepared once is kept: turning back takes less than a millisecond. Good images belong to a product.

        Args:
            product: As in the constructor.
            good: Its good images; ``None`` for those that were given for it before, if any.

        Returns:
            This inspector.
        """
        _check_product(product)
        from anoclip_anomalib.inspection.good import collect_good

        self._select(product, self._current.adaptation, None if good is None else collect_good(good))
        return self

    def adapt(self, on: bool = True, **settings: Any) -> "Inspector":  # noqa: FBT001, FBT002
        """Turn test-time adaptation on or off: AnoCLIP+ adapts to every photograph by itself before it is scored.

        Args:
            on: Whether it is on from now on.
            settings: See :class:`anoclip_anomalib.anoclip.adapter.AdaptationSettings`.

        Returns:
            This inspector.

        Raises:
            TypeError: If the model has no place for it.
            ValueError: If the settings cannot be used, or make a score depend on other photographs.
        """
        from anoclip_anomalib.anoclip.callbacks import TestTimeAdaptation, check_seam

        check_seam(self.module.model)
        if on and TestTimeAdaptation(**settings).changed_facts["sees_other_test_images"]:
            raise ValueError(
                "reset_optimizer=False makes a score depend on the photographs before it; the inspector has none of that"
            )
        self._select(self.product, settings if on else None)
        return self

    @property
    def contrast(self) -> "Contrast | None":
        """(low, high) of the values in pictures: from the good images, else from the photographs so far; ``None`` at first."""
        return self._current.contrast or self._seen.limits

    # Photographs

    @overload
    def __call__(self, photos: "str | Path") -> "Inspection": ...

    @overload
    def __call__(self, photos: Any) -> Any: ...

    def __call__(self, photos: Any) -> Any:
        """Inspect photographs.

        Args:
            photos: A path, a PIL image, a numpy array (H, W, 3) in RGB, a tensor (3, H, W), or a list of these; uint8,
                uint16 or floats in [0, 1]. See :func:`anoclip_anomalib.inspection.photographs.as_tensor`.

        Returns:
            A result, or a list of them. Those of a list share their contrast, and hold no files' pixels.

        Raises:
            OSError: If a file cannot be read.
            ValueError: If an array has another shape or range.
        """
        from anoclip_anomalib.inspection.photographs import is_one

        if is_one(photos):
            return next(self.stream([photos]))
        results = []
        for result in self.stream(photos):
            result.release()
            results.append(result)
        return results

    def stream(self, photos: Iterable[Any], *, faults: bool = False, fill: bool = False) -> "Iterator[Inspection]":
        """Inspect photographs as they come; no more than a batch is read ahead.

        Args:
            photos: As in :meth:`__call__`, any number, also from a generator that never ends.
            faults: What cannot be inspected becomes a result with its ``fault`` instead of an error.
            fill: Fill up the last batch, and those with a fault: the last bit of a score may depend on the size of its batch,
                and a run that is split otherwise shall give the same.

        Yields:
            A result for each, in order.

        Raises:
            OSError: If a file cannot be read, after the results of those before it; not with ``faults``.
            ValueError: If an array has another shape or range, likewise.
        """
        from anoclip_anomalib.inspection.photographs import is_one

        if is_one(photos) or not isinstance(photos, Iterable):
            raise TypeError(f"Photographs to stream must be a list or a generator; got a single {type(photos).__name__}")
        source = iter(photos)
        while batch := list(islice(source, self.batch_size)):
            yield from self._batch(batch, faults=faults, fill=fill)

    def check_overlap(self, photos: Sequence["str | Path"]) -> None:
        """Warn of photographs that are among the good images, by file or by content, with their names."""
        from anoclip_anomalib.zeroshot.normal_images import check_leakage

        good = [Path(image.path) for image in (self.decision.good if self.decision else ()) if image.path]
        if good:
            check_leakage([path for path in good if path.is_file()], [Path(photo) for photo in photos], refuse=False)

    def describe(self) -> dict[str, Any]:
        """What a result came from: model, encoder, weights and their digest, product, size, device, versions."""
        from anoclip_anomalib.files import plain
        from anoclip_anomalib.versions import versions, weights_digest

        model, facts = self.module.model, self.module.method_facts
        return plain(
            {
                "model": self.model,
                **{key: value for key, value in getattr(model, "provenance", {}).items() if key != "weights_digest"},
                "weights_digest": weights_digest(self.module),
                "product": self.product,
                "image_size": getattr(model, "image_size", None),
                "tiling": getattr(model, "tiling", "none"),
                "device": self.device,
                "adaptation": self._current.adaptation is not None,
                "auxiliary_data": facts.auxiliary_data,
                "category_data": facts.category_data,
                "versions": versions(),
            }
        )

    # Inside

    @property
    def product(self) -> str | None:
        """As it is now."""
        return self._current.product

    @property
    def decision(self) -> "Decision | None":
        """Thresholds and where they come from; ``None``: there is no verdict."""
        return self._current.decision

    def _select(self, product: str | None, adaptation: dict[str, Any] | None, good: tuple[Any, ...] | None = None) -> None:
        """Turn to a product, with new good images or those that it had; if that fails, everything is as it was."""
        from anoclip_anomalib.inspection.contrast import RunContrast
        from anoclip_anomalib.inspection.good import restore

        key = (product, repr(adaptation))
        if good is None and key in self._prepared:
            restore(self._prepared[key].state)
        else:
            before = next((one.good for (name, _), one in self._prepared.items() if name == product), ())
            try:
                prepared = self._prepare(product, adaptation, before if good is None else good)
            except BaseException:
                if self._prepared:
                    restore(self._current.state)
                raise
            if good is not None:
                self._prepared = {known: one for known, one in self._prepared.items() if known[0] != product}
            self._prepared[key] = prepared
        self._current = self._prepared[key]
        self._seen = RunContrast()

    def _prepare(self, product: str | None, adaptation: dict[str, Any] | None, good: tuple[Any, ...]) -> _Prepared:
        from anoclip_anomalib.inspection.good import decide, state_of

        model = self.module.model
        if hasattr(model, "adapter"):
            model.adapter = None
        if getattr(self.module, "needs_class", False):
            if product is None:
                logger.warning("No product was named: the sentences say %r. Name it, for instance product='cookie'", GENERAL)
            model.set_class(product or GENERAL)
            if product is not None and not _is_known(model, product):
                logger.info(
                    "Nothing is known about %r but its name: the general words for good and defective are used", product
                )
        if adaptation is not None:
            from anoclip_anomalib.anoclip.callbacks import TestTimeAdaptation

            TestTimeAdaptation(**adaptation).attach(model)
        decision, contrast = decide(self.module, good, self._threshold, self.false_alarms)
        return _Prepared(product, adaptation, good, state_of(model), decision, contrast)

    def _batch(self, photos: list[Any], *, faults: bool, fill: bool) -> "Iterator[Inspection]":
        from anoclip_anomalib.inspection.inspection import Inspection
        from anoclip_anomalib.inspection.photographs import as_tensor, to_bytes
        from anoclip_anomalib.inspection.scores import score_images

        self.check_overlap([photo for photo in photos if isinstance(photo, str | Path)])
        read: list[torch.Tensor | Exception] = []
        for photo in photos:
            try:
                read.append(as_tensor(photo))
            except (OSError, ValueError, TypeError) as error:
                read.append(error)
                if not faults:  # after the results of those before it
                    break
        images = [one for one in read if not isinstance(one, Exception)]
        filled = images + images[-1:] * (self.batch_size - len(images)) if fill else images
        # A GPU has room for one batch, and an adapter for one image.
        with nullcontext() if self.device == "cpu" and self._current.adaptation is None else self._alone:
            scored = iter(score_images(self.module, filled))
        # As it is now: between two results somebody may turn to another product.
        contrast, seen = self._current.contrast, self._seen
        result = partial(Inspection, decision=self.decision, contrast=contrast or seen)
        for photo, image in zip(photos, read, strict=False):
            path = Path(photo) if isinstance(photo, str | Path) else None
            if isinstance(image, Exception):
                if not faults:
                    raise image
                yield result(path, float("nan"), None, fault=printable(str(image)))
                continue
            score, anomaly_map, fault = next(scored)
            if fault is not None and not faults:
                raise ValueError(f"{printable(path) if path else 'The photograph'}: {fault}")
            if fault is None and contrast is None:
                with self._alone:
                    seen.update(anomaly_map)
            yield result(path, score, None if fault else anomaly_map, photograph=to_bytes(image), fault=fault)


def _is_known(model: Any, product: str) -> bool:
    """Whether words of its own stand in the sentences about a product; other methods say so themselves."""
    builder = getattr(model, "prompt_builder", None)
    if builder is None:
        return True
    own = ("class_names", "texture_classes", "extra_normal_states", "extra_abnormal_states", "knowledge")
    return any(product in (getattr(builder, name, None) or ()) for name in own)


def _check_product(product: str | None) -> None:
    if product is not None and not (isinstance(product, str) and product.strip()):
        raise ValueError(f"product={product!r} must be the product's name, such as 'cookie'")
