"""How units are given to workers, and what becomes of those whose workers die: with a pool that only pretends."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from salience.engine.crew import Crew, Died, Done, Pool, Task, distribute
from salience.engine.processes import ended, share
from salience.errors import SettingsError


@dataclass
class Pretended(Pool):
    """Workers that die of some images always, and of some numbers of tasks once."""

    workers: int
    poison: frozenset[int] = frozenset()
    unlucky: set[int] = field(default_factory=set)
    under_way: list[Task] = field(default_factory=list)
    deaths: int = 0
    most: int = 0

    def idle(self) -> int:
        return self.workers - len(self.under_way)

    def give(self, task: Task) -> None:
        assert self.idle() > 0
        self.under_way.append(task)
        self.most = max(self.most, len(self.under_way))

    def wait(self) -> list[Done | Died]:
        task = self.under_way.pop(len(self.under_way) // 2)  # not in the order in which they were given
        if self.poison & set(task.images) or task.number in self.unlucky:
            self.unlucky.discard(task.number)
            self.deaths += 1
            return [Died(task, "it fell")]
        return [Done(task.number, len(task.images), (), 0, 0, 1)]


def run(pool: Pretended, tasks: list[Task]) -> tuple[Counter[int], Counter[int]]:
    """Return how often each image was done, and how often it was lost."""
    images = {task.number: task.images for task in tasks}
    numbers = iter(range(len(tasks), 10**6))
    done: Counter[int] = Counter()
    lost: Counter[int] = Counter()
    given: list[Task] = []
    give = pool.give

    def watched(task: Task) -> None:
        given.append(task)
        images[task.number] = task.images
        give(task)

    pool.give = watched  # type: ignore[method-assign]

    def reserve(task: Task) -> int:
        first, *_ = [next(numbers) for _ in task.images]
        return first

    distribute(
        tasks,
        pool,
        reserve,
        lambda outcome: done.update(images[outcome.number]),
        lambda task, how: lost.update(task.images),
    )
    return done, lost


def tasks_of(sizes: list[int]) -> list[Task]:
    found, at = [], 0
    for number, size in enumerate(sizes):
        found.append(Task(number, tuple(range(at, at + size)), (0,)))
        at += size
    return found


@given(
    st.lists(st.integers(1, 6), max_size=8),
    st.integers(1, 4),
    st.sets(st.integers(0, 40), max_size=4),
    st.sets(st.integers(0, 7), max_size=4),
)
def test_every_image_is_done_once_or_lost_once(
    sizes: list[int], workers: int, poison: set[int], unlucky: set[int]
) -> None:
    tasks = tasks_of(sizes)
    every = {i for task in tasks for i in task.images}
    pool = Pretended(workers, frozenset(poison), set(unlucky))
    done, lost = run(pool, tasks)
    assert set(lost) == poison & every  # only what kills again and again is given up
    assert set(done) == every - poison
    assert set(done.values()) | set(lost.values()) <= {1}
    assert pool.most <= workers


def test_one_death_costs_nothing() -> None:
    pool = Pretended(2, unlucky={1})
    done, lost = run(pool, tasks_of([3, 3, 3]))
    assert sum(done.values()) == 9
    assert not lost
    assert pool.deaths == 1


def test_a_poison_image_costs_four_workers() -> None:
    pool = Pretended(2, poison=frozenset({4}))
    done, lost = run(pool, tasks_of([3, 3, 3]))
    assert (sum(done.values()), dict(lost)) == (8, {4: 1})
    assert pool.deaths == 4  # twice as a unit, twice alone


def test_nothing_to_do_needs_no_worker() -> None:
    assert run(Pretended(1), []) == (Counter(), Counter())


@pytest.mark.parametrize("given_", [{"engine": "dask"}, {"workers": 0}, {"gpus": -1.0}])
def test_a_crew_that_makes_no_sense_is_refused(given_: dict[str, object]) -> None:
    with pytest.raises(SettingsError):
        Crew(**given_)  # type: ignore[arg-type]


def test_cores_are_shared_and_cards_taken_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    assert share("cpu", 8, 0, 3) == ("cpu", 2)
    assert share("cpu", 1, 0, 4) == ("cpu", 1)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert [share("cuda", 4, i, 3)[0] for i in range(3)] == ["cuda:0", "cuda:1", "cuda:0"]
    assert share("cuda:1", 4, 0, 2) == ("cuda:1", 4)


def test_how_a_process_ended_is_told() -> None:
    assert "SIGSEGV" in ended(-11)
    assert "out of memory" in ended(-9)
    assert "exit code 3" in ended(3)
    assert "200" in ended(-200)
