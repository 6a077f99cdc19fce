"""Decoding beside or between the model's batches, in order, by several threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from salience.data.base import ImageRef, ImageSource
from salience.data.decode import LoadedImage, load
from salience.data.preprocessing import Preprocessing
from salience.errors import ImagesError
from salience.store.unit import Content

Stream = Iterator[tuple[ImageRef, LoadedImage | ImagesError]]
Decode = Callable[[Sequence[ImageRef], int], Stream]
_DECODED_TOGETHER = 64


class Loader:
    """Decodes ahead in threads, in order, never more than ``ahead`` images at a time."""

    def __init__(
        self, source: ImageSource, preprocessing: Any, workers: int, stamps: dict[int, tuple[int, int]]
    ) -> None:
        self._source = source
        self._stamps = stamps
        self._preprocessing = preprocessing
        self._workers = workers
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _load(self, ref: ImageRef) -> LoadedImage | ImagesError:
        try:
            stamp = self._source.stamp(ref)  # before reading: an image that changes meanwhile is then noticed next time
            image = load(self._source, ref, self._preprocessing)
        except ImagesError as error:
            return error
        except Exception as error:  # a decoder's own surprise belongs to its image, not to the run
            return ImagesError(f"{ref.image_id} cannot be read: {type(error).__name__}: {error}")
        self._stamps[ref.index] = stamp
        return image

    def _load_some(self, refs: Sequence[ImageRef]) -> list[tuple[ImageRef, LoadedImage | ImagesError]]:
        return [(ref, self._load(ref)) for ref in refs]

    def ahead(self, refs: Sequence[ImageRef], batch: int) -> Stream:
        """Yield images in order, decoded while the model runs, four batches ahead: for accelerators."""
        waiting: deque[Future[list[tuple[ImageRef, LoadedImage | ImagesError]]]] = deque()
        together = max(1, batch // 8)  # small images cost less than a task of their own
        coming = (refs[at : at + together] for at in range(0, len(refs), together))
        for some in coming:
            waiting.append(self._pool.submit(self._load_some, some))
            if len(waiting) * together >= 4 * batch:
                break
        while waiting:
            yield from waiting.popleft().result()
            following = next(coming, None)
            if following is not None:
                waiting.append(self._pool.submit(self._load_some, following))

    def between(self, refs: Sequence[ImageRef], batch: int) -> Stream:
        """Yield images in order, decoded by all workers between batches: for models on the CPU.

        There the model fills every core, so decoding beside it gains nothing and makes its threads wait for one
        another. Every change from decoding to the model costs some milliseconds, until the threads have their cores
        back; so several batches are decoded at once.
        """
        many = max(batch, _DECODED_TOGETHER)
        for at in range(0, len(refs), many):
            some = refs[at : at + many]
            together = -(-len(some) // self._workers)
            tasks = [self._pool.submit(self._load_some, some[k : k + together]) for k in range(0, len(some), together)]
            for task in tasks:
                yield from task.result()


def load_now(
    source: ImageSource, ref: ImageRef, preprocessing: Preprocessing
) -> tuple[Content, LoadedImage] | Exception:
    """Return what an image is now, with its pixels as a model takes them; or why it cannot be read."""
    try:
        size, changed = source.stamp(ref)  # before reading: an image that changes meanwhile is then noticed next time
        image = load(source, ref, preprocessing)
    except Exception as error:  # a decoder's own surprise belongs to its image, not to the run
        return error
    return Content(ref.image_id, image.content_hash, size, changed, image.width, image.height), image
