"""How fast a remote model may be asked: so many images a second, never more."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from salience.errors import SettingsError

SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass
class Rate:
    """A token bucket that holds one request: images are paid for by the time that follows them.

    After a request of n images the next one waits until n / ``per_second`` seconds have gone by. So between the
    beginnings of any two requests no more than ``per_second`` images a second were sent, whatever the requests' sizes,
    and time that was not used is not saved up.

    Parameters
    ----------
    per_second
        Images a second.
    clock, sleep
        Seconds now, and how to wait; others under test.
    """

    per_second: float
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    _free_at: float = field(default=float("-inf"), init=False)

    def take(self, images: int) -> None:
        """Wait until ``images`` may be sent."""
        now = self.clock()
        if now < self._free_at:
            self.sleep(self._free_at - now)
            now = self._free_at
        self._free_at = now + images / self.per_second


def parse_rate(text: str) -> float:
    """Read ``50/s``, ``600/m``, ``9000/h`` or ``50`` (a second) as images a second.

    Raises
    ------
    SettingsError
        When it is something else, or not above 0.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(?:/([smh]))?", text.strip())
    if found is None or float(found[1]) <= 0:
        raise SettingsError(f"The rate is {text!r}; images in a time above 0 are needed, e.g. 50/s, 600/m or 9000/h.")
    return float(found[1]) / SECONDS[found[2] or "s"]
