"""Workers that are processes on this machine: one for each graphics card, or a share of the cores for each."""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import pickle
import signal
import traceback
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

import torch

from salience.engine.crew import TRIES, Died, Done, Task
from salience.engine.worker import Assignment, Team, Worker
from salience.errors import ModelError, SalienceError, SettingsError


@dataclass
class _Process:
    """A worker's process, the way to it, what it was given, and whether it has the model of the last assignment."""

    process: BaseProcess
    pipe: Connection
    place: int
    task: Task | None = None
    ready: bool = False


@dataclass
class Processes(Team):
    """Spawned processes; one that dies is replaced at once.

    The workers of ``cuda`` take the cards in turn, those of the CPU share its cores.
    """

    workers: int
    _running: list[_Process] = field(default_factory=list)
    _assigned: int = 0
    _stillborn: int = 0
    """So many processes in turn ended before they had the model."""

    def __post_init__(self) -> None:
        self._context = multiprocessing.get_context("spawn")
        self._running = [self._start(i) for i in range(self.workers)]

    def _start(self, place: int) -> _Process:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_work, args=(theirs,), name=f"salience-worker-{place}", daemon=True)
        process.start()
        theirs.close()
        return _Process(process, ours, place)

    def assign(self, assignment: Assignment, device: str) -> None:
        """Send an assignment to all processes; they load the model side by side."""
        self._assignment, self._device, self._stillborn = assignment, device, 0
        self._assigned += 1
        packed = _packed(assignment)
        for worker in self._running:
            self._brief(worker, packed)

    def _brief(self, worker: _Process, packed: bytes) -> None:
        worker.ready = False
        device, threads = share(self._device, self._assignment.plan.threads, worker.place, self.workers)
        with contextlib.suppress(OSError):  # it is dead already: waiting will find out
            worker.pipe.send((self._assigned, device, threads))
            worker.pipe.send_bytes(packed)

    def idle(self) -> int:
        """Return how many processes have nothing to do; those that are still loading the model count too."""
        return sum(p.task is None for p in self._running)

    def give(self, task: Task) -> None:
        """Send a task to the first process that has none."""
        chosen = next(p for p in sorted(self._running, key=lambda p: not p.ready) if p.task is None)
        self._hand(chosen, task)

    def _hand(self, worker: _Process, task: Task) -> None:
        worker.task = task
        with contextlib.suppress(OSError):  # it is dead already: waiting will find out
            worker.pipe.send(task)

    def wait(self) -> list[Done | Died]:
        """Wait for an answer or a death."""
        found: list[Done | Died] = []
        while not found:
            by_pipe = {p.pipe: p for p in self._running}
            for pipe in wait(list(by_pipe)):
                assert isinstance(pipe, Connection)
                found += self._hear(by_pipe[pipe])
        return found

    def _hear(self, worker: _Process) -> list[Done | Died]:
        try:
            answer: Any = worker.pipe.recv()
        except (EOFError, OSError):
            return self._replace(worker)
        if isinstance(answer, int):
            worker.ready, self._stillborn = answer == self._assigned, 0
            return []
        if isinstance(answer, BaseException):
            raise answer
        worker.task = None
        return [answer]

    def _replace(self, worker: _Process) -> list[Done | Died]:
        """Put another process in the place of one that ended; one that had no model yet did not die of its task."""
        worker.process.join(10)
        worker.pipe.close()
        how, task = ended(worker.process.exitcode), worker.task
        if not worker.ready:
            self._stillborn += 1
            if self._stillborn >= TRIES:
                raise ModelError(f"A worker ended while it loaded the model: {how}.")
        other = self._running[self._running.index(worker)] = self._start(worker.place)
        self._brief(other, _packed(self._assignment))
        if task is None:
            return []
        if worker.ready:
            return [Died(task, how)]
        self._hand(other, task)
        return []

    def close(self) -> None:
        """End the processes: those that wait at once, those that work when they look up."""
        for worker in self._running:
            worker.pipe.close()
        for worker in self._running:
            worker.process.join(0.5)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()


def _packed(assignment: Assignment) -> bytes:
    """Return an assignment as bytes, tensors and all.

    Raises
    ------
    SettingsError
        When it holds something that cannot be sent.
    """
    try:
        return pickle.dumps(assignment, protocol=pickle.HIGHEST_PROTOCOL)
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        raise SettingsError(
            f"What was given cannot be sent to workers: {error}. Leave the workers out, or give files and names in the "
            "place of objects."
        ) from error


def share(device: str, threads: int, place: int, workers: int) -> tuple[str, int]:
    """Return a worker's device and its threads: the cards in turn, the threads of the plan in equal parts."""
    kind = device.partition(":")[0]
    if kind == "cuda" and ":" not in device:
        return f"cuda:{place % max(1, torch.cuda.device_count())}", threads
    if kind == "cpu":
        return device, max(1, (threads or torch.get_num_threads()) // workers)
    return device, threads


def ended(code: int | None) -> str:
    """Say how a process ended."""
    if code is None or code >= 0:
        return f"it ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = str(-code)
    reason = " (out of memory, or ended from outside)" if name == "SIGKILL" else ""
    return f"it was ended by {name}{reason}"


def _work(pipe: Connection) -> None:
    """Run a worker in its process, until the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the command's to answer
    _end_with_parent()
    worker = Worker()
    try:
        while True:
            given = pipe.recv()
            if isinstance(given, Task):
                pipe.send(worker.do(given))
            else:
                number, device, threads = given
                worker.begin(pickle.loads(pipe.recv_bytes()), device, threads)
                pipe.send(number)
    except (EOFError, OSError) as error:
        if not isinstance(error, (EOFError, BrokenPipeError, ConnectionResetError)):
            pipe.send(_portable(error))
    except Exception as error:
        pipe.send(_portable(error))
    finally:
        worker.close()


def _end_with_parent() -> None:
    """Have the system end this process when the command is killed, where it can (Linux)."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def _portable(error: Exception) -> Exception:
    """Return an error that another process can raise: one for people as it is, a surprise with its place."""
    if isinstance(error, SalienceError):
        return error
    return RuntimeError("".join(traceback.format_exception(error)))
