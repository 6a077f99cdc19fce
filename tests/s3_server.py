"""A server that speaks S3, in a process of its own, which can be told to fail: ``python s3_server.py PORT``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from threading import Lock
from typing import Any

BUCKET = "bucket"
_ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_REGION": "us-east-1",
    "no_proxy": "*",
}


@dataclass(frozen=True)
class S3:
    """A running server with one empty bucket."""

    url: str

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to reach it."""
        return {**_ENVIRONMENT, "AWS_ENDPOINT_URL": self.url}

    def fail(
        self, count: int, *, every: int = 1, status: int = 503, delay: float = 0.0, late: bool = False, only: str = ""
    ) -> None:
        """Have ``count`` of the next requests fail, one in ``every``: refused at once, or (``late``) done and untold.

        Status 0 leaves the answer as it is, so that only ``delay`` counts. ``only`` is a part of method and path.
        """
        self._tell(count=count, every=every, status=status, delay=delay, late=late, only=only)

    def ignore_conditions(self) -> None:
        """Write whatever If-None-Match and If-Match say, as old servers do."""
        self._tell(count=0, blind=True)

    def mend(self) -> None:
        """Have all go well again."""
        self._tell(count=0)

    def requests(self) -> int:
        """Return how many requests came since the last time this was asked."""
        return int(self._tell()["requests"])

    def _tell(self, **how: Any) -> dict[str, Any]:
        request = urllib.request.Request(f"{self.url}/_faults", json.dumps(how).encode())
        with urllib.request.urlopen(request, timeout=30) as answer:
            found: dict[str, Any] = json.load(answer)
        return found


@contextmanager
def serving() -> Iterator[S3]:
    """Start a server on a free port; it ends with the block."""
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__))], stdout=subprocess.PIPE, text=True, env={**os.environ, **_ENVIRONMENT}
    )
    try:
        assert process.stdout is not None
        server = S3(f"http://127.0.0.1:{int(process.stdout.readline())}")
        end = time.monotonic() + 60
        while True:
            try:
                make = urllib.request.Request(f"{server.url}/{BUCKET}", method="PUT")
                urllib.request.urlopen(make, timeout=10).close()
                break
            except (OSError, HTTPException):
                assert process.poll() is None, "the server of the tests did not start"
                assert time.monotonic() < end, "the server of the tests does not answer"
                time.sleep(0.1)
        server.requests()
        yield server
    finally:
        process.kill()
        process.wait()


# ---------------------------------------------------------------------- in its process

_Start = Callable[..., Any]


class _Faulty:
    """Fails as it was told, and writes one object at a time, as stores do that keep to conditions."""

    def __init__(self, app: Callable[[dict[str, Any], _Start], Iterable[bytes]]) -> None:
        self._app, self._lock, self._writing = app, Lock(), Lock()
        self._how: dict[str, Any] = {"count": 0}
        self._requests = self._turn = 0

    def __call__(self, environ: dict[str, Any], start: _Start) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path == "/_faults":
            told = json.loads(environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"])))
            with self._lock:
                self._how = told or self._how
                answer = json.dumps({"requests": self._requests}).encode()
                self._requests = 0
            start("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(answer)))])
            return [answer]
        with self._lock:
            self._requests += 1
            how = None
            if self._how["count"] > 0 and self._how["only"] in f"{environ['REQUEST_METHOD']} {path}":
                self._turn += 1
                if self._turn % self._how["every"] == 0:
                    self._how["count"] -= 1
                    how = dict(self._how)
        if self._how.get("blind"):
            environ = {k: v for k, v in environ.items() if k not in ("HTTP_IF_NONE_MATCH", "HTTP_IF_MATCH")}
        if how:
            time.sleep(how["delay"])
        refused = how and how["status"]
        if not refused or how["late"]:
            if environ["REQUEST_METHOD"] == "PUT":
                with self._writing:
                    body = self._app(environ, (lambda *_: None) if refused else start)
                    if not refused:
                        return body
                    list(body)
            else:
                return self._app(environ, start)
        if not how["late"]:
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        start(f"{how['status']} Told so", [("Content-Length", "0")])
        return [b""]


def _main() -> None:
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Quiet(WSGIRequestHandler):
        def log(self, type: str, message: str, *args: object) -> None:  # noqa: A002  # the name of its base
            """Requests are no news."""

    app = DomainDispatcherApplication(create_backend_app)
    server = make_server("127.0.0.1", 0, _Faulty(app), threaded=True, request_handler=Quiet)
    print(server.port, flush=True)  # noqa: T201  # whoever started this reads it
    server.serve_forever()


if __name__ == "__main__":
    _main()
