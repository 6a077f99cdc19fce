"""How a model is run: batch size, memory format, threads. Recorded in the run, kept on resume and on every worker."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch

MemoryFormat = Literal["contiguous", "channels_last"]


@dataclass(frozen=True)
class Plan:
    """Results are byte for byte the same under the same plan; under another, sums are taken in another order.

    Every model call gets exactly ``batch`` rows (the last ones repeated where images run out), because kernels may
    choose their order of summation by the shape. ``attention`` is ``math`` for models whose fused attention sums in an
    order that depends on a row's place in the batch. ``exact`` says whether rows were found to be independent of their
    place, byte for byte; where they are not, maps of an image agree to about 1e-6 between batches.
    """

    batch: int
    memory_format: MemoryFormat = "channels_last"
    threads: int = 0
    device: str = "cpu"
    attention: Literal["fused", "math"] = "fused"
    exact: bool = True

    @property
    def torch_format(self) -> torch.memory_format:
        """The memory format as torch has it."""
        return torch.channels_last if self.memory_format == "channels_last" else torch.contiguous_format

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)
