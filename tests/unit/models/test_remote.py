"""A model behind a URL, with a real server in a process of its own that misbehaves on request."""

from __future__ import annotations

import email.utils
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from remote_models import write_card

import salience
from salience.errors import ModelError, SettingsError
from salience.models.account import Account
from salience.models.blackbox import BlackBox
from salience.models.classifier import Classifier
from salience.models.loading import load_model, load_models
from salience.models.registry import parse_spec, redacted, split_name
from salience.models.remote import Endpoint, Remote, read_scores, retry_after, shown, waits, write_batch
from salience.testing.server import Server, scores_of, serving

pytest.importorskip("httpx")
pytest.importorskip("uvicorn")

PIXELS = torch.rand(6, 3, 12, 12, generator=torch.Generator().manual_seed(0))
IMAGES = (PIXELS.permute(0, 2, 3, 1).numpy() * 255).astype(np.uint8)


@pytest.fixture(scope="module")
def running() -> Iterator[Server]:
    with serving() as server:
        yield server


@pytest.fixture
def server(running: Server) -> Server:
    running.switch()
    return running


@pytest.fixture
def card(tmp_path: Path) -> Path:
    return write_card(tmp_path)


def load(server: Server, folder: Path, more: str = "", **how: Any) -> Classifier:
    return load_model(f"far={server.url}", device="cpu", card=write_card(folder, more), **how)


class Asked:
    """A remote that does not really wait, with what it was charged and how long it would have waited."""

    def __init__(self, server: Server, **how: Any) -> None:
        self.slept: list[float] = []
        self.account = Account("far")
        self.remote = Remote(Endpoint(server.url, **how), self.account, self.slept.append)
        self._before = server.rows
        self._server = server

    def __call__(self, rows: int = 2) -> np.ndarray:
        return self.remote(PIXELS[:rows])

    @property
    def arrived(self) -> int:
        return self._server.rows - self._before


def waits_of(classifier: Classifier) -> list[float]:
    """Let a model's rate go by a clock of its own, which nothing but waiting moves on; return what is waited."""
    now, slept = [0.0], []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += seconds

    classifier.account.rate.clock, classifier.account.rate.sleep = lambda: now[0], sleep
    return slept


# ---------------------------------------------------------------------- specs


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:8000/predict", "https://h.example/v1/models/m:predict?a=b&c=d", "http://u:p@h/x?y=1"]
)
@pytest.mark.parametrize("name", ["", "far="])
def test_a_url_survives_the_grammar_of_specs(url: str, name: str) -> None:
    given, text = split_name(f"{name}{url}")
    assert given == (name.rstrip("=") or None)
    found, target, options = parse_spec(text)
    assert (found.prefix, target, options) == (url.partition(":")[0], url, {})


def test_credentials_are_never_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown("https://me:secret@h.example/x?y=1") == "https://h.example/x?y=1"
    assert redacted("far=https://me:secret@h.example/x and http://h/a@b") == "far=https://h.example/x and http://h/a@b"
    monkeypatch.setenv("FAR_TOKEN", "hidden")
    classifier = load_model(
        "http://me:secret@127.0.0.1:9/x", card=write_card(tmp_path, 'token_env = "FAR_TOKEN"\nretries = 0\n')
    )
    with pytest.raises(ModelError, match=r"http://127.0.0.1:9/x gave no answer in 1 attempts.*no connection") as told:
        classifier.logits(PIXELS)
    assert classifier.name == "127.0.0.1-9-x"
    for text in (classifier.spec, repr(classifier), repr(classifier.module), str(told.value)):
        assert "secret" not in text
        assert "hidden" not in text


@pytest.mark.parametrize("url", ["http:", "http:///x", "http://[::1/x"])
def test_what_is_no_url_is_told(url: str, card: Path) -> None:
    with pytest.raises(ModelError, match=r"is no URL|names no host|names nothing"):
        load_model(url, card=card)


def test_without_a_card_the_size_is_asked_for() -> None:
    with pytest.raises(ModelError, match="does not give 'size'"):
        load_model("http://127.0.0.1:9/x")


def test_a_card_that_names_the_url(server: Server, tmp_path: Path) -> None:
    card = write_card(tmp_path, f'model = "{server.url}"\nbatch = 4\n', name="far.toml")
    classifier = load_model(str(card))
    assert (classifier.name, classifier.usual_batch, classifier.paid) == ("far", 4, True)
    np.testing.assert_array_equal(classifier.logits(PIXELS).numpy(), scores_of(classifier.normalise(PIXELS).numpy()))


