"""Noisy linear imputation: pixels that a mask removes are filled from their neighbours (ROAD, Rong et al. 2022).

Published: every removed pixel is the weighted mean of its eight neighbours, 1/6 for those above, below, left and
right and 1/12 for diagonal ones (at the border, over those that there are); noise of 0.01 is added to what was
filled. The authors solve that sparse system directly, image by image. Ours: multigrid, see
:mod:`~salience.engine.road.multigrid`, in compiled loops on the processor and on tensors on other devices. A fixed
number of cycles is made for each image by itself, so that a row's result does not depend on the rows beside it.
``tests/unit/engine/test_road.py`` holds both forms against the direct solution, for masks of all kinds: within 2e-4, a
fiftieth of the noise, and within 1e-3 where two pixels are all that is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from salience.engine.masked import Replacement
from salience.engine.random import normal, row_key
from salience.engine.road import tensors
from salience.engine.road.multigrid import CYCLES, grids, turns

NOISE = 0.01


def impute(images: Tensor, keep: Tensor, cycles: int = CYCLES) -> Tensor:
    """Fill what ``keep`` (R, H, W) leaves out of images (R, C, H, W) from its neighbours, without noise.

    An image of which nothing is kept becomes its own mean colour (the published system has no solution there).
    Computed in single precision; what is returned is of the images' type.
    """
    out = torch.empty_like(images)
    noise = images.new_zeros(0, *images.shape[1:])
    _fill(images, noise, keep, torch.arange(len(images), device=images.device), out, cycles)
    return out


def _fill(images: Tensor, noise: Tensor, keep: Tensor, owner: Tensor, out: Tensor, cycles: int = CYCLES) -> None:
    """Write images (N, C, H, W) under masks (R, H, W) of their ``owner`` into ``out`` (R, C, H, W)."""
    if images.device.type != "cpu":
        own = images[owner]
        added = noise[owner] if len(noise) else 0.0
        filled = (tensors.impute(own.float(), keep, cycles) + added).to(out.dtype)
        torch.where(keep.unsqueeze(1), own, filled, out=out)
    elif out.dtype == torch.float32 and _dense(out):
        _on_processor(images, noise, keep, owner, out, cycles)
    else:
        made = torch.empty(out.shape)
        _on_processor(images, noise, keep, owner, made, cycles)
        out.copy_(made)


def _dense(out: Tensor) -> bool:
    return out.is_contiguous() or out.is_contiguous(memory_format=torch.channels_last)


def _on_processor(images: Tensor, noise: Tensor, keep: Tensor, owner: Tensor, out: Tensor, cycles: int) -> None:
    """Fill rows on as many threads as torch uses: workers of a run have divided those among them."""
    from salience.engine.road.kernels import fill_rows, layout  # imports numba

    sizes = grids(int(keep.shape[1]), int(keep.shape[2]))
    given = (
        images.detach().float().contiguous().numpy(),
        noise.float().contiguous().numpy(),
        owner.numpy(),
        keep.contiguous().numpy(),
        *layout(sizes),
        np.array(turns(len(sizes), cycles), np.int64),
        out.as_strided((out.numel(),), (1,)).numpy(),
        np.array(out.stride(), np.int64),
    )
    rows = len(keep)
    threads = max(1, min(torch.get_num_threads(), rows))
    if threads == 1:
        fill_rows(0, rows, *given)
        return
    cuts = [rows * i // threads for i in range(threads + 1)]
    with ThreadPoolExecutor(threads, thread_name_prefix="road") as pool:
        for made in [pool.submit(fill_rows, a, b, *given) for a, b in pairwise(cuts)]:
            made.result()


@dataclass(frozen=True, eq=False)
class Imputed(Replacement):
    """Noisy linear imputation; ``noise`` (N, 3, H, W) is each image's own, the same under all masks."""

    noise: Tensor

    def blend(self, images: Tensor, keep: Tensor, owner: Tensor, out: Tensor) -> None:
        """Fill the removed pixels of each row and add the noise to them."""
        _fill(images, self.noise, keep, owner, out)


def imputed(images: Tensor, image_ids: Sequence[str], seed: int, draw: int = 0) -> Imputed:
    """Return the imputation of images (N, 3, H, W), with noise drawn for each."""
    keys = [row_key(seed, "road", image_id, draw) for image_id in image_ids]
    return Imputed(normal(keys, images.shape[1:], images.device).mul_(NOISE))
