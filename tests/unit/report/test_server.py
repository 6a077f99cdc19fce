"""The server of pages: only the pages, only for this machine."""

from __future__ import annotations

import http.client
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from salience.errors import RunError
from salience.report import write_report
from salience.report.server import is_local, serve
from synthetic_runs import FakeRun

Reply = tuple[int, bytes, dict[str, str]]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder: Path = FakeRun(tmp_path / "run").write()
    write_report(folder)
    return folder


@pytest.fixture
def port(run: Path) -> Iterator[int]:
    with serve(run) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def ask(port: int, path: str, method: str = "GET", **headers: str) -> Reply:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.putrequest(method, path, skip_host="Host" in headers)
    for name, value in headers.items():
        connection.putheader(name, value)
    connection.endheaders()
    reply = connection.getresponse()
    found = (reply.status, reply.read(), dict(reply.getheaders()))
    connection.close()
    return found


def test_the_page_is_handed_out(run: Path, port: int) -> None:
    whole = (run / "report" / "index.html").read_bytes()
    for path in ("/", "/index.html", "/?x=1"):
        status, body, headers = ask(port, path)
        assert (status, body) == (200, whole)
        assert headers["Content-Type"].startswith("text/html")
        assert headers["X-Content-Type-Options"] == "nosniff"
    status, body, headers = ask(port, "/", "HEAD")
    assert (status, body, headers["Content-Length"]) == (200, b"", str(len(whole)))


def test_sidecars_are_handed_out(tmp_path: Path) -> None:
    folder = FakeRun(tmp_path / "many").write()
    write_report(folder, inline_bytes=0)
    (sidecar, *_) = sorted((folder / "report").glob("data-*.js"))
    with serve(folder) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        assert ask(server.server_address[1], f"/{sidecar.name}")[:2] == (200, sidecar.read_bytes())
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    "path",
    [
        "/../run.json",
        "/..%2frun.json",
        "/%2e%2e/run.json",
        "//etc/passwd",
        "/etc/passwd",
        "/....//run.json",
        "/index.html/../../run.json",
        "/secret.txt",
        "/link.html",
        "/folder.html",
        "/a%00b.html",
        "/" + "x" * 5000 + ".html",
        "/missing.html",
        "//[broken",
    ],
)
def test_nothing_else_is(run: Path, port: int, path: str, tmp_path: Path) -> None:
    report = run / "report"
    (report / "secret.txt").write_text("secret")
    (tmp_path / "outside.html").write_text("secret")
    (report / "link.html").symlink_to(tmp_path / "outside.html")
    (report / "folder.html").mkdir()
    status, body, _ = ask(port, path)
    assert status == 404
    assert b"secret" not in body
    assert b"format" not in body


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
def test_it_is_read_only(port: int, method: str) -> None:
    assert ask(port, "/", method)[0] == 501


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "", "localhost.evil.example", "[broken"])
def test_a_page_of_the_web_cannot_reach_it_under_another_name(port: int, host: str) -> None:
    assert ask(port, "/", Host=host)[0] in (400, 403)


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8000", "127.0.0.1:1", "[::1]:8000"])
def test_this_machine_has_several_names(port: int, host: str) -> None:
    assert ask(port, "/", Host=host)[0] == 200


def test_it_listens_on_this_machine_only(run: Path) -> None:
    with serve(run) as server:
        assert server.server_address[0] == "127.0.0.1"


@pytest.mark.parametrize(("host", "local"), [("127.0.0.1", True), ("localhost", True), ("0.0.0.0", False)])
def test_which_hosts_are_this_machine(host: str, local: bool) -> None:
    assert is_local(host) is local


def test_a_run_without_a_page_says_how_to_get_one(tmp_path: Path) -> None:
    folder = FakeRun(tmp_path / "run").write()
    with pytest.raises(RunError, match="salience report"):
        serve(folder)


def test_a_port_that_is_taken_is_named(run: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(RunError, match=str(taken.getsockname()[1])):
            serve(run, port=taken.getsockname()[1])
