"""A histogram of scores whose bins follow the scores: bounded memory, any score range.

float32 values keep their order when their bit pattern is read as an integer. That integer's upper 16 bits name a
*cell* (128 cells for every power of two), its lower 16 bits the place inside. A cell is divided into 2^b equal bins; b
is large where many scores lie (b = 16: one bin for each float32 value, hence exact) and small where few do. All bins
together never exceed ``capacity``, however many scores arrive.
"""

import numpy as np

CELL_BITS = 16  # half of a float32: a property of the number format, not a setting
CELLS = 1 << CELL_BITS


def float_to_key(values: np.ndarray) -> np.ndarray:
    """Map float32 values (any shape) to uint32 keys with the same order; -0.0 and 0.0 share a key."""
    bits = (np.asarray(values, dtype=np.float32) + np.float32(0.0)).view(np.int32)
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)).view(np.uint32) ^ np.uint32(0x80000000)


def key_to_float(keys: np.ndarray) -> np.ndarray:
    """Inverse of :func:`float_to_key`: uint32 keys to float32 values, same shape."""
    bits = (np.asarray(keys, dtype=np.uint32) ^ np.uint32(0x80000000)).view(np.int32)
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)).view(np.float32)


def plan_bits(mass: np.ndarray, capacity: int) -> tuple[np.ndarray, float]:
    """Choose the number of bins of each cell so that no bin holds much of the mass.

    Args:
        mass: (C,) non-negative share of the cells.
        capacity: Upper limit of the number of bins.

    Returns:
        (C,) exponents b in 0..16 with sum(2^b) <= capacity, and the mass that a bin may hold (0 when all are exact).

    Raises:
        ValueError: If there are more cells than bins.
    """
    if len(mass) > capacity:
        raise ValueError(f"{len(mass)} cells do not fit {capacity} bins; use a capacity of at least {CELLS}")
    if len(mass) * CELLS <= capacity:
        return np.full(len(mass), CELL_BITS, dtype=np.int64), 0.0
    limit = float(mass.sum()) / (4 * capacity)
    log_mass = np.log2(np.maximum(mass, np.finfo(np.float64).tiny))
    while True:
        bits = np.clip(np.ceil(log_mass - np.log2(limit)), 0, CELL_BITS).astype(np.int64)
        if int(np.left_shift(1, bits).sum()) <= capacity:
            return bits, limit
        limit *= 2


