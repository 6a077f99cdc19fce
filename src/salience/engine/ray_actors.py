"""Workers that are actors of a Ray cluster: one on this machine, or one that stands already.

Actors write into the run directory themselves, so it must be a place that all machines of the cluster see under the
same path; only what a unit came to goes back to the command. Actors are made as the cluster has room for them: a node
that joins brings more, one that leaves takes its own away, and their units go to others.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from dataclasses import dataclass, field
from typing import Any

from salience.engine.crew import TRIES, Crew, Died, Done, Task
from salience.engine.worker import Assignment, Team, Worker
from salience.errors import ModelError, SalienceError, SettingsError

LOOK_S = 1.0
"""So often is looked whether the cluster has got room for more actors."""
READY_S = 600.0
"""So long may the first actor take to be placed and to load the model."""


class _Actor:
    """A worker as an actor; its errors come back as values, so that they keep their kind."""

    def __init__(self) -> None:
        self._worker = Worker()

    def begin(self, assignment: Assignment, device: str, threads: int) -> SalienceError | None:
        try:
            self._worker.begin(assignment, device, threads)
        except SalienceError as error:
            return error
        return None

    def do(self, task: Task) -> Done | SalienceError:
        try:
            return self._worker.do(task)
        except SalienceError as error:
            return error


@dataclass
class _Member:
    """An actor, and what it does: loads the model (no task), waits (nothing under way), or works."""

    actor: Any
    under_way: Any
    task: Task | None = None
    ready: bool = False


@dataclass
class Actors(Team):
    """Ray actors, up to as many as the crew has workers.

    Raises
    ------
    SettingsError
        When Ray is not installed, or there is no such cluster.
    """

    crew: Crew
    _members: list[_Member] = field(default_factory=list)
    _cores: int = 0
    _begun: bool = False
    _stillborn: int = 0
    """So many actors in turn ended before they had the model, and not with their node."""

    def __post_init__(self) -> None:
        self._ray = _connect(self.crew)
        self._remote = self._ray.remote(_Actor)

    def assign(self, assignment: Assignment, device: str) -> None:
        """Have all actors get ready for an assignment; those that wait for room are asked for anew."""
        threads = assignment.plan.threads
        cores = max(1, threads // self.crew.workers) if self.crew.address == "local" else max(1, threads)
        kept = [m for m in self._members if m.ready and cores == self._cores]
        for member in self._members:
            if member not in kept:
                self._ray.kill(member.actor)
        self._members, self._cores = kept, cores
        self._device = "cuda" if self.crew.gpus else device
        self._shared = self._ray.put(assignment)
        self._since, self._begun, self._stillborn = time.monotonic(), False, 0
        for member in kept:
            member.ready, member.under_way = False, self._brief(member.actor)
        self._fill()

    def _brief(self, actor: Any) -> Any:
        return actor.begin.remote(self._shared, self._device, self._cores)

    def _fill(self) -> None:
        """Ask for as many actors as are missing; those that have no room yet wait for it."""
        while len(self._members) < self.crew.workers:
            options = {"num_cpus": self._cores, "num_gpus": self.crew.gpus, "max_restarts": 0}
            actor = self._remote.options(**options).remote()
            self._members.append(_Member(actor, self._brief(actor)))

    def idle(self) -> int:
        """Return how many actors have the model and nothing to do."""
        return sum(m.ready and m.under_way is None for m in self._members)

    def give(self, task: Task) -> None:
        """Send a task to an actor that has none."""
        chosen = next(m for m in self._members if m.ready and m.under_way is None)
        chosen.task = task
        chosen.under_way = chosen.actor.do.remote(task)

    def wait(self) -> list[Done | Died]:
        """Wait for an answer or a death; also ends when an actor has become ready."""
        self._fill()
        waiting = {m.under_way: m for m in self._members if m.under_way is not None}
        ended, _ = self._ray.wait(list(waiting), num_returns=1, timeout=LOOK_S)
        if not self._begun and time.monotonic() - self._since > READY_S:
            raise SettingsError(
                f"No worker could be placed on the cluster in {READY_S:.0f} s: each asks for {self._cores} CPU cores "
                f"and {self.crew.gpus:g} GPUs. Ask for less, or add nodes."
            )
        found: list[Done | Died] = []
        for answer in ended:
            found += self._hear(waiting[answer])
        return found

    def _hear(self, member: _Member) -> list[Done | Died]:
        task, loading = member.task, not member.ready
        answer, member.under_way, member.task = member.under_way, None, None
        try:
            said = self._ray.get(answer)
        except self._ray.exceptions.RayActorError as error:
            self._members.remove(member)
            how = str(error).strip().splitlines()[0]
            if loading and "node" not in how.lower():
                self._stillborn += 1
                if self._stillborn >= TRIES:
                    raise ModelError(f"A worker ended while it loaded the model: {how}") from None
            return [] if task is None else [Died(task, how)]
        except self._ray.exceptions.RayTaskError as error:
            raise RuntimeError(str(error)) from None
        if isinstance(said, SalienceError):
            raise said
        if loading:
            member.ready, self._begun, self._stillborn = True, True, 0
            return []
        assert isinstance(said, Done)
        return [said]

    def close(self) -> None:
        """End the actors, and the cluster where it was started here."""
        for member in self._members:
            self._ray.kill(member.actor)
        if self.crew.address == "local":
            self._ray.shutdown()


def _connect(crew: Crew) -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError as error:
        raise SettingsError("--engine ray needs Ray, which is not installed: pip install 'salience[ray]'.") from error
    if ray.is_initialized():
        return ray
    _check_reachable(crew.address)
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if crew.address == "local":
        quiet["include_dashboard"] = False
    try:
        ray.init(address=crew.address, **quiet)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise SettingsError(f"There is no Ray cluster at {crew.address!r}: {str(error).splitlines()[0]}") from error
    return ray


def _check_reachable(address: str) -> None:
    """Knock at an address first: Ray itself knocks for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdecimal():
        return  # local, auto: Ray finds those itself
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except OSError as error:
        raise SettingsError(
            f"There is no Ray cluster at {address!r}: {error.strerror or error}. 'ray status' on its head tells the "
            "address; 'ray start --head' starts one."
        ) from error