def test_the_fingerprint_is_of_what_decides_the_answers(tmp_path: Path) -> None:
    def made(more: str = "", url: str = "http://127.0.0.1:9/x") -> str:
        return load_model(url, card=write_card(tmp_path, more)).fingerprint()

    same = {
        made(),
        made(url="http://me:secret@127.0.0.1:9/x"),
        made('max_queries = 5\nrate = "5/s"\ntimeout = 1.5\nretries = 0\nbatch = 3\npaid = false\n'),
    }
    others = {
        made('version = "2"\n'),
        made('wire = "json"\n'),
        made('scores = "probabilities"\n'),
        made("crop = 0.5\n"),
        made(url="http://127.0.0.1:9/y"),
        made(url="https://127.0.0.1:9/x"),
    }
    assert len(same) == 1
    assert len(others | same) == 7


# ---------------------------------------------------------------------- wire formats


@pytest.mark.parametrize("more", ["", 'wire = "json"\n'])
@pytest.mark.parametrize("as_json", [False, True])
def test_both_wire_formats(server: Server, tmp_path: Path, more: str, as_json: bool) -> None:
    server.switch(as_json=as_json)
    classifier = load(server, tmp_path, more)
    expected = scores_of(classifier.normalise(PIXELS).numpy())
    np.testing.assert_array_equal(classifier.logits(PIXELS).numpy(), expected)
    assert server.seen[-1]["kind"] == ("application/json" if more else "application/x-npy")


def test_a_batch_is_the_file_that_numpy_writes(tmp_path: Path) -> None:
    rows = PIXELS.numpy()
    (tmp_path / "rows.npy").write_bytes(write_batch(rows.transpose(0, 1, 3, 2), "npy"))
    np.testing.assert_array_equal(np.load(tmp_path / "rows.npy"), rows.transpose(0, 1, 3, 2))


