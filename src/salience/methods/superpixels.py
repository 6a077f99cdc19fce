"""Superpixels of images, for methods that hide whole parts."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from salience.errors import MethodError


def superpixels(images: Tensor, about: int) -> Tensor:
    """Return the segment of every pixel, int64 (G, H, W) from 0, by SLIC (Achanta et al. 2012) as scikit-image has it.

    An image never has more than ``2 * about`` segments: the last of many, in tiny images, are taken together.

    Raises
    ------
    MethodError
        When scikit-image is not installed.
    """
    try:
        from skimage.segmentation import slic
    except ImportError as error:
        raise MethodError(
            "segments=slic needs scikit-image: pip install scikit-image, or choose segments=grid."
        ) from error
    pixels = images.detach().permute(0, 2, 3, 1).contiguous().double().cpu().numpy()
    labels = [slic(image, n_segments=about, compactness=10, sigma=1, start_label=0) for image in pixels]
    found = np.minimum(np.stack(labels).astype(np.int64), 2 * about - 1)
    return torch.from_numpy(found).to(images.device)
