"""A classifier behind a URL, in a process of its own, that misbehaves on request and remembers what it was sent.

    with serving() as server:
        server.switch(fail=2)                       # the next two requests get status 503
        salience.load_model(server.url, card="preprocessing.toml")
        assert server.rows == 16

It needs ``uvicorn``; the client side needs nothing but the standard library.
"""

from __future__ import annotations

import asyncio
import io
import json
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from hashlib import blake2b
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

CLASSES = 5
_CELLS = 4


def scores_of(images: Array) -> Array:
    """Return the logits (N, 5), float32, that the server gives to images (N, 3, H, W): smooth, and not linear.

    Every row is computed by itself, so it has the same bytes in every batch.
    """
    random = np.random.Generator(np.random.Philox(5))
    first, last = random.standard_normal((3 * _CELLS**2, 16)), random.standard_normal((16, CLASSES))
    rows = []
    for image in np.asarray(images, dtype=np.float64):
        bands = [np.stack([c.mean((1, 2)) for c in np.array_split(band, _CELLS, 2)])
                 for band in np.array_split(image, _CELLS, 1)]  # fmt: skip
        rows.append(np.tanh(np.concatenate(bands).ravel() @ first) @ last)
    return np.stack(rows).astype(np.float32)


def softmax(z: Array) -> Array:
    """Return probabilities (N, C) of logits."""
    e = np.exp(z - z.max(axis=1, keepdims=True))
    p: Array = e / e.sum(axis=1, keepdims=True)
    return p


@dataclass
class Switches:
    """How the server misbehaves.

    Attributes
    ----------
    fail, status, retry_after
        So many next requests get this status, and this Retry-After where it is given.
    delay
        Seconds before an answer, also before one that fails.
    drop
        So many next requests have their connection closed in place of an answer.
    lose_rows
        Rows that are missing in every answer.
    nan
        Numbers of requests (from 0) whose first row is NaN.
    classes
        Classes in an answer.
    probabilities
        Whether answers are probabilities.
    as_json
        Whether answers to .npy are JSON.
    token
        The bearer token that is needed.
    nonsense
        Whether the answer is a page of text.
    """

    fail: int = 0
    status: int = 503
    retry_after: str = ""
    delay: float = 0.0
    drop: int = 0
    lose_rows: int = 0
    nan: list[int] = field(default_factory=list)
    classes: int = CLASSES
    probabilities: bool = False
    as_json: bool = False
    token: str = ""
    nonsense: bool = False


class App:
    """The ASGI application: ``POST /predict`` answers, ``PUT /switches`` sets, ``GET /seen`` tells."""

    def __init__(self) -> None:
        self.switches = Switches()
        self.seen: list[dict[str, Any]] = []
        self._open = 0

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "lifespan":
            while (await receive())["type"] != "lifespan.shutdown":
                await send({"type": "lifespan.startup.complete"})
            await send({"type": "lifespan.shutdown.complete"})
            return
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        headers = {k.decode(): v.decode() for k, v in scope["headers"]}
        if scope["path"] == "/seen":
            await _answer(send, 200, json.dumps(self.seen).encode(), "application/json")
        elif scope["path"] == "/switches":
            self.switches = Switches(**json.loads(body))
            await _answer(send, 200, b"{}", "application/json")
        else:
            self._open += 1
            try:
                await self._predict(body, headers, send)
            finally:
                self._open -= 1

    async def _predict(self, body: bytes, headers: dict[str, str], send: Send) -> None:
        switches, kind = self.switches, headers.get("content-type", "")
        if switches.token and headers.get("authorization") != f"Bearer {switches.token}":
            await _answer(send, 401, b"no such token", "text/plain")
            return
        if "json" in kind:
            rows = np.array(json.loads(body)["instances"], dtype=np.float32)
        else:
            rows = np.load(io.BytesIO(body), allow_pickle=False)
        keys = [blake2b(row.tobytes(), digest_size=16).hexdigest() for row in rows]
        record = {"rows": keys, "answered": False, "kind": kind, "open": self._open}
        number = len(self.seen)
        self.seen.append(record)
        if switches.drop:
            switches.drop -= 1
            raise ConnectionAbortedError  # the connection is closed without a word
        if switches.delay:
            await asyncio.sleep(switches.delay)
        if switches.fail:
            switches.fail -= 1
            extra = [(b"retry-after", switches.retry_after.encode())] if switches.retry_after else []
            await _answer(send, switches.status, b"out of order", "text/plain", extra)
            return
        z = scores_of(rows)
        z = softmax(z) if switches.probabilities else z
        z = z[: len(z) - switches.lose_rows, : switches.classes]
        if number in switches.nan:
            z[0] = np.nan
        record["answered"] = True
        if switches.nonsense:
            await _answer(send, 200, b"<html>Sign in</html>", "text/html")
        elif "json" in kind or switches.as_json:
            key = "predictions" if "json" in kind else "scores"
            plain = [[None if np.isnan(v) else float(v) for v in row] for row in z]
            await _answer(send, 200, json.dumps({key: plain}).encode(), "application/json")
        else:
            file = io.BytesIO()
            np.save(file, z)
            await _answer(send, 200, file.getvalue(), "application/x-npy")


async def _answer(
    send: Send, status: int, body: bytes, kind: str, extra: list[tuple[bytes, bytes]] | None = None
) -> None:
    headers = [(b"content-type", kind.encode()), (b"content-length", str(len(body)).encode()), *(extra or [])]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class Server:
    """The side of a test: where the server is, what it was sent, how it shall misbehave."""

    def __init__(self, port: int) -> None:
        self._root = f"http://127.0.0.1:{port}"
        self.url = f"{self._root}/predict"

    def _call(self, path: str, body: bytes | None = None) -> Any:
        method = "GET" if body is None else "PUT"
        request = urllib.request.Request(f"{self._root}{path}", data=body, method=method)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=30) as answer:
            return json.loads(answer.read())

    def switch(self, **switches: Any) -> None:
        """Set switches; those that are not given are as at the beginning."""
        known = {f.name for f in fields(Switches)}
        if unknown := set(switches) - known:
            raise TypeError(f"unknown switches {sorted(unknown)}")
        self._call("/switches", json.dumps(switches).encode())

    @property
    def seen(self) -> list[dict[str, Any]]:
        """Every request so far: keys of its rows, whether it was answered, its content type, how many were open."""
        found: list[dict[str, Any]] = self._call("/seen")
        return found

    @property
    def rows(self) -> int:
        """Rows that arrived so far."""
        return sum(len(request["rows"]) for request in self.seen)


@contextmanager
def serving() -> Iterator[Server]:
    """Run the server in a process of its own."""
    with subprocess.Popen([sys.executable, "-m", "salience.testing.server"], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None  # it is a pipe
            line = process.stdout.readline().decode().strip()
            if not line:
                raise RuntimeError("The test server did not start. Is uvicorn installed?")
            yield Server(int(line))
        finally:
            process.kill()


def main() -> None:
    """Serve on a free port, and write its number as a line."""
    import uvicorn

    listening = socket.create_server(("127.0.0.1", 0))
    # Connections inherit it. Without it, the body of an answer waits 40 ms for the client to confirm the headers.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sys.stdout.write(f"{listening.getsockname()[1]}\n")
    sys.stdout.flush()
    config = uvicorn.Config(App(), log_level="critical", access_log=False)
    uvicorn.Server(config).run(sockets=[listening])


if __name__ == "__main__":
    main()
