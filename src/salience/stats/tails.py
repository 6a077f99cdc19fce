"""How likely a sum is to be reached when the signs of its terms are drawn at random: exactly, and far out."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.special import bdtr, ndtr

from salience.stats.units import Floats

EXACT = 12
"""Up to so many terms all flips of signs are gone through."""
_EQUAL = 1e-12
_STEPS = 100
_BLOCK = 4_000_000


def sign_patterns(count: int) -> npt.NDArray[np.int8]:
    """Return every pattern of signs (2^(count-1), count) whose first is +1: the others are their negatives."""
    bits = np.arange(2 ** max(count - 1, 0))[:, None] >> np.arange(count)[::-1] & 1
    return (1 - 2 * bits).astype(np.int8)


def exact_tail(rows: Floats, tie: float) -> Floats:
    """Return the share (M,) of flips whose sum is as large as that of the row (M, G), which has at most 12 terms.

    ``tie`` is how much smaller a sum may be that counts as equal.
    """
    size = -np.sort(-np.abs(rows), axis=1)[:, :EXACT]
    own = np.abs(rows.sum(axis=1, keepdims=True)) - tie
    patterns = sign_patterns(size.shape[1]).T.astype(np.float64)
    share = np.empty(len(rows))
    step = max(1, _BLOCK // patterns.shape[1])
    for at in range(0, len(rows), step):
        part = slice(at, at + step)
        share[part] = (np.abs(size[part] @ patterns) >= own[part]).mean(axis=1)
    return share


def saddlepoint_tail(rows: Floats) -> Floats:
    """Return the probability (M,) that random signs give terms (M, G) a sum as large in size as their own.

    Published (Robinson 1982; Lugannani and Rice 1980): with the cumulants ``K(t) = sum_g log cosh(t a_g)`` of the
    flipped sum and ``t`` where ``K'(t)`` is the sum's size, ``Q(w) + phi(w) (1 / u - 1 / w)`` for each side,
    ``w = sqrt(2 (t K'(t) - K(t)))``, ``u = t sqrt(K''(t))``. Ours: terms of one size are counted exactly (the sign
    test), and no probability is below that of the flips that are sure to reach the sum: those that turn any of the
    terms against it. Meant for far tails: rows have sums of squares of one, and the sum's size should be above 2.
    """
    size = np.abs(rows)
    own = np.abs(rows.sum(axis=1))
    terms = (size > 0).sum(axis=1)
    against = (rows * np.sign(rows.sum(axis=1, keepdims=True)) < 0).sum(axis=1)
    least = np.maximum(2.0 ** np.maximum(1.0 - terms + against, -1020), np.finfo(np.float64).tiny)
    one_size = np.where(size > 0, size, np.inf).min(axis=1) >= size.max(axis=1) * (1 - _EQUAL)
    p: Floats = np.maximum(2 * bdtr(against, terms, 0.5), least)  # exact where no term is against the sum, too
    smooth = np.flatnonzero(~one_size & (against > 0))
    step = max(1, _BLOCK // rows.shape[1])
    for at in range(0, len(smooth), step):
        which = smooth[at : at + step]
        p[which] = np.clip(2 * _one_side(size[which], own[which]), least[which], 1)
    return p


def _one_side(size: Floats, own: Floats) -> Floats:
    """Return the Lugannani-Rice probability (M,) of a sum of randomly signed terms (M, G) reaching ``own`` (M,)."""
    t = own.copy()
    for _ in range(_STEPS):
        # K' is concave above 0 and K'(own) <= own, as the squares add up to one: Newton's steps rise to the root. No
        # step more than doubles, so that far out, where K' is flat, rounding cannot throw one away.
        slope, curve = _slopes(size, t)
        move = np.minimum((own - slope) / curve, t)
        t += move
        if (move <= 1e-10 * t).all():
            break
    curve = _slopes(size, t)[1]
    x = t[:, None] * size
    cumulant = (x + np.log1p(np.exp(-2 * x)) - np.log(2)).sum(axis=1)
    w = np.sqrt(2 * np.maximum(t * own - cumulant, 1e-300))
    u = t * np.sqrt(curve)
    density = np.exp(-(w**2) / 2) / np.sqrt(2 * np.pi)
    p: Floats = ndtr(-w) + density * (1 / u - 1 / w)
    return p


def _slopes(size: Floats, t: Floats) -> tuple[Floats, Floats]:
    """Return ``K'(t)`` and ``K''(t)`` (M,)."""
    decay = np.exp(-2 * t[:, None] * size)
    slope = (size * (1 - decay) / (1 + decay)).sum(axis=1)
    curve = (4 * size**2 * decay / (1 + decay) ** 2).sum(axis=1)
    return slope, np.maximum(curve, 1e-300)
