"""A bucket of an object store: bytes under keys, each whole or not there, asked for with patience.

Built on obstore, one package without dependencies of its own: it puts an object only where there is none, or only in
the place of a version that was seen, on S3 and what speaks its protocol, on Google Cloud Storage and on Azure alike.
All that is written goes through one of these two, and says under which claim on its run: a writer that was believed
dead never replaces what its successor wrote.
"""

from __future__ import annotations

import uuid
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeVar

from salience.errors import RunError
from salience.store.entry import CLAIM, Entry, Version, claim_number, entry_of
from salience.store.patience import Patience

if TYPE_CHECKING:
    from obstore.store import ObjectStore

T = TypeVar("T")

CACHE_BYTES = 128 << 20
"""Small objects that never change (tables and records of committed units) stay in memory up to this."""
_SEEN = 256
"""Versions that are remembered: of the few objects that are written again and again."""
_WRITING = "writing"
"""Attribute of every object: which call wrote it. A call whose answer was lost finds out that it had got through."""
_NONE: Version = ('"00000000000000000000000000000000"', "1")
"""A version that no object has."""


class Changed(Exception):
    """An object is no longer the version that was seen."""


class Bucket:
    """The objects of one bucket. Made by :func:`~salience.store.connections.bucket_of`, once in a process."""

    def __init__(self, root: str, store: ObjectStore) -> None:
        self.root = root
        self.honest = False
        """Whether the store was found to keep to conditions; see :meth:`probe`."""
        self._store = store
        self._lock = Lock()
        self._seen: OrderedDict[tuple[str, str], Version] = OrderedDict()
        self._cache: OrderedDict[tuple[str, Version, datetime], bytes] = OrderedDict()
        self._cached = 0
        self._patience = Patience()

    def url(self, key: str) -> str:
        """Return the URL of a key."""
        return f"{self.root}/{key}"

    # ------------------------------------------------------------------ reading

    def read(self, key: str) -> bytes:
        """Return the bytes of an object.

        Raises
        ------
        FileNotFoundError
            When there is none.
        """
        import obstore

        return self._ask(key, lambda: bytes(obstore.get(self._store, key).bytes()))

    def fetch(self, key: str) -> tuple[bytes, Entry]:
        """Return the bytes of an object and what is known of that very version.

        Raises
        ------
        FileNotFoundError
            When there is none.
        """
        import obstore

        def once() -> tuple[bytes, Entry]:
            found = obstore.get(self._store, key)
            entry = entry_of(found.meta, found.attributes)
            return bytes(found.bytes()), entry

        return self._ask(key, once)

    def read_entry(self, entry: Entry) -> bytes:
        """Return the bytes of an object that was listed; of one version they are asked for once."""
        name = (entry.key, entry.version, entry.changed)
        with self._lock:
            if name in self._cache:
                self._cache.move_to_end(name)
                return self._cache[name]
        data = self.read(entry.key)
        with self._lock:
            if name not in self._cache and len(data) <= CACHE_BYTES // 8:
                self._cache[name] = data
                self._cached += len(data)
                while self._cached > CACHE_BYTES:
                    self._cached -= len(self._cache.popitem(last=False)[1])
        return data

    def tail(self, key: str, size: int) -> tuple[bytes, int]:
        """Return the last ``size`` bytes of an object (all, if it is shorter), and how many it has."""
        import obstore
        from obstore.exceptions import NotSupportedError

        def once() -> tuple[bytes, int]:
            found = obstore.get(self._store, key, options={"range": {"suffix": size}})
            return bytes(found.bytes()), found.meta["size"]

        try:
            return self._ask(key, once)
        except NotSupportedError:  # Azure counts from the beginning only
            whole = self.stat(key)
            if whole is None:
                raise FileNotFoundError(self.url(key)) from None
            begin = max(0, whole.size - size)
            return bytes(self.ranges(key, [begin], whole.size - begin)[0]), whole.size

    def ranges(self, key: str, starts: Sequence[int], size: int) -> list[Any]:
        """Return pieces of ``size`` bytes of an object, as buffers; neighbours come in one request."""
        import obstore

        if size == 0:
            return [b""] * len(starts)
        return self._ask(
            key, lambda: list(obstore.get_ranges(self._store, key, starts=starts, lengths=[size] * len(starts)))
        )

    def stat(self, key: str) -> Entry | None:
        """Return what is known of an object, None where there is none."""
        import obstore

        def once() -> Entry:
            found = obstore.get(self._store, key, options={"head": True})
            return entry_of(found.meta, found.attributes)

        try:
            return self._ask(key, once)
        except FileNotFoundError:
            return None

    def entries(self, prefix: str) -> list[Entry]:
        """Return all objects below a folder, by key."""
        import obstore

        found = self._ask(prefix, lambda: [m for chunk in obstore.list(self._store, prefix) for m in chunk])
        return sorted((entry_of(m) for m in found), key=lambda entry: entry.key)

    def children(self, prefix: str) -> tuple[list[str], list[Entry]]:
        """Return the folders (as keys) and the objects that are directly in a folder."""
        import obstore

        found = self._ask(prefix, lambda: obstore.list_with_delimiter(self._store, prefix))
        return sorted(found["common_prefixes"]), sorted((entry_of(m) for m in found["objects"]), key=lambda e: e.key)

    def holds(self, prefix: str) -> bool:
        """Tell whether there is an object below a folder."""
        import obstore

        return self._ask(prefix, lambda: any(len(c) > 0 for c in obstore.list(self._store, prefix, chunk_size=1)))

    # ------------------------------------------------------------------ writing

    def create(self, key: str, data: Any, attributes: Mapping[str, str] | None = None) -> Version:
        """Put an object where there is none; return its version.

        Raises
        ------
        FileExistsError
            When there is one.
        RunError
            When the store does not take it.
        """
        return self._put(key, data, "create", dict(attributes or {}))

    def update(self, key: str, data: Any, seen: Version, attributes: Mapping[str, str] | None = None) -> Version:
        """Put an object in the place of the version that was seen; return the new one.

        Raises
        ------
        Changed
            When it is another version now.
        RunError
            When the store does not take it.
        """
        named = {name: value for name, value in zip(("e_tag", "version"), seen, strict=True) if value is not None}
        return self._put(key, data, named, dict(attributes or {}))

    def replace(self, key: str, data: Any, attributes: Mapping[str, str] | None = None) -> None:
        """Put an object, in the place of the version that this claim wrote or else of the one that is there now.

        An object of a later claim is not replaced, see :data:`CLAIM`.

        Raises
        ------
        RunError
            When another process has written it since, or the store does not take it.
        """
        name = (key, (attributes or {}).get(CLAIM, ""))
        with self._lock:
            seen = self._seen.get(name)
        try:
            try:
                made = self.create(key, data, attributes) if seen is None else self.update(key, data, seen, attributes)
            except FileExistsError:
                there = self.stat(key)
                if there is None or there.claim > claim_number(attributes):
                    raise Changed(key) from None
                made = self.update(key, data, there.version, attributes)
        except Changed:
            raise RunError(
                f"{self.url(key)} was changed by another process in the meantime. One command writes a run at a time: "
                "see which one does with 'salience status', then run this one again."
            ) from None
        with self._lock:
            self._seen[name] = made
            self._seen.move_to_end(name)
            if len(self._seen) > _SEEN:
                self._seen.popitem(last=False)

    def forget(self, prefix: str) -> None:
        """Forget the versions of an object, or of those below a folder: others may have written them."""
        with self._lock:
            for name in [n for n in self._seen if n[0] == prefix or n[0].startswith(f"{prefix}/")]:
                del self._seen[name]

    def delete(self, keys: Iterable[str]) -> None:
        """Take objects away; those that are not there are no error."""
        import obstore

        for key in keys:
            try:
                self._ask(key, lambda key=key: obstore.delete(self._store, key))  # type: ignore[misc]
            except FileNotFoundError:
                continue
            finally:
                self.forget(key)

    def probe(self, key: str, data: bytes) -> None:
        """Find out, on an object that is there, whether the store keeps to conditions.

        Raises
        ------
        RunError
            When it does not: it would let two commands write one run.
        """
        if self.honest:
            return
        try:
            self.create(key, data)
        except FileExistsError:
            try:
                self.update(key, data, _NONE)
            except Changed:
                self.honest = True
                return
        raise RunError(
            f"The store of {self.root} ignores the conditions If-None-Match and If-Match of a write, so it cannot keep "
            "two commands apart. Upgrade it, or give a folder or another store as --out."
        )

    def _put(self, key: str, data: Any, mode: Any, attributes: dict[str, str]) -> Version:
        """Put an object under a condition, whatever becomes of the answers on the way."""
        import obstore
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        attributes[_WRITING] = uuid.uuid4().hex

        def once() -> Version:
            try:
                done = obstore.put(
                    self._store, key, data, attributes=attributes, mode=mode, use_multipart=False
                )  # conditions hold for whole puts
                return done["e_tag"], done["version"]
            except (AlreadyExistsError, PreconditionError) as error:
                there = self.stat(key)
                if there is not None and there.attributes.get(_WRITING) == attributes[_WRITING]:
                    return there.version  # an earlier try had got through, its answer had not
                if mode != "create":
                    raise Changed(key) from error
                if there is not None:
                    raise FileExistsError(self.url(key)) from error
                raise OSError("a conflict with another request") from error  # S3's 409: nothing was written

        return self._ask(key, once)

    def _ask(self, key: str, call: Callable[[], T]) -> T:
        return self._patience.ask(self.url(key), call)
