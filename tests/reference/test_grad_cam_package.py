"""Class activation maps against pytorch-grad-cam's raw values, before it scales each map to [0, 1]."""

from __future__ import annotations

import formulas as f
import numpy as np
import pytest
import torch

from salience.models.layers import find_layer
from salience.testing.models import small_classifier

peer = pytest.importorskip("pytorch_grad_cam")

CLASSES = {
    "gradcam": "GradCAM",
    "gradcam++": "GradCAMPlusPlus",
    "hirescam": "HiResCAM",
    "layercam": "LayerCAM",
    "xgradcam": "XGradCAM",
}


def raw(name: str, a: np.ndarray, g: np.ndarray) -> np.ndarray:
    """The peer's map (N, h, w) from activations and gradients: its rectifier and its scaling come after this."""
    unhooked = type(
        "Unhooked", (getattr(peer, CLASSES[name]),), {"__init__": lambda self: None, "__del__": lambda self: None}
    )
    return unhooked().get_cam_image(None, None, None, a, g, False)


@pytest.mark.parametrize("target", ["predicted", "class:2"])
@pytest.mark.parametrize("net", ["cnn", "vit"])
def test_same_raw_values(net: str, target: str) -> None:
    classifier = small_classifier(dtype=torch.float64) if net == "cnn" else f.double_vit("mean")
    images = f.pixels(3, 16)
    forms = [f"{name}:relu=false" for name in CLASSES]
    found = f.engine(classifier, images, forms, target=target)
    layer = find_layer(classifier)
    module = classifier.module.get_submodule(layer.name)
    pairs = [f.activation(classifier, x, module, int(t), "logit") for x, t in zip(images, found.targets, strict=True)]
    a, g = (layer.maps(torch.stack(part)) for part in zip(*pairs, strict=True))
    for name, maps in zip(CLASSES, found.maps, strict=True):
        theirs = raw(name, a.numpy(), g.numpy())
        ours = maps.values[:, 0].numpy()
        # The peer adds 1e-6 (Grad-CAM++) and 1e-7 (XGrad-CAM) to denominators that the papers have without it. Both
        # are told apart here: its values are ours but for that, and ours are the papers' (test_cams.py).
        if name == "gradcam++":
            below = 2 * g**2 + a.sum((2, 3), keepdim=True) * g**3
            alpha = torch.where(g != 0, g**2 / (below + 1e-6), 0)
            loose = ((alpha * g.relu()).sum((2, 3))[:, :, None, None] * a).sum(1).numpy()
            np.testing.assert_allclose(theirs, loose, rtol=1e-9, atol=1e-12)
        elif name == "xgradcam":
            # where a channel sums to about zero, its epsilon decides: not so in these nets
            np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4 * np.abs(theirs).max())
        else:
            np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-12)


def test_grad_cam_plus_plus_without_the_peer_s_epsilon() -> None:
    """With gradients far above its 1e-6, the peer's Grad-CAM++ is the paper's and ours."""
    classifier = small_classifier(dtype=torch.float64)
    with torch.no_grad():
        classifier.module.fc.weight *= 1e5
    images = f.pixels(3, 16)
    found = f.engine(classifier, images, ["gradcam++:relu=false"])
    pairs = [
        f.activation(classifier, x, classifier.module.relu2, int(t), "logit")
        for x, t in zip(images, found.targets, strict=True)
    ]
    a, g = (torch.stack(part).numpy() for part in zip(*pairs, strict=True))
    theirs = raw("gradcam++", a, g)
    np.testing.assert_allclose(found.maps[0].values[:, 0].numpy(), theirs, rtol=1e-4, atol=1e-6 * np.abs(theirs).max())
