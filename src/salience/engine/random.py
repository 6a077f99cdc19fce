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


def _hash(keys: Sequence[int], count: int, device: torch.device | str) -> Tensor:
    """Return int32 (len(keys), count): uniformly distributed 32-bit words."""
    words = torch.tensor([[_signed(k & 0xFFFFFFFF), _signed(k >> 32)] for k in keys], dtype=torch.int32, device=device)
    counter = torch.arange(count, dtype=torch.int32, device=device).mul_(-1640531527)  # 0x9E3779B9
    h = _mix(counter.unsqueeze(0) + words[:, :1])
    return _mix(h.bitwise_xor_(words[:, 1:]))


def _signed(word: int) -> int:
    return word - (1 << 32) if word >= 1 << 31 else word


def uniform(keys: Sequence[int], shape: Sequence[int], device: torch.device | str = "cpu") -> Tensor:
    """Return float32 (len(keys), *shape), uniform in [0, 1), 24 bits each."""
    h = _hash(keys, math.prod(shape), device)
    return (h >> 8).bitwise_and_(0xFFFFFF).to(torch.float32).mul_(2.0**-24).view(len(keys), *shape)


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
    order = torch.argsort(_hash([key], of, "cpu")[0], stable=True)
    return [int(i) for i in order[:count]]
