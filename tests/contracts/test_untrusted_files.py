"""Files of users, damaged in every way that can be drawn: an error for people or a result, and never code that runs.

Each kind of file is first written as it should be. Then bytes are changed, cut out, put in or doubled, and the file is
read by the function that users reach it through.
"""

from __future__ import annotations

import contextlib
import io
import json
import pickle
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file

import salience
from salience.data.decode import load
from salience.data.preprocessing import Preprocessing
from salience.data.source import open_images
from salience.errors import SalienceError
from salience.models.card import parse_card
from salience.models.weights import read_state
from salience.report import write_report
from salience.store.reader import read_npz
from salience.store.status import read_status
from synthetic_runs import FakeRun

SIZE = Preprocessing((16, 16))
PIXELS = np.arange(20 * 24 * 3, dtype=np.uint8).reshape(20, 24, 3)
STATE = {"fc.weight": torch.ones(2, 3), "fc.bias": torch.zeros(2)}
CARD = """factory = "nets.py:small"
size = [16, 16]
mean = [0.5, 0.5, 0.5]
std = [0.25, 0.25, 0.25]
interpolation = "bicubic"
classes = ["ant", "bee"]
"""


@dataclass(frozen=True)
class Kind:
    """A kind of file: its name, how a good one is written, and how users' files of it are read."""

    name: str
    write: Callable[[Path], Any]
    read: Callable[[Path], Any]


def picture(form: str, **options: Any) -> Callable[[Path], Any]:
    return lambda path: Image.fromarray(PIXELS).save(path, form, **options)


def see(path: Path) -> None:
    """Read the first image of a source."""
    source = open_images(path)
    load(source, source.refs[0], SIZE)


def manifest(path: Path) -> None:
    Image.fromarray(PIXELS).save(path.parent / "a.png")
    path.write_text('file,label,boxes,group\na.png,ant,"[[1, 2, 3, 4]]",x\nb.png,bee,,y\n', encoding="utf-8")


def manifest_parquet(path: Path) -> None:
    Image.fromarray(PIXELS).save(path.parent / "a.png")
    rows = {"file_name": ["a.png", "b.png"], "label": ["ant", "bee"], "boxes": [[[1.0, 2.0, 3.0, 4.0]], []]}
    pq.write_table(pa.table(rows), path)


def maps_npz(path: Path) -> None:
    np.savez(path, values=np.ones((2, 4, 4), np.float32), image_ids=["a", "b"], targets=[0, 1], method="mine")


KINDS = (
    Kind("card.toml", lambda p: p.write_text(CARD), parse_card),
    Kind("labels.csv", manifest, see),
    Kind("labels.parquet", manifest_parquet, see),
    Kind("images.npz", lambda p: np.savez(p, images=PIXELS[None], labels=[1], classes=["ant", "bee"]), see),
    Kind("small.npz", lambda p: np.savez_compressed(p, images=PIXELS[None]), see),
    Kind("maps.npz", maps_npz, read_npz),
    Kind("a.png", picture("PNG"), see),
    Kind("a.jpg", picture("JPEG"), see),
    Kind("a.gif", picture("GIF"), see),
    Kind("a.bmp", picture("BMP"), see),
    Kind("a.tif", picture("TIFF", compression="tiff_lzw"), see),
    Kind("a.webp", picture("WEBP"), see),
    Kind("w.safetensors", lambda p: save_file(STATE, p), lambda p: read_state(p, "here")),
    Kind("w.pt", lambda p: torch.save(STATE, p), lambda p: read_state(p, "here")),
)


@st.composite
def damage(draw: st.DrawFn) -> Callable[[bytes], bytes]:
    """Draw a few changes of a file's bytes; places are shares of its length, so that they fit any file."""
    place = st.floats(0, 1, exclude_max=True)
    kinds = st.sampled_from(["flip", "cut", "drop", "insert", "double", "zero"])
    steps = draw(st.lists(st.tuples(kinds, place, place, st.binary(min_size=1, max_size=8)), min_size=1, max_size=4))

    def apply(data: bytes) -> bytes:
        for kind, at, until, some in steps:
            i, j = sorted((int(at * len(data)), int(until * len(data))))
            if kind == "flip":
                data = data[:i] + some + data[i + len(some) :]
            elif kind == "cut":
                data = data[:i]
            elif kind == "drop":
                data = data[:i] + data[j:]
            elif kind == "insert":
                data = data[:i] + some + data[i:]
            elif kind == "double":
                data = data[:j] + data[i : min(j, i + 4096)] + data[j:]
            else:
                data = data[:i] + bytes(min(16, j - i)) + data[i + min(16, j - i) :]
        return data

    return apply


def read_or_refuse(read: Callable[[Path], Any], path: Path) -> None:
    """Read a file; what goes wrong must be told in words: another exception fails the test."""
    with contextlib.suppress(SalienceError):
        read(path)


