"""Models of which only outputs are known, from the command line: ONNX files, URLs, budgets, kill and resume."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from terminal import FAST, Terminal, wait_for, write_pictures

import salience
from salience.models.journal import Journal
from salience.testing.server import Server, serving

pytest.importorskip("httpx")
pytest.importorskip("uvicorn")

CARD = 'size = 12\nmean = [0.4, 0.4, 0.4]\nstd = [0.2, 0.2, 0.2]\nclasses = ["a", "b", "c", "d", "e"]\n'
METHODS = ("--method", "occlusion,rise", "--budget", "17")
UNITS = ("--unit-images", "4")


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as server:
        yield server


def write_card(folder: Path, more: str = "") -> None:
    (folder / "preprocessing.toml").write_text(CARD + more, encoding="utf-8")


@pytest.fixture
def remote(terminal: Terminal) -> Terminal:
    """A folder with the card of a remote model, and twelve pictures."""
    write_card(terminal.folder)
    return terminal


def command(url: str, *more: str, out: str = "run") -> tuple[str, ...]:
    return (
        "explain", "pictures", "--model", f"far={url}", "--card", "preprocessing.toml", *METHODS, *UNITS, *FAST,
        "--out", out, "--no-report", "--log-json", *more,
    )  # fmt: skip


def contents(run: Path) -> dict[str, Any]:
    opened = salience.open_run(run)
    found: dict[str, Any] = {m: (opened.maps(m).image_ids, opened.maps(m).values.tobytes()) for m in opened.methods}
    found["predictions"] = opened.table("predictions").to_pylist()
    return found


def rows_of(requests: list[dict[str, Any]]) -> list[str]:
    return [row for request in requests for row in request["rows"]]


def test_a_remote_model_is_explained_and_its_queries_are_counted(remote: Terminal, server: Server) -> None:
    done = remote.here(*command(server.url, "--rate", "100000/s"))
    assert done.code == 0, done.err
    run = salience.open_run(remote.folder / "run")
    assert run.info["models"]["far"]["queries"] == done.summary["models"]["far"]["queries"] == server.rows
    assert server.rows <= 12 * 2 * 17
    assert max(len(request["rows"]) for request in server.seen) <= 4
    assert len(set(rows_of(server.seen))) == server.rows  # padding, or the same question of two methods, went nowhere
    assert [p.name for p in (remote.folder / "run" / "queries" / "far").iterdir()] == ["sent"]
    assert counted(remote.folder / "run") == server.rows
    before = server.rows
    assert remote.here(*command(server.url)).code == 0
    assert server.rows == before  # a finished run asks nothing


def test_the_summary_for_people_tells_what_was_sent(remote: Terminal, server: Server) -> None:
    words = [w for w in command(server.url) if w != "--log-json"]
    done = remote.here(*words)
    assert f"{server.rows} images sent to it for this run in all" in done.out


def test_killed_without_warning_no_answer_is_paid_for_twice(remote: Terminal, server: Server) -> None:
    server.switch(delay=0.03)
    kept: set[str] = set()
    kills = 2
    for _ in range(kills):
        program = remote.start(*command(server.url))
        enough = server.rows + 90
        wait_for(partial(arrived, server, enough, program), "rows to arrive")
        assert program.poll() is None, program.communicate()
        program.send_signal(signal.SIGKILL)
        program.communicate(timeout=60)
        new = in_journal(remote.folder / "run", server)
        assert new
        kept |= new
        assert counted(remote.folder / "run") >= server.rows
    asked = len(server.seen)
    server.switch()
    assert remote.here(*command(server.url)).code == 0
    assert not kept & set(rows_of(server.seen[asked:]))
    # only a request that was under way at a kill is asked again: its answer never arrived, or not whole
    assert server.rows - len(set(rows_of(server.seen))) <= kills * 4
    sent = salience.open_run(remote.folder / "run").info["models"]["far"]["queries"]
    assert server.rows <= sent == counted(remote.folder / "run") <= server.rows + kills * 4
    assert remote.here(*command(server.url, out="whole")).code == 0
    assert contents(remote.folder / "run") == contents(remote.folder / "whole")


def arrived(server: Server, rows: int, program: subprocess.Popen[str]) -> bool:
    return server.rows >= rows or program.poll() is not None


def in_journal(run: Path, server: Server) -> set[str]:
    """The rows that the server saw and that the run keeps answers for."""
    info = json.loads((run / "run.json").read_text())
    journal = Journal(run / "queries" / "far", info["models"]["far"]["fingerprint"])
    return {key.hex() for key in journal.find(bytes.fromhex(row) for row in set(rows_of(server.seen)))}


def counted(run: Path) -> int:
    return int((run / "queries" / "far" / "sent").read_text())


def test_what_is_in_the_journal_is_not_asked_again(remote: Terminal, server: Server) -> None:
    """The limit ends the run in the middle of a unit: all answers until then had arrived."""
    write_card(remote.folder, "retries = 0\n")
    assert remote.here(*command(server.url)).code == 0
    total = server.rows
    write_card(remote.folder, f"retries = 0\nmax_queries = {total // 2}\n")
    stopped = remote.here(*command(server.url, out="cut"))
    assert stopped.code == 2
    assert f"may be sent {total // 2} (max_queries)" in stopped.err
    assert "run the same command again to carry on" in stopped.err
    assert server.rows - total <= total // 2
    info = salience.open_run(remote.folder / "cut").info
    assert (info["status"], info["models"]["far"]["queries"]) == ("failed", server.rows - total)
    write_card(remote.folder, "retries = 0\n")  # the limit is no part of what decides the maps
    assert remote.here(*command(server.url, out="cut")).code == 0
    assert server.rows == 2 * total
    assert contents(remote.folder / "cut") == contents(remote.folder / "run")


def test_more_methods_are_served_from_answers_of_a_unit_that_was_cut_off(remote: Terminal, server: Server) -> None:
    one = tuple("occlusion" if w == "occlusion,rise" else w for w in command(server.url))
    assert remote.here(*one).code == 0
    first = server.rows
    write_card(remote.folder, f"max_queries = {first - 20}\n")
    cut = tuple("other" if w == "run" else w for w in one)
    assert remote.here(*cut).code == 2
    spent = server.rows - first
    write_card(remote.folder)
    assert remote.here(*command(server.url, out="other")).code == 0
    both = server.rows - first
    assert remote.here(*command(server.url, out="whole")).code == 0
    assert contents(remote.folder / "other") == contents(remote.folder / "whole")
    assert spent > 0
    assert both < server.rows - first - both + spent  # less than all of it anew


def test_a_server_that_fails_stops_the_run_and_the_same_command_carries_on(remote: Terminal, server: Server) -> None:
    write_card(remote.folder, "retries = 1\n")
    server.switch(fail=10**6)
    said = remote.here(*command(server.url))
    assert said.code == 2
    assert f"{server.url} gave no answer in 2 attempts" in said.err
    assert "status 503" in said.err
    server.switch()
    assert remote.here(*command(server.url)).code == 0


def test_a_model_without_class_names_is_asked_for_them_once(remote: Terminal, server: Server) -> None:
    (remote.folder / "preprocessing.toml").write_text(CARD.rpartition("classes")[0], encoding="utf-8")
    assert remote.here(*command(server.url)).code == 0
    total = server.rows
    assert len(set(rows_of(server.seen))) == total
    assert remote.here(*command(server.url)).code == 0
    assert server.rows == total


def test_nothing_secret_is_in_the_run(remote: Terminal, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.switch(token="t0k3n")
    monkeypatch.setenv("FAR_TOKEN", "t0k3n")
    write_card(remote.folder, 'token_env = "FAR_TOKEN"\n')
    assert remote.here(*command(server.url)).code == 0
    assert remote.here(*command(server.url.replace("//", "//me:p4ss@"))).code == 0  # it is the same model
    everything = b"".join(p.read_bytes() for p in (remote.folder / "run").rglob("*") if p.is_file())
    assert b"t0k3n" not in everything
    assert b"p4ss" not in everything
    assert server.url.encode() in everything


def test_the_remote_model_of_a_card(remote: Terminal, server: Server) -> None:
    (remote.folder / "far.toml").write_text(f'model = "{server.url}"\n{CARD}', encoding="utf-8")
    done = remote.explain("--method", "occlusion", "--budget", "10", "--rate", "9999/s", model="far.toml")
    assert done.code == 0, done.err
    assert list(done.summary["models"]) == ["far"]


def test_a_method_that_needs_gradients_is_refused_and_nothing_is_spent(remote: Terminal, server: Server) -> None:
    done = remote.explain("--card", "preprocessing.toml", "--method", "gradient", model=f"far={server.url}")
    assert "'gradient' needs gradients, which model 'far'" in done.refusal()
    assert server.rows == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--rate", "50/s"), "is computed here"),
        (("--card", "preprocessing.toml"), "every --model here describes itself"),
        (("--rate", "soon"), "The rate is 'soon'"),
    ],
)
def test_options_that_no_model_has_a_use_for(remote: Terminal, words: tuple[str, ...], message: str) -> None:
    assert message in remote.explain(*words).refusal()


def test_an_onnx_file_with_a_card(terminal: Terminal) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    import torch

    from salience.testing.models import small_classifier

    net = small_classifier(12, 5, seed=1)
    rows = torch.export.Dim("rows", min=1, max=64)
    torch.onnx.export(
        net.module, (torch.rand(2, 3, 12, 12),), terminal.folder / "net.onnx", dynamo=True,
        dynamic_shapes=({0: rows},), verbose=False,
    )  # fmt: skip
    mean, std = list(net.preprocessing.mean), list(net.preprocessing.std)
    (terminal.folder / "pre.toml").write_text(f"mean = {mean}\nstd = {std}\n")
    done = terminal.explain("--card", "pre.toml", *METHODS, model="onnx:net.onnx")
    assert done.code == 0, done.err
    run = salience.open_run(terminal.folder / "run")
    assert run.info["models"]["net"]["capabilities"] == []
    assert "queries" not in run.info["models"]["net"]
    images = sorted(str(p) for p in (terminal.folder / "pictures").rglob("*.png"))
    net.module.eval()
    own = salience.explain(net, images, method="occlusion", budget=17)
    found = run.maps("occlusion")
    assert len(found) == len(own) == 12
    np.testing.assert_allclose(found.values, own.values, rtol=2e-2, atol=1e-3 * np.abs(own.values).max())


def test_images_that_look_the_same_are_asked_about_once(remote: Terminal, server: Server) -> None:
    write_pictures(remote.folder / "twins", {"one": 1})
    copy = remote.folder / "twins" / "one" / "001.png"
    copy.write_bytes((remote.folder / "twins" / "one" / "000.png").read_bytes())
    words = ("--card", "preprocessing.toml", "--method", "occlusion", "--budget", "10")
    assert remote.explain(*words, images="twins", model=f"far={server.url}").code == 0
    assert len(set(rows_of(server.seen))) == server.rows <= 10


def test_the_server_of_the_documentation_speaks_the_protocol(terminal: Terminal) -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "models.md").read_text(encoding="utf-8")
    (block,) = [b for b in re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL) if "async def app" in b]
    serve = "import socket, uvicorn\nlistening = socket.create_server(('127.0.0.1', 0))\n"
    serve += "print(listening.getsockname()[1], flush=True)\n"
    serve += "uvicorn.Server(uvicorn.Config(app, log_level='critical')).run(sockets=[listening])\n"
    with subprocess.Popen([sys.executable, "-c", block + serve], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = f"http://127.0.0.1:{int(process.stdout.readline())}/predict"
            (terminal.folder / "pre.toml").write_text("size = 12\nmean = [0.5, 0.5, 0.5]\nstd = [1, 1, 1]\n")
            classifier = salience.load_model(url, card=terminal.folder / "pre.toml", device="cpu")
            image = np.full((1, 12, 12, 3), 255, dtype=np.uint8)
            maps = salience.explain(classifier, image, method="occlusion", budget=5, output="logit")
            assert classifier.num_classes == 3
            assert maps.scores[0] == pytest.approx(0.5, abs=1e-6)  # a white image: each mean is 1 - 0.5
        finally:
            process.kill()
