"""How a model is run: batch size, memory format, threads, precision. Recorded in the run, kept on every worker."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

import torch

from salience.errors import SettingsError

MemoryFormat = Literal["contiguous", "channels_last"]
Precision = Literal["float32", "bfloat16"]


def by_precision(precision: Precision) -> dict[str, Precision]:
    """Return what names a precision among all that decides a result: nothing for float32, which is usual."""
    return {} if precision == "float32" else {"precision": precision}


@dataclass(frozen=True)
class Plan:
    """Results are byte for byte the same under the same plan; under another, sums are taken in another order.

    Every model call gets exactly ``batch`` rows (the last ones repeated where images run out), because kernels may
    choose their order of summation by the shape. ``attention`` is ``math`` for models whose fused attention sums in an
    order that depends on a row's place in the batch. ``exact`` says whether rows were found to be independent of their
    place, byte for byte; where they are not, maps of an image agree to about 1e-6 between batches.

    ``threads`` work on a model call together, and ``lanes`` of calls are under way side by side, on the CPU: see
    :mod:`salience.engine.lanes`. How many there are changes no byte.

    ``precision`` is that of model calls, see :mod:`salience.engine.precision`: the one part of a plan that changes
    results by more than the order of sums does. It is part of every recipe, so results of two are never mixed.
    """

    batch: int
    memory_format: MemoryFormat = "channels_last"
    threads: int = 0
    device: str = "cpu"
    attention: Literal["fused", "math"] = "fused"
    exact: bool = True
    precision: Precision = "float32"
    lanes: int = 1

    @property
    def torch_format(self) -> torch.memory_format:
        """The memory format as torch has it."""
        return torch.channels_last if self.memory_format == "channels_last" else torch.contiguous_format

    def __post_init__(self) -> None:
        if self.precision not in get_args(Precision):
            raise SettingsError(f"The precision is {self.precision!r}; choose {' or '.join(get_args(Precision))}.")

    @classmethod
    def read(cls, entry: Mapping[str, Any] | None) -> Plan | None:
        """Return the plan that :meth:`to_dict` made plain values of; None where this version knows it not."""
        try:
            return cls(**entry) if entry else None
        except (TypeError, SettingsError):
            return None

    def within(self, threads: int) -> Plan:
        """Return the plan for so many threads in all."""
        each = min(self.threads or threads, threads)
        return replace(self, threads=each, lanes=threads // each if self.lanes > 1 else 1)

    def alone(self) -> Plan:
        """Return the plan for one call after another, by all threads together."""
        return replace(self, threads=self.threads * self.lanes, lanes=1)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)
