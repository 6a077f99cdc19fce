"""Random numbers from counters: the same for an image on every device, in every batch, on every worker.

Each row of a batch has a key made from (seed, purpose, image id, draw); element ``j`` of the row is a hash of the key
and ``j``. No generator has a state, so nothing depends on order, and the global generators are never touched. The
hash is two rounds of MurmurHash3's 32-bit finaliser (Appleby, public domain); ``tests/unit/engine/test_random.py``
holds moments, uniformity and independence of rows against it.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import torch
from torch import Tensor


def row_key(seed: int, purpose: str, image_id: str, draw: int = 0) -> int:
    """Return the 64-bit key of one image's draw."""
    text = f"{seed}\x1f{purpose}\x1f{image_id}\x1f{draw}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


def _mix(h: Tensor) -> Tensor:
    """Scramble int32 values in place (wrapping arithmetic; the masks make the shifts logical)."""
    h.bitwise_xor_((h >> 16).bitwise_and_(0xFFFF))
    h.mul_(-2048144789)  # 0x85EBCA6B
    h.bitwise_xor_((h >> 13).bitwise_and_(0x7FFFF))
    h.mul_(-1028477387)  # 0xC2B2AE35
    return h.bitwise_xor_((h >> 16).bitwise_and_(0xFFFF))


def key_words(keys: Sequence[int], device: torch.device | str) -> Tensor:
    """Return the keys as int32 (len(keys), 2), to be held on the device and drawn from by :func:`uniform_at`."""
    return torch.tensor([[_signed(k & 0xFFFFFFFF), _signed(k >> 32)] for k in keys], dtype=torch.int32, device=device)


def _hash(words: Tensor, counter: Tensor) -> Tensor:
    """Return uniformly distributed 32-bit words (R, count) for keys (R, 2) and element numbers (R or 1, count)."""
    h = _mix(counter * -1640531527 + words[:, :1])  # 0x9E3779B9
    return _mix(h.bitwise_xor_(words[:, 1:]))


def _count(count: int, device: torch.device | str) -> Tensor:
    return torch.arange(count, dtype=torch.int32, device=device).unsqueeze(0)


def _share(h: Tensor) -> Tensor:
    return (h >> 8).bitwise_and_(0xFFFFFF).to(torch.float32).mul_(2.0**-24)


def uniform_at(words: Tensor, first: Tensor, count: int) -> Tensor:
    """Return float32 (R, count), uniform in [0, 1): elements ``first`` (R,) and following of the keys (R, 2).

    What one call draws in a row, several draw in pieces: the same numbers for any cut.
    """
    return _share(_hash(words, _count(count, words.device) + first.to(torch.int32).unsqueeze(1)))


def _signed(word: int) -> int:
    return word - (1 << 32) if word >= 1 << 31 else word


class Stream:
    """Numbers of a group of images, drawn one after another: each image's own, whatever it is grouped with."""

    def __init__(self, image_ids: Sequence[str], seed: int, purpose: str, device: torch.device | str) -> None:
        self._words = key_words([row_key(seed, purpose, i) for i in image_ids], device)
        self._at = 0

    def uniform(self, *shape: int) -> Tensor:
        """Return float32 (G, *shape), uniform in [0, 1)."""
        count = math.prod(shape)
        first = torch.full((len(self._words),), self._at, device=self._words.device)
        self._at += count
        return uniform_at(self._words, first, count).view(len(self._words), *shape)

    def normal(self, *shape: int) -> Tensor:
        """Return float32 (G, *shape), standard normal (Box-Muller)."""
        u = self.uniform(2, *shape)
        return (1 - u[:, 0]).log_().mul_(-2.0).sqrt_() * (2 * math.pi * u[:, 1]).cos_()

    def cauchy(self, *shape: int) -> Tensor:
        """Return float32 (G, *shape), standard Cauchy; the largest absolute value is about 1.3e7."""
        # both steps are exact in this order: half of the numbers are below zero, and none is at a pole
        return (math.pi * (self.uniform(*shape) - 0.5 + 2.0**-25)).tan_()


def uniform(keys: Sequence[int], shape: Sequence[int], device: torch.device | str = "cpu") -> Tensor:
    """Return float32 (len(keys), *shape), uniform in [0, 1), 24 bits each."""
    return _share(_hash(key_words(keys, device), _count(math.prod(shape), device))).view(len(keys), *shape)


def normal(keys: Sequence[int], shape: Sequence[int], device: torch.device | str = "cpu") -> Tensor:
    """Return float32 (len(keys), *shape), standard normal (Box-Muller; largest absolute value 5.77)."""
    count = math.prod(shape)
    half = (count + 1) // 2
    u = uniform(keys, (2, half), device)
    radius = u[:, 0].neg_().add_(1.0).log_().mul_(-2.0).sqrt_()
    angle = u[:, 1].mul_(2 * math.pi)
    out = torch.cat([radius * angle.cos(), radius * angle.sin()], dim=1)
    return out[:, :count].reshape(len(keys), *shape)


def choose(key: int, count: int, of: int) -> list[int]:
    """Return ``count`` distinct numbers below ``of``, in random order (a sort of random words)."""
    order = torch.argsort(_hash(key_words([key], "cpu"), _count(of, "cpu"))[0], stable=True)
    return [int(i) for i in order[:count]]
