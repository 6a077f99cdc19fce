"""ONNX files: what is read of them, what they answer, how they are told apart."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from salience.engine.tune import make_plan
from salience.errors import ModelError, SalienceWarning
from salience.models.classifier import Classifier
from salience.models.loading import load_model
from salience.models.onnx_file import image_input, score_output
from salience.models.twin import twin
from salience.testing.models import SmallNet

pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")

from onnx_nets import CLASSES, SIZE, WEIGHTS, expected, write_net  # behind the check that onnx is there

PIXELS = torch.rand(5, 3, *SIZE, generator=torch.Generator().manual_seed(0))
OPTIONS = "?mean=0.4&std=0.2"


def load(path: Path, options: str = OPTIONS, **how: Any) -> Classifier:
    return load_model(f"onnx:{path}{options}", device="cpu", **how)


def check(classifier: Classifier, tolerance: float = 1e-5) -> None:
    normalised = classifier.normalise(PIXELS).numpy()
    np.testing.assert_allclose(classifier.logits(PIXELS).numpy(), expected(normalised), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("kind", ["FLOAT", "FLOAT16", "DOUBLE"])
def test_every_layout_and_type(tmp_path: Path, layout: str, kind: str) -> None:
    classifier = load(write_net(tmp_path / "net.onnx", layout=layout, kind=kind))
    assert classifier.preprocessing.size == SIZE
    assert (classifier.name, classifier.capabilities, classifier.fixed_batch) == ("net", frozenset(), None)
    check(classifier, 1e-2 if kind == "FLOAT16" else 1e-5)


def test_a_fixed_batch_is_filled_and_split(tmp_path: Path, one_thread: None) -> None:
    classifier = load(write_net(tmp_path / "net.onnx", rows=3))
    assert classifier.fixed_batch == 3
    assert make_plan(classifier, remember=False).batch == 3
    assert classifier.num_classes == CLASSES
    check(classifier)


def test_it_answers_with_the_threads_that_torch_has_and_to_several_at_a_time(tmp_path: Path) -> None:
    classifier = load(write_net(tmp_path / "net.onnx"))
    expected_logits = classifier.logits(PIXELS)
    seen: list[tuple[int, int]] = []
    module: Any = classifier.module
    (program,) = module._ask
    begin = program._begin

    def counted(threads: int) -> Any:
        session = begin(threads)
        seen.append((threads, session.get_session_options().intra_op_num_threads))
        return session

    program._begin, program._threads = counted, 0  # of another number of threads than any
    found: list[torch.Tensor] = []

    def ask(one: Classifier) -> None:
        torch.set_num_threads(1)
        found.extend(one.logits(PIXELS) for _ in range(20))

    threads = [threading.Thread(target=ask, args=(twin(classifier),)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [(1, 1)]
    assert len(found) == 60
    assert all(torch.equal(logits, expected_logits) for logits in found)


def test_a_file_that_changes_while_it_is_in_use_is_told(tmp_path: Path, one_thread: None) -> None:
    classifier = load(write_net(tmp_path / "net.onnx"))
    write_net(tmp_path / "net.onnx", rows=3)
    check(classifier)  # as it was loaded
    torch.set_num_threads(2)
    with pytest.raises(ModelError, match="changed while it was in use"):
        classifier.logits(PIXELS)


def test_a_free_size_has_to_be_given(tmp_path: Path) -> None:
    path = write_net(tmp_path / "net.onnx", size=("h", "w"))
    with pytest.raises(ModelError, match="does not give 'size'"):
        load(path)
    check(load(path, f"{OPTIONS}&size=8x6"))


def test_a_size_that_is_not_the_programs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"'size' is \(9, 9\), but the ONNX program takes \(8, 6\)"):
        load(write_net(tmp_path / "net.onnx"), f"{OPTIONS}&size=9")


def test_probabilities_are_declared_or_noticed(tmp_path: Path) -> None:
    path = write_net(tmp_path / "net.onnx", softmax=True)
    classifier = load(path, f"{OPTIONS}&scores=probabilities")
    z = torch.from_numpy(expected(classifier.normalise(PIXELS).numpy()))
    torch.testing.assert_close(classifier.logits(PIXELS).softmax(1), z.softmax(1))
    with pytest.warns(SalienceWarning, match="scores = 'probabilities'"):
        load(path).logits(PIXELS)
    with pytest.raises(ModelError, match="declared to return probabilities"):
        load(write_net(tmp_path / "raw.onnx"), f"{OPTIONS}&scores=probabilities").logits(PIXELS)


@pytest.mark.parametrize(
    ("outputs", "wanted", "chosen"),
    [
        (("scores",), None, "scores"),
        (("grid", "scores", "logits"), None, "logits"),
        (("grid", "first", "second"), None, "first"),
        (("grid", "first", "second"), "second", "second"),
    ],
)
def test_which_output_is_read(tmp_path: Path, outputs: tuple[str, ...], wanted: str | None, chosen: str) -> None:
    path = write_net(tmp_path / "net.onnx", outputs=outputs)
    classifier = load(path, OPTIONS + (f"&output={wanted}" if wanted else ""))
    assert classifier.module._ask[0].output == chosen
    check(classifier)


def test_an_output_that_is_not_there_is_told(tmp_path: Path) -> None:
    path = write_net(tmp_path / "net.onnx", outputs=("logits", "grid"))
    with pytest.raises(
        ModelError, match=r"no output 'logit'. Did you mean 'logits'\?.*It has 'logits' \('n', 4\), 'grid'"
    ):
        load(path, f"{OPTIONS}&output=logit")


def test_shapes_that_say_little() -> None:
    where = "Model 'x'"
    assert score_output([("y", None)], None, where) == "y"
    assert score_output([("y", [])], None, where) == "y"
    with pytest.raises(ModelError, match="no output of two dimensions"):
        score_output([("a", ["n", 4, 7, 7]), ("b", ["n", 4, 1])], None, where)
    free = image_input([("x", "tensor(float)", ["n", None, "h", "w"])], where)
    assert (free.channels_last, free.batch, free.size) == (False, None, (None, None))
    both = image_input([("x", "tensor(float)", [1, 3, 224, 3])], where)
    assert (both.channels_last, both.batch, both.size) == (False, 1, (224, 3))
    last = image_input([("x", "tensor(float16)", [-1, "h", 224, 3])], where)
    assert (last.channels_last, last.batch, last.size) == (True, None, (None, 224))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"kind": "UINT8"}, r"is tensor\(uint8\).*floating-point numbers"),
        ({"channels": 1}, r"shape \('n', 1, 8, 6\); \(N, 3, H, W\) or"),
        ({"inputs": 2}, r"takes 2 inputs \('image', 'more1'\)"),
        ({"domain": "com.example"}, "operators that this version has"),
    ],
)
def test_programs_that_cannot_be_used_are_told(tmp_path: Path, how: dict[str, Any], message: str) -> None:
    weights = WEIGHTS[:1] if how.get("channels") == 1 else WEIGHTS
    with pytest.raises(ModelError, match=message):
        load(write_net(tmp_path / "net.onnx", weights=weights, **how))


def test_missing_and_broken_files_are_told(tmp_path: Path) -> None:
    path = write_net(tmp_path / "net.onnx")
    with pytest.raises(ModelError, match=r"no ONNX file .*Did you mean 'net.onnx'\?"):
        load(tmp_path / "nets.onnx")
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(ModelError, match="cannot be loaded by ONNX Runtime"):
        load(path)


def test_without_the_runtime_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("salience.models.registry.is_installed", lambda package: package != "onnxruntime")
    with pytest.raises(ModelError, match=r'needs the package onnxruntime.*pip install "salience\[onnx\]"'):
        load(tmp_path / "net.onnx")


# ---------------------------------------------------------------------- fingerprints


def test_the_fingerprint_is_that_of_the_bytes(tmp_path: Path) -> None:
    path = write_net(tmp_path / "net.onnx")
    first = load(path).fingerprint()
    assert load(write_net(tmp_path / "copy.onnx")).fingerprint() == first
    changed = WEIGHTS.copy()
    changed[0, 0] += 1e-6
    others = {
        load(write_net(tmp_path / "other.onnx", weights=changed)).fingerprint(),
        load(path, "?mean=0.5&std=0.2").fingerprint(),
        load(path, f"{OPTIONS}&scores=probabilities").fingerprint(),
    }
    assert len(others | {first}) == 4


def test_the_fingerprint_sees_weights_in_a_file_beside(tmp_path: Path) -> None:
    found = []
    for weights in (WEIGHTS, WEIGHTS + 1):
        path = write_net(tmp_path / "net.onnx", external=True, weights=weights)
        assert (tmp_path / "net.onnx.data").is_file()
        found.append((path.read_bytes(), load(path).fingerprint()))
        (tmp_path / "net.onnx.data").unlink()
    assert found[0][0] == found[1][0]  # the file itself is the same
    assert found[0][1] != found[1][1]


# ---------------------------------------------------------------------- cards


def test_a_card_beside_the_file(tmp_path: Path) -> None:
    path = write_net(tmp_path / "net.onnx", softmax=True)
    (tmp_path / "names.txt").write_text("a\nb\nc\nd\n")
    card = tmp_path / "pre.toml"
    card.write_text('mean = [0.4, 0.4, 0.4]\nstd = [0.2, 0.2, 0.2]\nscores = "probabilities"\nclasses = "names.txt"\n')
    classifier = load(path, "", card=card)
    assert classifier.class_names == ("a", "b", "c", "d")
    assert load(path, "?mean=0.5", card=card).preprocessing.mean == (0.5, 0.5, 0.5)  # the spec has the last word
    assert load(path, f"{OPTIONS}&scores=probabilities").fingerprint() == classifier.fingerprint()


def test_a_card_that_names_the_file_relative_to_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models").mkdir()
    write_net(tmp_path / "models" / "net.onnx", outputs=("first", "second"))
    card = tmp_path / "models" / "mine.toml"
    card.write_text('model = "onnx:net.onnx?output=second"\nmean = [0.4, 0.4, 0.4]\nstd = [0.2, 0.2, 0.2]\n')
    monkeypatch.chdir(tmp_path)
    classifier = load_model("models/mine.toml", device="cpu")
    assert classifier.name == "mine"
    check(classifier)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('factory = "a.py:b"\n', r"names a model of its own \(factory = 'a.py:b'\)"),
        ('model = "onnx:other.onnx"\n', "names a model of its own"),
        ('wire = "json"\n', r"gives 'wire', which is for a model behind a URL"),
        ('scores = "odds"\n', "'logits' or 'probabilities' is needed"),
        ("sizes = 3\n", r"unknown key 'sizes'. Did you mean 'size'"),
    ],
)
def test_cards_that_do_not_fit_are_told(tmp_path: Path, text: str, message: str) -> None:
    path = write_net(tmp_path / "net.onnx")
    (tmp_path / "pre.toml").write_text(text)
    with pytest.raises(ModelError, match=message):
        load(path, card=tmp_path / "pre.toml")


def test_a_card_for_what_describes_itself_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pre.toml").write_text("size = 8\n")
    with pytest.raises(ModelError, match=r"describes itself; a card beside it .* is for .*http:.*onnx:"):
        load_model("salience.models.zoo:efficientnet_lite0", device="cpu", card=tmp_path / "pre.toml")
    (tmp_path / "whole.toml").write_text('model = "timm:resnet18"\nsize = 8\n')
    with pytest.raises(ModelError, match=r"which describes itself. A card can describe http:, https:, onnx:, pt2:"):
        load_model(str(tmp_path / "whole.toml"), device="cpu")
    (tmp_path / "torch.toml").write_text('factory = "salience.models.zoo:lite0"\nsize = 8\nscores = "probabilities"\n')
    with pytest.raises(ModelError, match="gives 'scores', which is for a model of which only outputs are known"):
        load_model(str(tmp_path / "torch.toml"), device="cpu")


# ---------------------------------------------------------------------- what torch exports


@pytest.mark.parametrize("rows", [None, 2])
def test_an_export_of_torch_answers_as_the_module(tmp_path: Path, rows: int | None) -> None:
    pytest.importorskip("onnxscript")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = SmallNet(CLASSES, inplace=False, norm=True).eval()
    shapes = {"x": {0: torch.export.Dim("rows", min=1, max=64)}} if rows is None else None
    path = tmp_path / "net.onnx"
    torch.onnx.export(net, (torch.rand(rows or 2, 3, *SIZE),), path, dynamo=True, dynamic_shapes=shapes, verbose=False)
    classifier = load(path)
    assert classifier.fixed_batch == rows
    with torch.no_grad():
        torch.testing.assert_close(classifier.logits(PIXELS), net(classifier.normalise(PIXELS)), rtol=1e-4, atol=1e-5)
