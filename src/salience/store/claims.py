"""Who writes a run on an object store: an object that says so, kept alive by its writer.

The object is ``.lock`` in the run, as the file that is locked in a folder. It is made only where there is none, and
changed only by who has seen its last version, so that of two commands one gets it. Its writer renews it; when that has
not happened for :data:`EXPIRY_S`, by the store's own clock, the claim has ended and another command may take the run.
"""

from __future__ import annotations

import json
import os
import socket
import time
import uuid
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from threading import Event, Lock, Thread
from typing import Any

from salience.errors import RunError
from salience.store.bucket import Bucket, Changed
from salience.store.entry import Entry, Version
from salience.store.object_path import ObjectPath

EXPIRY_S = 60.0
"""A claim that was not renewed for so long has ended."""
RENEW_S = 15.0
NAME = ".lock"


@dataclass(frozen=True)
class Holder:
    """What a claim says.

    Attributes
    ----------
    number
        Of the claim: larger than those of all claims on the run before.
    token
        Of the command that holds the run: the number and what tells it from all others; empty when it has let go.
    host, process
        Where it runs.
    machine
        The host since it was started, as its processes see each other; empty where that cannot be told.
    since
        When the claim was made (UTC).
    renewed
        How often the claim was renewed; each time makes another version of the object.
    """

    number: int
    token: str
    host: str
    process: int
    machine: str
    since: str
    renewed: int = 0

    def data(self) -> bytes:
        """Return the bytes of the object."""
        return (json.dumps(asdict(self), indent=2) + "\n").encode()

    def dead(self) -> bool:
        """Tell whether the process was on this machine and is no more; False where that cannot be known."""
        if not self.machine or self.machine != _machine():
            return False
        try:
            os.kill(self.process, 0)
        except ProcessLookupError:
            return True
        except OSError:
            return False
        return False


def _holder(data: bytes, url: str) -> Holder:
    try:
        found: dict[str, Any] = json.loads(data)
        names = {f.name for f in fields(Holder)}
        holder = Holder(**{k: v for k, v in found.items() if k in names})
        if not isinstance(holder.number, int) or not isinstance(holder.process, int):
            raise TypeError("number and process must be numbers")
        return holder
    except (ValueError, TypeError, AttributeError) as error:
        raise RunError(f"{url} does not say who writes the run: {error}. Delete that object if nobody does.") from error


def read_holder(folder: ObjectPath) -> tuple[Holder, Entry] | None:
    """Return who holds a run, or held it last, and what is known of the object; None when nobody ever did."""
    path = folder / NAME
    try:
        data, entry = folder.bucket.fetch(path.key)
    except FileNotFoundError:
        return None
    return _holder(data, str(path)), entry


def is_held(folder: ObjectPath) -> bool:
    """Tell whether a command writes a run now, by this machine's clock."""
    found = read_holder(folder)
    if found is None or not found[0].token or found[0].dead():
        return False
    return (datetime.now(UTC) - found[1].changed).total_seconds() < EXPIRY_S


def end_claims(folder: ObjectPath) -> None:
    """End the claims of a run and of those within it, whoever has them: such a command writes nothing any more.

    Raises
    ------
    RunError
        When the store does not answer.
    """
    bucket = folder.bucket
    for entry in bucket.entries(folder.key):
        path = ObjectPath(folder.root, entry.key)
        if path.name != NAME:
            continue
        while (found := read_holder(path.parent)) is not None and found[0].token:
            with suppress(Changed):  # it was renewed in between
                bucket.update(path.key, replace(found[0], token="").data(), found[1].version)


