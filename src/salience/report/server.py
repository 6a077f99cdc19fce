"""Browsing the pages of a run over HTTP: read-only, from this machine, and nothing but the pages."""

from __future__ import annotations

import ipaddress
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

from salience.errors import RunError
from salience.store.place import Place
from salience.store.run import open_run

TYPES = {".html": "text/html; charset=utf-8", ".js": "text/javascript; charset=utf-8"}
"""What a page is made of; no other file of a run is handed out."""
LOCAL = ("localhost", "127.0.0.1", "::1")


def serve(run: str | Place, host: str = "127.0.0.1", port: int = 0) -> ThreadingHTTPServer:
    """Return a server of the pages of a run; its ``serve_forever`` does the work.

    It answers GET and HEAD for the files of ``report/`` and no other: a path that leads out of that folder, by dots
    or by a link, is not found. Bound to this machine, it also refuses requests that name another host, so that a page
    of the web cannot reach it under a name of its own (DNS rebinding).

    Parameters
    ----------
    port
        0 takes a free one; it is in ``server_address``.

    Raises
    ------
    RunError
        When there is no run or no page, or the address cannot be used.
    """
    folder = (open_run(run).folder / "report").resolve()
    if not (folder / "index.html").is_file():
        raise RunError(f"{run} has no page yet: 'salience report {run}' writes it.")
    try:
        return ThreadingHTTPServer((host, port), partial(_Pages, folder, is_local(host)))
    except OSError as error:
        raise RunError(f"Cannot listen on {host}:{port}: {error.strerror}. Choose another --port or --host.") from error


def is_local(host: str) -> bool:
    """Tell whether a host is this machine and cannot be reached from another."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class _Pages(BaseHTTPRequestHandler):
    """Hands out the files of one folder."""

    server_version = "salience"
    sys_version = ""
    timeout = 30

    def __init__(self, folder: Place, local: bool, *request: object) -> None:
        self._folder, self._local = folder, local
        super().__init__(*request)  # type: ignore[arg-type]  # what the server gives every handler

    def do_GET(self) -> None:  # the name that the standard library calls
        """Answer with a file."""
        self._answer(body=True)

    def do_HEAD(self) -> None:
        """Answer with a file's headers."""
        self._answer(body=False)

    def _answer(self, *, body: bool) -> None:
        if self._local and self._host() not in LOCAL:
            self.send_error(HTTPStatus.FORBIDDEN, "this server answers to localhost only")
            return
        found = self._file()
        if found is None:
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        kind, data = found
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cache-Control", "no-cache")
        self.end_headers()
        if body:
            self.wfile.write(data)

    def _host(self) -> str:
        try:
            return (urlsplit(f"//{self.headers.get('Host', '')}").hostname or "").lower()
        except ValueError:  # brackets that do not close, for one
            return ""

    def _file(self) -> tuple[str, bytes] | None:
        """Return the type and the bytes of the file that is asked for, None where it is none of the folder's."""
        try:
            name = unquote(urlsplit(self.path).path).lstrip("/") or "index.html"
            path = (self._folder / name).resolve(strict=True)
            within = path.is_relative_to(self._folder)  # type: ignore[arg-type]  # both are of one kind
            return (TYPES[path.suffix], path.read_bytes()) if within and path.is_file() else None
        except (OSError, ValueError, KeyError, RunError):
            return None

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the name of the standard library
        """Say nothing: requests are no news."""
