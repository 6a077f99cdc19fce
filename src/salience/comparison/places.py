"""Where a segment lies, as the embedding of segments: concepts are then regions of the image."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from salience.errors import ModelError

PLACE = "place"
"""The name of the encoder."""
GRID = 28
"""Cells a side of the grid of features."""
NODES = 10
"""Bumps a side, the outermost on the image's borders."""
WIDTH = 0.1
"""Standard deviation of a bump, as a share of the image's side."""
_VERSION = 1

Floats = npt.NDArray[np.float32]


class PlaceEncoder:
    """Embeds places alone, whatever an image shows: for images that are aligned, as faces, scans, scenes of one camera.

    Ours: Gaussian bumps on a lattice, so that two small segments that lie d of the image's side apart have the cosine
    exp(-d^2 / (4 WIDTH^2)), and the clusters are compact regions. See :class:`~salience.comparison.encoders.Encoder`.
    """

    name = PLACE
    size = (GRID, GRID)
    crops = False

    @property
    def identity(self) -> dict[str, Any]:
        """What names the features."""
        return {"kind": PLACE, "grid": GRID, "nodes": NODES, "width": WIDTH, "version": _VERSION}

    def features(self, pixels: npt.NDArray[np.uint8]) -> Floats:
        """Return the bumps at each cell, float32 (N, D, h, w), the same for all of the pixels uint8 (N, H, W, 3)."""
        if pixels.ndim != 4 or pixels.shape[1:] != (*self.size, 3):
            raise ModelError(f"Encoder {PLACE!r} takes images (N, {GRID}, {GRID}, 3), not {pixels.shape}.")
        centres = (np.arange(GRID) + 0.5) / GRID
        nodes = np.linspace(0, 1, NODES)
        bump = np.exp(-((centres - nodes[:, None]) ** 2) / (2 * WIDTH**2))  # (nodes, cells)
        grid = (bump[:, None, :, None] * bump[None, :, None, :]).reshape(NODES**2, GRID, GRID)
        return np.broadcast_to(grid.astype(np.float32), (len(pixels), *grid.shape)).copy()
