"""Several questions at a time, asked by threads, answered in whatever order."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

Part = TypeVar("Part")
Read = TypeVar("Read")


def as_answered(
    ask: Callable[[Part], Any], parts: Sequence[Part], read: Callable[[int, Any], Read], at_once: int
) -> Iterator[tuple[int, Read]]:
    """Ask for every part, ``at_once`` of them at a time, and yield the number of each with its answer as they come.

    Parameters
    ----------
    ask
        Is called in a thread of its own where several are asked at a time, else in this one.
    read
        Takes the number of a part and its answer; is called in this thread.

    Notes
    -----
    After the first error of ``ask`` or ``read`` nothing more is asked; what was under way by then is waited for and
    yielded, and then the error is raised. Threads do not outlive the process: one that waits for an answer does not
    keep it from ending.
    """
    if at_once == 1 or len(parts) == 1:
        for number, part in enumerate(parts):
            yield number, read(number, ask(part))
        return
    waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
    news: queue.SimpleQueue[tuple[int, Any, BaseException | None] | None] = queue.SimpleQueue()
    stopped = threading.Event()
    for number in range(len(parts)):
        waiting.put(number)

    def work() -> None:
        while not stopped.is_set():
            try:
                number = waiting.get_nowait()
            except queue.Empty:
                break
            try:
                news.put((number, ask(parts[number]), None))
            except BaseException as error:  # for the thread that waits
                stopped.set()
                news.put((number, None, error))
        news.put(None)

    working = min(at_once, len(parts))
    for i in range(working):
        threading.Thread(target=work, name=f"ask-{i}", daemon=True).start()
    failed: BaseException | None = None
    try:
        while working:
            if (told := news.get()) is None:
                working -= 1
                continue
            number, answer, error = told
            try:
                if error is not None:
                    raise error
                found = read(number, answer)
            except Exception as first:
                stopped.set()
                failed = failed or first
                continue
            yield number, found
    finally:
        stopped.set()
    if failed is not None:
        raise failed
