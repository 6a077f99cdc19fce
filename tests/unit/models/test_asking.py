"""Several questions at a time: every answer has its number, and an error loses none of the others."""

from __future__ import annotations

import threading
import time

import pytest

from salience.models.asking import as_answered


def whole(_: int, answer: int) -> int:
    return answer


@pytest.mark.parametrize("at_once", [1, 2, 5, 40])
@pytest.mark.parametrize("parts", [0, 1, 3, 20])
def test_every_part_is_asked_once(at_once: int, parts: int) -> None:
    asked: list[int] = []

    def ask(part: int) -> int:
        asked.append(part)
        return 10 * part

    assert sorted(as_answered(ask, range(parts), whole, at_once)) == [(i, 10 * i) for i in range(parts)]
    assert sorted(asked) == list(range(parts))


def test_no_more_than_so_many_at_a_time() -> None:
    inside, most, lock = 0, 0, threading.Lock()
    four = threading.Barrier(4, timeout=30)

    def ask(part: int) -> int:
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        four.wait()
        with lock:
            inside -= 1
        return part

    assert len(list(as_answered(ask, range(12), whole, 4))) == 12
    assert most == 4


def test_answers_under_way_come_before_the_error_and_nothing_more_is_asked() -> None:
    failed, asked = threading.Event(), []

    def ask(part: int) -> int:
        asked.append(part)
        if part == 0:
            failed.set()
            raise ValueError("no")
        failed.wait(30)
        time.sleep(0.05)  # the error is on its way
        return part

    found = as_answered(ask, range(30), whole, 3)
    got: list[tuple[int, int]] = []
    with pytest.raises(ValueError, match="no"):
        got.extend(found)  # what comes before the error stays
    assert {number for number, _ in got} == set(asked) - {0}
    assert len(asked) < 30


def test_an_answer_that_cannot_be_read_is_such_an_error() -> None:
    def read(number: int, answer: int) -> int:
        if number == 1:
            raise ValueError("unreadable")
        return answer

    got: list[tuple[int, int]] = []
    with pytest.raises(ValueError, match="unreadable"):
        got.extend(as_answered(int, range(3), read, 1))
    assert got == [(0, 0)]
    with pytest.raises(ValueError, match="unreadable"):
        got.extend(as_answered(int, range(3), read, 3))
    assert {(0, 0)} <= set(got) <= {(0, 0), (2, 2)}


def test_the_thread_that_waits_may_leave() -> None:
    release, asked = threading.Event(), []

    def ask(part: int) -> int:
        asked.append(part)
        if part:
            release.wait(30)
        return part

    answers = as_answered(ask, range(9), whole, 2)
    assert next(answers) == (0, 0)
    answers.close()
    release.set()
    for thread in threading.enumerate():
        if thread.name.startswith("ask-"):
            thread.join(30)
    assert len(asked) <= 3