EXAMPLES = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.name)
@pytest.mark.filterwarnings("ignore")
@EXAMPLES
@given(change=damage())
def test_a_damaged_file_is_refused_in_words(kind: Kind, tmp_path: Path, change: Callable[[bytes], bytes]) -> None:
    path = tmp_path / kind.name
    kind.write(path)
    path.write_bytes(change(path.read_bytes()))
    read_or_refuse(kind.read, path)


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.name)
@pytest.mark.filterwarnings("ignore")
@EXAMPLES
@given(data=st.binary(max_size=200))
def test_any_bytes_under_any_name_are_refused_in_words(kind: Kind, tmp_path: Path, data: bytes) -> None:
    path = tmp_path / kind.name
    path.write_bytes(data)
    read_or_refuse(kind.read, path)


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.name)
def test_the_file_as_it_should_be_is_read(kind: Kind, tmp_path: Path) -> None:
    kind.write(tmp_path / kind.name)
    kind.read(tmp_path / kind.name)


# ---------------------------------------------------------------------- runs


@pytest.fixture(scope="module")
def good_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return FakeRun(tmp_path_factory.mktemp("good"), images=3).write()


def browse(folder: Path) -> None:
    """Do with a run what its readers do."""
    run = salience.open_run(folder)
    for name in ("images", "predictions", "maps", "diagnostics", "failures", "scores", "measures", "effects"):
        run.table(name)
    for recipe in run.info["current"]:
        entry = run.info["recipes"][recipe]
        run.maps(entry["method"], entry["model"])
    read_status(folder)
    write_report(folder)


@pytest.mark.filterwarnings("ignore")
@settings(EXAMPLES, max_examples=60)
@given(change=damage(), which=st.floats(0, 1, exclude_max=True))
def test_a_damaged_run_is_refused_in_words(
    good_run: Path, tmp_path: Path, change: Callable[[bytes], bytes], which: float
) -> None:
    folder = tmp_path / "run"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(good_run, folder)
    files = sorted(p for p in folder.rglob("*") if p.is_file() and "report" not in p.parts and p.name != ".lock")
    path = files[int(which * len(files))]
    path.write_bytes(change(path.read_bytes()))
    read_or_refuse(browse, folder)


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 10**12) | st.floats(allow_nan=False) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=5,
)


@pytest.mark.filterwarnings("ignore")
@settings(EXAMPLES, max_examples=60)
@given(data=st.data())
def test_a_run_whose_description_says_something_else_is_refused_in_words(
    good_run: Path, tmp_path: Path, data: st.DataObject
) -> None:
    folder = tmp_path / "run"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(good_run, folder)
    info: Any = json.loads((folder / "run.json").read_text())
    node = info
    while True:
        keys = sorted(node) if isinstance(node, dict) else list(range(len(node)))
        key = data.draw(st.sampled_from(keys))
        if not isinstance(node[key], (dict, list)) or not node[key] or data.draw(st.booleans()):
            node[key] = data.draw(JUNK)
            break
        node = node[key]
    (folder / "run.json").write_text(json.dumps(info))
    read_or_refuse(browse, folder)


# ---------------------------------------------------------------------- code in data


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, sign: Path) -> None:
        self.sign = sign

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.write_text, (self.sign, "code ran"))


@pytest.mark.parametrize(
    "name", ["w.pt", "w.pth", "w.safetensors", "images.npz", "maps.npz", "maps.pt2", "labels.parquet"]
)
def test_code_in_a_file_is_never_run(name: str, tmp_path: Path) -> None:
    sign = tmp_path / "sign"
    path = tmp_path / name
    trap = Trap(sign)
    if name.endswith((".pt", ".pth")):
        torch.save({"fc.weight": trap}, path)
    elif name.endswith(".npz"):
        np.savez(path, images=np.array([trap], dtype=object), values=np.array([trap], dtype=object))
    else:
        path.write_bytes(pickle.dumps(trap))
    read = {k.name: k.read for k in KINDS}.get(name, lambda p: salience.load_model(f"pt2:{p}"))
    if name == "w.pth":
        read = {k.name: k.read for k in KINDS}["w.pt"]
    with pytest.raises(SalienceError):
        read(path)
    assert not sign.exists()
    assert pickle.loads(pickle.dumps(trap)) == len("code ran")  # the trap does work
    assert sign.exists()


def test_a_bare_pickle_is_no_file_of_weights(tmp_path: Path) -> None:
    sign = tmp_path / "sign"
    buffer = io.BytesIO()
    pickle.dump(Trap(sign), buffer)
    (tmp_path / "w.pt").write_bytes(buffer.getvalue())
    with pytest.raises(SalienceError):
        read_state(tmp_path / "w.pt", "here")
    assert not sign.exists()
