"""Images under conditions, as one source: every image in every change, decoded once, ready for the engine."""

from __future__ import annotations

import hashlib
import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from salience.behaviour.conditions.condition import Condition, DeviceCondition, GuidedCondition, HostCondition
from salience.behaviour.reading import changed_id
from salience.behaviour.view import Array
from salience.data.base import HASH_LENGTH, ImageRef, ImageSource, Pixels, RawImage
from salience.data.decode import decode_whole, load
from salience.data.preprocessing import Preprocessing
from salience.errors import SettingsError

_TOGETHER = 64
"""Images whose changes stand beside each other, so that a batch is of one condition."""
_FITTED_BYTES = 128 * 2**20
_NATIVE_BYTES = 256 * 2**20
"""Decoded pixels that are held: at the model's size, and at the files' own."""


class CleanMaps(Protocol):
    """A model's maps of the unchanged images, which lead guided conditions.

    Attributes
    ----------
    identity
        Names all that decides these maps, but for the image.
    """

    @property
    def identity(self) -> str: ...  # noqa: D102

    def of(self, image_ids: Sequence[str]) -> Array:
        """Return the raw native maps (n, h, w) of images."""
        ...


@dataclass(eq=False)
class ConditionSource(ImageSource):
    """Every image of another source under every condition; made by :func:`under_conditions`.

    Changes of files and of their own size are made when an image is read, all others on the model's device, for a
    batch at once. An image is decoded once for all of its conditions, as far as they come after one another.

    Parameters
    ----------
    source
        Where the images are from.
    parts
        The image and the condition of each reference, by its index.
    preprocessing
        The model's.
    seed
        For conditions that draw.
    known
        Content hash, bytes and modification time of images as they were read before.
    clean
        Leads guided conditions.
    """

    source: ImageSource | None = None
    parts: Sequence[tuple[ImageRef, Condition]] = ()
    preprocessing: Preprocessing | None = None
    seed: int = 0
    known: Mapping[str, tuple[str, int, int]] = field(default_factory=dict)
    clean: CleanMaps | None = None

    def __post_init__(self) -> None:
        self._fitted = _Held(_FITTED_BYTES)
        self._native = _Held(_NATIVE_BYTES)
        self._hashes: dict[int, tuple[tuple[int, int], str]] = {}

    def _made_of(self) -> tuple[ImageSource, Preprocessing]:
        assert self.source is not None
        assert self.preprocessing is not None
        return self.source, self.preprocessing

    def only(self, image_ids: Sequence[str]) -> ConditionSource:
        """Return a source of some of the references, named by their ids; it shares what is decoded."""
        wanted = set(image_ids)
        chosen = replace(self, refs=[ref for ref in self.refs if ref.image_id in wanted])
        chosen._fitted, chosen._native, chosen._hashes = self._fitted, self._native, self._hashes
        return chosen

    # ------------------------------------------------------------------ what names an image

    def stamp(self, ref: ImageRef) -> tuple[int, int]:
        """Return what the unchanged image's is."""
        return self._made_of()[0].stamp(self.parts[ref.index][0])

    def content_hash(self, ref: ImageRef) -> str:
        """Return a hash of the unchanged image and of all that decides the change; nothing is decoded."""
        image, condition = self.parts[ref.index]
        decides = {"image": self._hash_of(image), **condition.identity(self.seed)}
        if isinstance(condition, GuidedCondition):
            decides["maps"] = self._leads().identity
        return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:HASH_LENGTH]

    def _hash_of(self, image: ImageRef) -> str:
        source, _ = self._made_of()
        stamp = source.stamp(image)
        found = self._hashes.get(image.index)
        if found is None or found[0] != stamp:
            content = source.hash_since(image, self.known.get(image.image_id)) or source.content_hash(image)
            found = self._hashes[image.index] = (stamp, content)
        return found[1]

    def hash_since(self, ref: ImageRef, before: tuple[str, int, int] | None) -> str | None:
        """Return the content hash of the change, None where there is no record; nothing is decoded for it."""
        if before is None:
            return None
        # What was recorded is of the change; whether that is still the same, the file's stamp cannot tell.
        return super().hash_since(ref, (before[0], before[1], 0))

    # ------------------------------------------------------------------ pixels

    def read(self, ref: ImageRef) -> RawImage:
        """Return the image, changed where that is done on the host."""
        image, condition = self.parts[ref.index]
        content = self.content_hash(ref)
        if not isinstance(condition, HostCondition):
            return RawImage(self._whole(image, fitted=True), content, ref.where, fitted=True)
        pixels = self._whole(image, fitted=not condition.native)
        changed = condition.read(pixels, image.image_id, self.seed)
        return RawImage(changed, content, ref.where, fitted=not condition.native)

    def _whole(self, image: ImageRef, *, fitted: bool) -> Pixels:
        source, preprocessing = self._made_of()
        if fitted:
            return self._fitted.get(image.index, lambda: load(source, image, preprocessing).pixels)
        return self._native.get(image.index, lambda: decode_whole(source.read(image)))

    def finish(self, refs: Sequence[ImageRef], pixels: Tensor) -> Tensor:
        """Make the changes that are made on the device, condition by condition."""
        groups: dict[Condition, list[int]] = {}
        for row, ref in enumerate(refs):
            groups.setdefault(self.parts[ref.index][1], []).append(row)
        out = pixels
        for condition, rows in groups.items():
            if isinstance(condition, HostCondition):
                continue
            ids = [self.parts[refs[row].index][0].image_id for row in rows]
            changed = self._change(condition, pixels if len(rows) == len(refs) else pixels[rows], ids)
            if len(rows) == len(refs):
                return changed
            out = pixels.clone() if out is pixels else out
            out[rows] = changed
        return out

    def _change(self, condition: Condition, pixels: Tensor, image_ids: Sequence[str]) -> Tensor:
        exact = pixels if pixels.dtype in (torch.float32, torch.float64) else pixels.float()
        exact = exact.contiguous()
        if isinstance(condition, GuidedCondition):
            changed = condition.degrade(exact, self._leads().of(image_ids))
        elif isinstance(condition, DeviceCondition):
            changed = condition.change(exact, image_ids, self.seed)
        else:
            raise SettingsError(f"The condition {condition.name!r} changes neither files nor pixels.")
        return changed.to(pixels.dtype)

    def _leads(self) -> CleanMaps:
        if self.clean is None:
            raise SettingsError("Guided conditions are led by maps of the unchanged images, and there are none.")
        return self.clean

    def check(self, preprocessing: Preprocessing) -> None:
        """Refuse float images that do not have the model's size."""
        self._made_of()[0].check(preprocessing)


