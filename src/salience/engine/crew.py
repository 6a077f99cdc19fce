"""Work units on several workers: which worker does what, and what becomes of a unit whose worker dies.

A pool starts workers, hands tasks to them and tells of what comes back; there is one of processes on this machine and
one of Ray's actors. What is in here is the same for both: units are numbered before they are given out, as one process
would number them, so maps and tables do not depend on who computed what. A unit that its worker did not survive is
tried once more on another. If that one dies too, the unit's images are tried one by one, and those that still take
their worker with them become failures.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from salience.errors import SettingsError
from salience.store.unit import FailureRow

TRIES = 2
"""So many workers may die of a unit before it is taken apart, and of an image before it is given up."""


@dataclass(frozen=True)
class Crew:
    """Who does the work.

    Parameters
    ----------
    engine
        ``local``: processes on this machine; ``ray``: actors of a Ray cluster.
    workers
        How many; on a cluster, as many of them as there is room for work at a time, and more when nodes join.
    address
        Of the cluster: ``local`` starts one here, ``auto`` finds the one that this machine is in, or ``ray://...``.
    gpus
        Graphics cards of one worker, on Ray; a part of one lets several workers share it.
    """

    engine: Literal["local", "ray"] = "local"
    workers: int = 1
    address: str = "local"
    gpus: float = 0.0

    def __post_init__(self) -> None:
        if self.engine not in ("local", "ray"):
            raise SettingsError(f"The engine is {self.engine!r}; choose local or ray.")
        if self.workers < 1:
            raise SettingsError(f"workers is {self.workers}: 1 or more are needed.")
        if self.gpus < 0:
            raise SettingsError(f"gpus is {self.gpus}: 0 or more are needed.")


@dataclass(frozen=True)
class Task:
    """A work unit: its number, the places of its images in the source, and what they lack, as the work numbers it."""

    number: int
    images: tuple[int, ...]
    members: tuple[int, ...]


@dataclass(frozen=True)
class Done:
    """What a worker tells of a unit that it has written.

    ``grids`` are those of its maps, by recipe.
    """

    number: int
    computed: int
    failures: tuple[FailureRow, ...]
    forward: int
    backward: int
    batch: int
    grids: dict[str, tuple[int, int]] = field(default_factory=dict)


@dataclass(frozen=True)
class Died:
    """A worker ended in the middle of a task; ``how`` tells what is known of it."""

    task: Task
    how: str


class Pool(ABC):
    """Whoever does one task at a time: workers, or this process."""

    @abstractmethod
    def idle(self) -> int:
        """Return how many workers could begin a task now."""

    @abstractmethod
    def give(self, task: Task) -> None:
        """Give a task to an idle worker."""

    @abstractmethod
    def wait(self) -> list[Done | Died]:
        """Wait until a worker is done with its task, or died of it.

        Raises
        ------
        SalienceError
            What a worker raised: the model or the disk failed.
        """


def distribute(
    tasks: Sequence[Task],
    pool: Pool,
    reserve: Callable[[Task], int],
    done: Callable[[Done], None],
    lost: Callable[[Task, str], None],
) -> None:
    """Have a pool do all tasks.

    Parameters
    ----------
    reserve
        Sets numbers aside for the images of a unit that is taken apart, and returns the first.
    done
        Is told of every unit that was written.
    lost
        Is told of every image that no worker survived, as a task of it alone, and how they died.
    """
    waiting: deque[tuple[Task, int]] = deque((task, 0) for task in tasks)
    tried: dict[int, int] = {}
    while waiting or tried:
        while waiting and pool.idle():
            task, deaths = waiting.popleft()
            tried[task.number] = deaths
            pool.give(task)
        for outcome in pool.wait():
            if isinstance(outcome, Done):
                del tried[outcome.number]
                done(outcome)
                continue
            task = outcome.task
            deaths = tried.pop(task.number) + 1
            if deaths < TRIES:
                waiting.append((task, deaths))
            elif len(task.images) > 1:
                first = reserve(task)
                single = (Task(first + i, (image,), task.members) for i, image in enumerate(task.images))
                waiting.extend((one, 0) for one in single)
            else:
                lost(task, outcome.how)