class ObjectClaim:
    """A claim that this process holds; a thread renews it.

    Raises
    ------
    RunError
        When another command holds the run, or the store cannot keep two apart.
    """

    def __init__(self, folder: ObjectPath) -> None:
        self._folder, self._key = folder, (folder / NAME).key
        self._bucket: Bucket = folder.bucket
        self._holder = Holder(
            0,
            "",
            socket.gethostname(),
            os.getpid(),
            _machine(),
            time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        )
        self._lost = False
        self._turn = Lock()
        self._bucket.forget(folder.key)
        self._version = self._take()
        self._renewed = _clock()
        self._bucket.probe(self._key, self._holder.data())
        self._end = Event()
        self._thread = Thread(target=self._keep, name="claim", daemon=True)
        self._thread.start()

    @property
    def token(self) -> str:
        """What the claim says, for processes that write in its name."""
        return self._holder.token

    def _take(self) -> Version:
        try:
            return self._bucket.create(self._key, self._numbered(1))
        except FileExistsError:
            pass
        found = read_holder(self._folder)
        if found is None:  # it has just been taken away
            raise _held(self._folder, None, 0.0)
        before, entry = found
        if before.token and not before.dead():
            age = (self._now() - entry.changed).total_seconds()
            if age < EXPIRY_S:
                raise _held(self._folder, before, age)
        try:
            return self._bucket.update(self._key, self._numbered(before.number + 1), entry.version)
        except Changed as error:
            raise _held(self._folder, None, 0.0) from error

    def _numbered(self, number: int) -> bytes:
        self._holder = replace(self._holder, number=number, token=f"{number}.{uuid.uuid4().hex}")
        return self._holder.data()

    def _now(self) -> datetime:
        """Return the time by the store's clock, from an object that is written and taken away."""
        key = f"{self._key}.{uuid.uuid4().hex}"
        self._bucket.create(key, b"")
        try:
            entry = self._bucket.stat(key)
            return datetime.now(UTC) if entry is None else entry.changed
        finally:
            self._bucket.delete([key])

    def check(self) -> None:
        """Make sure that this process still holds the run.

        Raises
        ------
        RunError
            When another command has it: this one stood still for too long, or was told to be dead.
        """
        if not self._lost and _clock() - self._renewed > EXPIRY_S:
            self._renew()
        if self._lost:
            raise RunError(
                f"Another command writes {self._folder} now: this one gave no sign of life for {EXPIRY_S:.0f} s, or "
                "--take-over ended it. Everything finished before is kept."
            )

    def release(self, *, keep: bool) -> None:
        """Let go of the run; the object stays, and says that nobody holds the run, unless there is none to ``keep``."""
        self._end.set()
        self._thread.join()
        if self._lost:
            return
        if keep:
            with suppress(Changed, RunError):  # when the store does not answer, the claim ends by itself
                self._bucket.update(self._key, replace(self._holder, token="").data(), self._version)
        else:
            with suppress(RunError):
                self._bucket.delete([self._key])

    def _keep(self) -> None:
        while not self._end.wait(RENEW_S) and not self._lost:
            with suppress(RunError):  # the store does not answer: what is written next finds that out too
                self._renew()

    def _renew(self) -> None:
        with self._turn:
            if self._lost:
                return
            asked = _clock()
            self._holder = replace(self._holder, renewed=self._holder.renewed + 1)
            try:
                self._version = self._bucket.update(self._key, self._holder.data(), self._version)
                self._renewed = asked
            except Changed:
                self._lost = True


def _held(folder: ObjectPath, holder: Holder | None, age: float) -> RunError:
    if holder is None:
        return RunError(f"Another process is writing {folder}. Wait for it, or choose another --out.")
    return RunError(
        f"Another process is writing {folder}: process {holder.process} on {holder.host}, since {holder.since}, last "
        f"heard of {max(0.0, age):.0f} s ago. Wait for it, or choose another --out. If it is dead, the run is free "
        f"{EXPIRY_S:.0f} s after it was last heard of; 'salience resume {folder} --take-over' takes it at once."
    )


def _clock() -> float:
    """Return seconds that go on while the machine sleeps, where there is such a clock."""
    kind = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if kind is None else time.clock_gettime(kind)


def _machine() -> str:
    """Return what two processes have in common that can look for each other by number; empty where none is known."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot}.{Path('/proc/self/ns/pid').stat().st_ino}"
    except OSError:
        return ""