@pytest.mark.parametrize(
    ("content", "wire", "message"),
    [
        (b"<html>", "npy", "neither a .npy file nor JSON"),
        (b"<html>", "json", "no JSON"),
        (b'{"outputs": [[1, 2]]}', "json", "without the key 'predictions'"),
        (b'{"predictions": [[1, 2]]}', "npy", "without the key 'scores'"),
        (b"[[1, 2]]", "npy", "without the key"),
        (b'{"scores": [[1, 2], [1]]}', "npy", "lists of numbers of one length"),
        (b'{"scores": [["a"]]}', "npy", "lists of numbers"),
    ],
)
def test_answers_that_cannot_be_read(content: bytes, wire: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_scores(content, wire)


def test_null_is_nan() -> None:
    np.testing.assert_array_equal(read_scores(b'{"scores": [[1, null]]}', "npy"), [[1.0, np.nan]])


@pytest.mark.parametrize(
    ("switches", "message"),
    [
        ({"nonsense": True}, "sent an answer that cannot be read.*'<html>Sign in</html>'.*docs/models.md"),
        ({"lose_rows": 1}, r"returned scores of shape \(5, 5\) for 6 images"),
        ({"classes": 1}, r"returned scores of shape \(6, 1\)"),
        ({"classes": 4}, "returned 4 classes; 5 are known from its class names"),
        ({"token": "abc"}, "refused a batch of 6 images with status 401"),
        ({"fail": 1, "status": 413}, "status 413 .'out of order'.*does not change by asking again"),
        ({"fail": 1, "status": 302}, "status 302"),
    ],
)
def test_unusable_answers_name_the_url_and_are_not_asked_for_again(
    server: Server, tmp_path: Path, switches: dict[str, Any], message: str
) -> None:
    server.switch(**switches)
    before = len(server.seen)
    with pytest.raises(ModelError, match=message) as told:
        load(server, tmp_path).logits(PIXELS)
    assert server.url in str(told.value)
    assert len(server.seen) - before <= 1


def test_a_nan_row_is_a_failure_of_its_image(server: Server, tmp_path: Path) -> None:
    server.switch(nan=[len(server.seen)])  # the first row of the next answer
    for more in ("", 'wire = "json"\n'):
        server.switch(nan=[len(server.seen)])
        maps = salience.explain(load(server, tmp_path, more), IMAGES, method="occlusion", budget=5)
        assert (len(maps), [f.kind for f in maps.failures]) == (5, ["model"])


def test_the_token_comes_from_the_environment(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server.switch(token="abc")
    monkeypatch.setenv("FAR_TOKEN", "abc")
    assert load(server, tmp_path, 'token_env = "FAR_TOKEN"\n').logits(PIXELS).shape == (6, 5)
    monkeypatch.delenv("FAR_TOKEN")
    with pytest.raises(ModelError, match=r"variable FAR_TOKEN.*not set: export FAR_TOKEN="):
        load(server, tmp_path, 'token_env = "FAR_TOKEN"\n')


# ---------------------------------------------------------------------- asking again


def test_the_schedule_doubles_and_is_always_the_same() -> None:
    assert waits(9) == [0.5, 1, 2, 4, 8, 16, 32, 60, 60]
    assert waits(0) == []


@pytest.mark.parametrize("status", [429, 500, 502, 503])
def test_failures_that_may_pass_are_tried_again(server: Server, status: int) -> None:
    asked = Asked(server)
    server.switch(fail=3, status=status)
    np.testing.assert_array_equal(asked(), scores_of(PIXELS[:2].numpy()))
    assert asked.slept == [0.5, 1, 2]
    assert asked.account.sent == asked.arrived == 8  # every attempt counts


def test_a_dropped_connection_is_tried_again(server: Server) -> None:
    asked = Asked(server)
    server.switch(drop=2)
    asked()
    assert asked.slept == [0.5, 1]
    assert asked.account.sent == asked.arrived == 6


def test_a_late_answer_is_tried_again(server: Server) -> None:
    asked = Asked(server, timeout=0.2, retries=2)
    server.switch(delay=1.0)
    with pytest.raises(ModelError, match=r"no answer in 3 attempts and 1.5 s of waiting.*no answer within 0.2 s"):
        asked()
    assert asked.account.sent == asked.arrived == 6


def test_nobody_there_costs_nothing() -> None:
    account, slept = Account("far"), []
    remote = Remote(Endpoint("http://127.0.0.1:9/x", retries=3), account, slept.append)
    with pytest.raises(
        ModelError, match=r"127.0.0.1:9/x gave no answer in 4 attempts .*the last: no connection .*run the same"
    ):
        remote(PIXELS)
    assert (account.sent, slept) == (0, [0.5, 1, 2])


@pytest.mark.parametrize(("header", "expected"), [("7", [7.0, 7.0]), ("0", [0.5, 1.0]), ("soon", [0.5, 1.0])])
def test_retry_after_is_honoured(server: Server, header: str, expected: list[float]) -> None:
    asked = Asked(server)
    server.switch(fail=2, status=429, retry_after=header)
    asked()
    assert asked.slept == expected


def test_retry_after_as_a_date() -> None:
    assert retry_after(email.utils.formatdate(1000.0, usegmt=True), 940.0) == 60.0
    assert retry_after(email.utils.formatdate(1000.0, usegmt=True), 1100.0) == 0.0
    assert retry_after(None, 0.0) == 0.0


def test_a_wait_of_hours_is_left_to_the_person(server: Server) -> None:
    asked = Asked(server)
    server.switch(fail=1, status=429, retry_after="7200")
    with pytest.raises(ModelError, match=r"1 attempts.*status 429 .*tried again in 7200 s.*carry on"):
        asked()
    assert asked.slept == []


def test_attempts_count_towards_the_limit(server: Server, tmp_path: Path) -> None:
    server.switch(fail=9)
    classifier = load(server, tmp_path, "max_queries = 9\n")
    before = server.rows
    with pytest.raises(ModelError, match=r"was sent 6 rows and may be sent 9 \(max_queries\); 6 more"):
        classifier.logits(PIXELS)
    assert server.rows - before == 6


# ---------------------------------------------------------------------- several connections


def test_connections_share_a_batch_and_its_answers_come_back_in_order(server: Server, tmp_path: Path) -> None:
    server.switch(delay=0.5)
    classifier = load(server, tmp_path, "connections = 4\nbatch = 2\n")
    assert classifier.usual_batch == 8
    before = len(server.seen)
    logits = classifier.logits(PIXELS)
    np.testing.assert_array_equal(logits.numpy(), scores_of(classifier.normalise(PIXELS).numpy()))
    requests = server.seen[before:]
    assert [len(r["rows"]) for r in requests] == [2, 2, 2]
    assert max(r["open"] for r in requests) > 1
    assert classifier.account.sent == 6


def test_one_connection_at_a_time_where_none_are_asked_for(server: Server, tmp_path: Path) -> None:
    server.switch(delay=0.05)
    classifier = load(server, tmp_path, "batch = 2\n")
    before = len(server.seen)
    salience.explain(classifier, IMAGES[:2], method="occlusion", budget=9)
    assert max(r["open"] for r in server.seen[before:]) == 1


def test_what_other_connections_brought_is_kept_when_one_fails(server: Server, tmp_path: Path) -> None:
    classifier = load(server, tmp_path, "connections = 3\n")
    account, rows = classifier.account, classifier.normalise(PIXELS)
    server.switch(fail=1, status=413, delay=1.0)  # all connections have asked by then
    with account.kept_in(tmp_path / "queries", "m", lambda: None):
        with pytest.raises(ModelError, match="status 413"):
            classifier.module(rows)
        assert account.sent == 6
    server.switch()
    before = server.rows
    with account.kept_in(tmp_path / "queries", "m", lambda: None):
        np.testing.assert_array_equal(classifier.module(rows).numpy(), scores_of(rows.numpy()))
        assert account.sent == 8
    assert server.rows - before == 2  # those of the connection that failed, and no others


def test_the_limit_holds_for_all_connections_together(server: Server, tmp_path: Path) -> None:
    classifier = load(server, tmp_path, "connections = 6\nmax_queries = 20\n")
    before = server.rows
    with pytest.raises(ModelError, match=r"may be sent 20 \(max_queries\)"):
        salience.explain(classifier, IMAGES, method="occlusion", budget=10)
    assert 6 < server.rows - before == classifier.account.sent <= 20


def test_the_rate_holds_for_all_connections_together(server: Server, tmp_path: Path) -> None:
    classifier = load(server, tmp_path, "connections = 3\n", rate="20/s")
    slept = waits_of(classifier)
    classifier.logits(PIXELS)
    assert slept == pytest.approx([0.1, 0.1])


@pytest.mark.parametrize("value", [0, 65, '"many"'])
def test_connections_that_make_no_sense_are_told(tmp_path: Path, value: object) -> None:
    with pytest.raises(ModelError, match="connections"):
        load_model("http://127.0.0.1:9/x", card=write_card(tmp_path, f"connections = {value}\n"))


# ---------------------------------------------------------------------- rate, cost


def test_the_rate_holds_between_requests(server: Server, tmp_path: Path) -> None:
    classifier = load(server, tmp_path, rate="20/s")
    assert classifier.account.rate.per_second == 20
    slept = waits_of(classifier)
    for start in (0, 2, 4):
        classifier.logits(PIXELS[start : start + 2])
    assert slept == pytest.approx([0.1, 0.1])


def test_the_rate_of_the_card_and_over_it_that_of_the_command(server: Server, tmp_path: Path) -> None:
    assert load(server, tmp_path, 'rate = "120/m"\n').account.rate.per_second == 2
    assert load(server, tmp_path, 'rate = "120/m"\n', rate=5).account.rate.per_second == 5
    assert load(server, tmp_path).account.rate is None
    with pytest.raises(SettingsError, match="is 'fast'"):
        load(server, tmp_path, rate="fast")


def test_rate_and_card_among_several_models(server: Server, card: Path) -> None:
    own = card.parent / "near.toml"
    (card.parent / "nets.py").write_text(
        "from salience.testing.models import SmallNet\ndef net():\n    return SmallNet(5, False, False)\n"
    )
    own.write_text('factory = "nets.py:net"\nsize = 12\nmean = [0, 0, 0]\nstd = [1, 1, 1]\n')
    near, far = load_models([str(own), f"far={server.url}"], device="cpu", card=card, rate="9/s")
    assert (near.account, far.account.rate.per_second) == (None, 9)
    with pytest.raises(ModelError, match="every --model here describes itself"):
        load_models([str(own)], card=card)
    with pytest.raises(SettingsError, match="'near' is computed here"):
        load_models([str(own)], rate="9/s")


def test_padding_is_not_sent_and_the_count_is_that_of_the_server(server: Server, tmp_path: Path) -> None:
    classifier = load(server, tmp_path)
    before, requests = server.rows, len(server.seen)
    maps = salience.explain(classifier, IMAGES, method="occlusion", budget=10, batch_size=4)
    assert len(maps) == 6
    sent = [row for request in server.seen[requests:] for row in request["rows"]]
    assert len(sent) == classifier.account.sent == server.rows - before <= 60
    assert all(len(set(r["rows"])) == len(r["rows"]) <= 4 for r in server.seen[requests:])


def test_a_server_that_costs_nothing_is_measured_like_any_model(server: Server, tmp_path: Path) -> None:
    classifier = load(server, tmp_path, "paid = false\n")
    assert not classifier.paid
    assert isinstance(classifier.module, BlackBox)
    before = server.rows
    classifier.logits(PIXELS[:1].expand(4, -1, -1, -1))
    assert server.rows - before == 4
