"""Models that take their time or die, for tests of resuming and of distribution."""

import os
import time
from pathlib import Path

from tests.evaluation.scorer import Brightness


class Slow(Brightness):
    """Sleeps in each test batch after leaving a sign in `marks`."""

    def __init__(self, seconds: float = 0.2, marks: str = ".", tag: str = "slow", busy: bool = False) -> None:
        super().__init__()
        self.seconds, self.marks, self.tag, self.busy = seconds, marks, tag, busy

    def test_step(self, batch, batch_idx, *args, **kwargs):
        if batch_idx == 0:
            (Path(self.marks) / f"{self.tag}-{os.getpid()}-{time.monotonic_ns()}").touch()
        if self.busy:
            end = time.process_time() + self.seconds
            while time.process_time() < end:
                sum(range(1000))
        else:
            time.sleep(self.seconds)
        return super().test_step(batch, batch_idx, *args, **kwargs)


class DiesOnce(Brightness):
    """Kills its process the first time, as a lost worker would."""

    def __init__(self, mark: str) -> None:
        super().__init__()
        self.mark = mark

    def test_step(self, batch, batch_idx, *args, **kwargs):
        path = Path(self.mark)
        if not path.exists():
            path.touch()
            os._exit(9)
        return super().test_step(batch, batch_idx, *args, **kwargs)
