"""Fixtures that several rooms use."""

from __future__ import annotations

import os

# Workers run side by side: with several threads each, they wait for one another more than they compute. It must be
# said before torch is imported, and the processes that tests start are told so too.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import gc
import importlib.util
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

MEMORY = Path("/dev/shm")
if "TMPDIR" not in os.environ and os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free > 8 << 30:
    # Tests write and delete thousands of small files, each written through to the disk: a fifth of their time.
    os.environ["TMPDIR"] = tempfile.tempdir = str(MEMORY)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin every worker's share with long tests, those of whole commands: what is left for the end is then short.

    ``--dist worksteal`` cuts the tests into as many runs of equal numbers as there are workers.
    """
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    modules: dict[Path, list[pytest.Item]] = {}
    for item in items:
        modules.setdefault(item.path, []).append(item)
    long = [tests for path, tests in modules.items() if path.parent.name == "e2e"]
    short = [test for path, tests in modules.items() if path.parent.name != "e2e" for test in tests]
    ordered: list[pytest.Item] = []
    for i in range(workers):
        ordered += [test for tests in long[i::workers] for test in tests]
        room = len(items) * (i + 1) // workers - len(ordered)
        ordered += short[: max(0, room)]
        short = short[max(0, room) :]
    items[:] = ordered + short


def pytest_collection_finish() -> None:
    """Keep what has been imported out of every later collection: some tests collect, to count what is left."""
    gc.collect()
    gc.freeze()


def _define_operators() -> object | None:
    """Let torchvision be imported beside a torch that its compiled operators were not built for.

    Defining the schemas of its operators first is enough for its models and transforms, and for timm. That is done
    in test processes only, and only where those operators cannot be loaded.
    """
    torchvision = importlib.util.find_spec("torchvision")
    if torchvision is None or torchvision.origin is None or importlib.util.find_spec("torch") is None:
        return None
    import torch

    try:
        for operators in Path(torchvision.origin).parent.glob("_C*.so"):
            torch.ops.load_library(operators)
            return None
    except OSError:
        pass
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library


_OPERATORS = _define_operators()  # the schemas live as long as this


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep what is measured here away from the user's own cache."""
    before = os.environ.get("SALIENCE_CACHE")
    os.environ["SALIENCE_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    if before is None:
        del os.environ["SALIENCE_CACHE"]
    else:
        os.environ["SALIENCE_CACHE"] = before


@pytest.fixture(scope="session")
def assets() -> Path:
    """The folder of real classifiers and images; tests that need it are skipped where it is absent."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "assets"
    folder = Path(os.environ.get("SALIENCE_ASSETS", beside))
    if not (folder / "images").is_dir():
        pytest.skip(f"no real classifiers and images in {folder} (SALIENCE_ASSETS names another folder)")
    return folder


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Run torch on one thread: for nets too small for more."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
