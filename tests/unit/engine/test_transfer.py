"""Copies between host and device, with a device whose copies happen as late as a real one's may."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from salience.engine import transfer
from salience.engine.sweep import Sweep
from salience.engine.transfer import Download, queues, upload
from salience.explaining import RunSettings, explain_run
from salience.testing.models import small_classifier


class Device:
    """Stands for a GPU on the CPU: copies to the host are made when an event after them is waited for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.queue: list[tuple[Tensor, Tensor]] = []
        self.log: list[str] = []
        monkeypatch.setattr(transfer, "queues", lambda device: True)
        monkeypatch.setattr(transfer, "_page_locked", self.allocate)
        monkeypatch.setattr(transfer, "_mark", lambda device: Event(self))

    def allocate(self, shape: Any, dtype: torch.dtype) -> Tensor:
        held = torch.full(tuple(shape), 99 if dtype != torch.bool else 1, dtype=dtype)
        held.copy_ = lambda source, non_blocking: self.begin(held, source, non_blocking)  # type: ignore[method-assign]
        return held

    def begin(self, held: Tensor, source: Tensor, non_blocking: bool) -> Tensor:
        assert non_blocking
        self.queue.append((held, source.clone()))
        return held


class Event:
    def __init__(self, device: Device) -> None:
        self.device, self.before = device, len(device.queue)

    def synchronize(self) -> None:
        self.device.log.append("wait")
        for held, value in self.device.queue[: self.before]:
            Tensor.copy_(held, value)


def test_arrays_are_stacked_as_numpy_does() -> None:
    arrays = list(np.random.default_rng(0).integers(0, 256, (3, 4, 5, 3), dtype=np.uint8))
    found = upload(arrays, torch.device("cpu"))
    assert found.dtype == torch.uint8
    assert np.array_equal(found.numpy(), np.stack(arrays))


def test_page_locked_memory_carries_the_same_values(monkeypatch: pytest.MonkeyPatch) -> None:
    Device(monkeypatch)
    arrays = list(np.random.default_rng(1).random((3, 4, 5, 3), dtype=np.float32))
    assert np.array_equal(upload(arrays, torch.device("cpu")).numpy(), np.stack(arrays))


def test_what_was_copied_is_read_after_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    device = Device(monkeypatch)
    download = Download([torch.arange(3.0), torch.tensor([True, False])])
    assert device.log == []
    numbers, flags = download.arrays()
    assert device.log == ["wait"]
    assert numbers.tolist() == [0.0, 1.0, 2.0]
    assert flags.tolist() == [True, False]


def test_the_cpu_has_no_queue() -> None:
    assert not queues(torch.device("cpu"))
    assert not queues(torch.device("mps"))
    assert queues(torch.device("cuda:1"))
    assert Download([torch.ones(2)]).arrays()[0].tolist() == [1.0, 1.0]


def test_a_batch_is_read_after_the_next_one_has_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    classifier = small_classifier()
    images = np.random.default_rng(2).integers(0, 256, (10, 16, 16, 3), dtype=np.uint8)
    methods = ["gradient", "gradcam", "occlusion:window=8:stride=4"]
    how = RunSettings(batch=4, memory_format="contiguous", unit_images=10)
    plain = explain_run([classifier], images, methods, tmp_path / "plain", settings=how).run
    device = Device(monkeypatch)
    run = Sweep.run

    def logged(self: Sweep, batch: Any) -> Any:
        device.log.append("run")
        return run(self, batch)

    monkeypatch.setattr(Sweep, "run", logged)
    late = explain_run([classifier], images, methods, tmp_path / "late", settings=how).run
    assert device.log == ["run", "run", "wait", "run", "wait", "wait"]
    for method in methods:
        a, b = plain.maps(method), late.maps(method)
        assert a.image_ids == b.image_ids
        assert np.array_equal(a.values, b.values)
    assert plain.table("predictions").equals(late.table("predictions"))
