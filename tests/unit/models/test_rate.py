"""How fast a remote model is asked, with a clock of our own."""

from __future__ import annotations

import pytest

from salience.errors import SettingsError
from salience.models.rate import Rate, parse_rate


class Clock:
    def __init__(self) -> None:
        self.now = 100.0
        self.slept: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


def rate(clock: Clock, per_second: float) -> Rate:
    return Rate(per_second, clock=lambda: clock.now, sleep=clock.sleep)


def test_requests_wait_as_long_as_their_predecessors_images_take(clock: Clock) -> None:
    bucket = rate(clock, 8.0)
    begun = []
    for images in (16, 4, 1, 16):
        bucket.take(images)
        begun.append(clock.now)
    assert begun == [100.0, 102.0, 102.5, 102.625]
    assert clock.slept == [2.0, 0.5, 0.125]


def test_time_that_was_not_used_is_not_saved_up(clock: Clock) -> None:
    bucket = rate(clock, 10.0)
    bucket.take(10)
    clock.now += 60.0
    bucket.take(10)
    assert clock.slept == []
    bucket.take(10)
    assert clock.slept == [1.0]


def test_a_slow_answer_counts_towards_the_wait(clock: Clock) -> None:
    bucket = rate(clock, 4.0)
    bucket.take(4)
    clock.now += 0.75  # the answer took so long
    bucket.take(4)
    assert clock.slept == [0.25]


@pytest.mark.parametrize(
    ("text", "per_second"), [("50/s", 50), ("50", 50), ("600/m", 10), ("9000/h", 2.5), (" 1.5/s", 1.5)]
)
def test_rates_as_text(text: str, per_second: float) -> None:
    assert parse_rate(text) == per_second


@pytest.mark.parametrize("text", ["", "0/s", "-1", "fast", "50/d", "1e3", "nan", "inf"])
def test_what_is_no_rate_is_told(text: str) -> None:
    with pytest.raises(SettingsError, match="50/s, 600/m or 9000/h"):
        parse_rate(text)