def under_conditions(
    source: ImageSource,
    refs: Sequence[ImageRef],
    conditions: Sequence[Condition],
    preprocessing: Preprocessing,
    *,
    seed: int = 0,
    known: Mapping[str, tuple[str, int, int]] | None = None,
    clean: CleanMaps | None = None,
) -> ConditionSource:
    """Return images under conditions, in the order in which they are computed fastest.

    Some images at a time stand beside each other: first those that are changed on the host, image by image, so that
    each is decoded once; then the others, condition by condition, so that a batch is changed as a whole.

    Parameters
    ----------
    refs
        The images of ``source`` that are changed.
    known
        Content hash, bytes and modification time of images as they were read before; they are not read again to name
        the changed ones.
    clean
        The model's maps of the unchanged images, for guided conditions.

    Raises
    ------
    SettingsError
        When a condition does not fit the model's input, or there are no maps to lead guided ones.
    """
    h, w = preprocessing.size
    for condition in conditions:
        if not condition.fits(preprocessing.size):
            raise SettingsError(f"The condition {condition.name!r} does not fit an input of {h}x{w}: leave it out.")
        if isinstance(condition, GuidedCondition) and clean is None:
            raise SettingsError(f"The condition {condition.name!r} is led by maps of the unchanged images: give them.")
    parts = list(_ordered(refs, conditions, max(1, min(_TOGETHER, _FITTED_BYTES // (3 * h * w)))))
    changed = [
        replace(image, index=i, image_id=changed_id(image.image_id, condition.name), path=None)
        for i, (image, condition) in enumerate(parts)
    ]
    return ConditionSource(
        kind="conditions",
        location=f"{source.location} under conditions",
        refs=changed,
        label_names=source.label_names,
        titles=source.titles,
        source=source,
        parts=parts,
        preprocessing=preprocessing,
        seed=seed,
        known=known or {},
        clean=clean,
    )


def _ordered(
    refs: Sequence[ImageRef], conditions: Sequence[Condition], together: int
) -> Iterator[tuple[ImageRef, Condition]]:
    host = [c for c in conditions if isinstance(c, HostCondition)]
    device = [c for c in conditions if not isinstance(c, HostCondition)]
    for at in range(0, len(refs), together):
        some = refs[at : at + together]
        yield from ((ref, condition) for ref in some for condition in host)
        yield from ((ref, condition) for condition in device for ref in some)


class _Held:
    """Decoded images, the last ones used, up to so many bytes; made once, however many threads ask."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._bytes = 0
        self._images: OrderedDict[int, Future[Pixels]] = OrderedDict()
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type[_Held], tuple[int]]:
        return _Held, (self._limit,)  # another process holds its own

    def get(self, key: int, make: Callable[[], Pixels]) -> Pixels:
        """Return an image, made by the first thread that asks for it; what that raises, all of them raise."""
        with self._lock:
            task = self._images.get(key)
            first = task is None
            if task is None:
                task = self._images[key] = Future()
            self._images.move_to_end(key)
        if first:
            try:
                pixels = make()
            except BaseException as error:
                with self._lock:
                    self._images.pop(key, None)  # the next one tries again
                task.set_exception(error)
                raise
            task.set_result(pixels)
            self._make_room(pixels.nbytes)
        return task.result()

    def _make_room(self, size: int) -> None:
        """Count a new image, and let go of the longest unused ones; those that are being made stay."""
        with self._lock:
            self._bytes += size
            while self._bytes > self._limit:
                oldest = next((key for key, task in self._images.items() if task.done()), None)
                if oldest is None:
                    return
                self._bytes -= self._images.pop(oldest).result().nbytes


def contents_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, tuple[str, int, int]]:
    """Return content hash, bytes and modification time by image, of rows of a run's table ``contents``."""
    return {r["image_id"]: (r["content_hash"], r["bytes"], r["mtime_ns"]) for r in rows}