class ScoreHistogram:
    """Counts of scores in several channels, in at most ``capacity`` bins.

    Args:
        channels: Number of counters a bin holds. Channel 0 is the number of scores, others are sums of weights.
        capacity: Upper limit of the number of bins (>= 65536). Memory is about ``8 * channels * capacity`` bytes.
    """

    def __init__(self, channels: int = 1, capacity: int = 1 << 19) -> None:
        if capacity < CELLS:
            raise ValueError(f"capacity={capacity} must be at least {CELLS}")
        self.channels, self.capacity = channels, capacity
        self.reset()

    def reset(self) -> None:
        """Forget all scores."""
        self._cells: np.ndarray = np.empty(0, dtype=np.int64)  # (C,) touched cells, ascending
        self._bits: np.ndarray = np.empty(0, dtype=np.int64)  # (C,) their resolution
        self._counts = np.zeros((self.channels, 0))  # (channels, bins), bins in ascending key order
        self._offset: np.ndarray = np.full(CELLS, -1, dtype=np.int32)  # first bin of a cell
        self._shift: np.ndarray = np.zeros(CELLS, dtype=np.uint32)  # how many of the lower 16 bits a cell ignores
        self._cell_mass = np.zeros((self.channels, CELLS))
        self._limit = 0.0
        self.minimum, self.maximum = np.inf, -np.inf

    @property
    def bins(self) -> int:
        """Number of bins in use."""
        return self._counts.shape[1]

    def update(self, values: np.ndarray, *channels: tuple[np.ndarray, np.ndarray]) -> None:
        """Add scores.

        Args:
            values: (N,) finite scores, counted with weight 1 in channel 0.
            channels: For each further channel (index, weight): positions in ``values`` (K,) and their weights (K,).

        Raises:
            ValueError: If a score is not finite.
        """
        values = np.ascontiguousarray(values, dtype=np.float32).reshape(-1)
        if not len(values):
            return
        low, high = float(values.min()), float(values.max())
        if not np.isfinite(low + high):
            raise ValueError(f"{int((~np.isfinite(values)).sum())} of {len(values)} scores are not finite")
        self.minimum, self.maximum = min(self.minimum, low), max(self.maximum, high)
        keys = float_to_key(values)
        cells = (keys >> np.uint32(CELL_BITS)).astype(np.int32)
        weighted = ((slice(None), None), *channels)  # all scores, each once, and the further channels
        for row, (index, weight) in enumerate(weighted):
            self._cell_mass[row] += np.bincount(cells[index], weights=weight, minlength=CELLS)
        if self._needs_plan():
            self._replan()
        bins = ((keys & np.uint32(CELLS - 1)) >> self._shift[cells]).astype(np.int32)
        bins += self._offset[cells]
        for row, (index, weight) in enumerate(weighted):
            self._counts[row] += np.bincount(bins[index], weights=weight, minlength=self.bins)

    def rows(self) -> np.ndarray:
        """Bins that hold something, ascending: (bins, 1 + channels) float64 of score (bin's lower end) and counters.

        With the lower end, ``score > threshold`` is right for every bin that holds a single value, also where the threshold
        is that very value. Rows of several histograms may be concatenated and used as one: so processes are merged.
        """
        kept = self._counts[0] > 0
        values: np.ndarray = key_to_float(self._bin_keys().astype(np.uint32)[kept]).astype(np.float64)
        return np.column_stack([values, self._counts[:, kept].T])

    def _share(self) -> np.ndarray:
        """(CELLS,) mean over channels of the share of that channel's total."""
        totals = self._cell_mass.sum(axis=1, keepdims=True)
        return (self._cell_mass / np.where(totals > 0, totals, 1)).sum(axis=0)

    def _needs_plan(self) -> bool:
        if (self._offset[self._cell_mass[0] > 0] < 0).any():
            return True
        crowded = self._share()[self._cells] / np.left_shift(1, self._bits) > 4 * self._limit
        return bool(self._limit > 0 and (crowded & (self._bits < CELL_BITS)).any())

    def _replan(self) -> None:
        """Choose all resolutions anew and carry the old bins over (into the new bin that holds their lower end)."""
        old_start = self._bin_keys()
        self._cells = np.flatnonzero(self._cell_mass[0] > 0)
        self._bits, self._limit = plan_bits(self._share()[self._cells], self.capacity)
        sizes = np.left_shift(1, self._bits)
        ends = np.cumsum(sizes)
        self._offset[self._cells] = ends - sizes
        self._shift[self._cells] = CELL_BITS - self._bits
        cells = old_start >> CELL_BITS
        target = self._offset[cells] + ((old_start & (CELLS - 1)) >> self._shift[cells].astype(np.int64))
        # Of nothing at all, numpy would count in whole numbers.
        self._counts = np.array([np.bincount(target, old, minlength=int(ends[-1])) for old in self._counts], dtype=np.float64)

    def _bin_keys(self) -> np.ndarray:
        """First key of every bin, (bins,) int64."""
        sizes = np.left_shift(1, self._bits)
        first: np.ndarray = np.repeat(np.cumsum(sizes) - sizes, sizes)
        width: np.ndarray = np.repeat(np.left_shift(1, CELL_BITS - self._bits), sizes)
        return np.repeat(self._cells << CELL_BITS, sizes) + (np.arange(len(first)) - first) * width
