"""What a comparison came to, and the tables of all."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from .agreement import Agreement


@dataclass(frozen=True)
class Times:
    """Medians in milliseconds: of an image, or of a map that is scored. ``bare`` is 0 where no call is needed."""

    bare: float
    salience: float
    usual: float
    best: float

    def efficiency(self, of: Literal["salience", "usual", "best"]) -> float | None:
        """Return the share of the bare calls, None where none is needed."""
        return self.bare / getattr(self, of) if self.bare else None


@dataclass(frozen=True)
class Row:
    """One comparison; ``failure`` says why there is none."""

    kind: Literal["method", "metric"]
    ours: str
    peer: str
    remark: str = ""
    images: int = 0
    rounds: int = 0
    times: Times | None = None
    agreement: Agreement | None = None
    between_seeds: Agreement | None = None
    failure: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON: milliseconds, efficiencies, ratios and the agreement."""
        out = {k: v for k, v in asdict(self).items() if k not in ("times", "agreement", "between_seeds")}
        if self.times is not None:
            out["milliseconds"] = asdict(self.times)
            out["efficiency"] = {of: self.times.efficiency(of) for of in ("salience", "usual", "best")}
            out["times_as_fast"] = {
                "as_usual": self.times.usual / self.times.salience,
                "as_its_best": self.times.best / self.times.salience,
            }
        for name, found in (("agreement", self.agreement), ("between_seeds", self.between_seeds)):
            if found is not None:
                out[name] = {k: v if math.isfinite(v) else None for k, v in asdict(found).items()}
        return out

    def cells(self) -> tuple[str, ...]:
        """Return the cells of the table."""
        if self.times is None:
            return (f"`{self.ours}`", self.peer, "", "", "", "", "", "", self.failure or "")
        t = self.times
        return (
            f"`{self.ours}`",
            self.peer,
            str(self.images),
            _two(t.efficiency("salience")),
            _pair(_two(t.efficiency("usual")), _two(t.efficiency("best"))),
            _pair(f"{t.usual / t.salience:.1f}", f"{t.best / t.salience:.1f}"),
            self._ranks(),
            self._difference(),
            self.remark,
        )

    def _ranks(self) -> str:
        if self.agreement is None:
            return ""
        if not math.isfinite(self.agreement.ranks):
            return "all values equal"
        own = f"{self.agreement.ranks:.4f}"
        return own if self.between_seeds is None else f"{own}; two seeds {self.between_seeds.ranks:.4f}"

    def _difference(self) -> str:
        if self.agreement is None:
            return ""
        own = f"{self.agreement.difference:.0e}"
        return own if self.between_seeds is None else f"{own}; two seeds {self.between_seeds.difference:.0e}"


HEADER = (
    "salience",
    "peer",
    "images",
    "efficiency",
    "of the peer, usual (best)",
    "times as fast as usual (best)",
    "rank correlation",
    "largest difference",
    "remarks",
)


def line(cells: Sequence[str]) -> str:
    """Return a line of a Markdown table."""
    return f"| {' | '.join(c.replace('|', '/') for c in cells)} |"


def head() -> str:
    """Return the first two lines."""
    return f"{line(HEADER)}\n{line(['---'] * len(HEADER))}"


def _two(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _pair(first: str, second: str) -> str:
    return f"{first} ({second})" if first or second else ""
