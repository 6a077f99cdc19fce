"""Class activation maps of pytorch-grad-cam."""

from __future__ import annotations

import numpy as np

from salience.models.layers import find_layer
from salience.store.views import upsample

from .case import Make, MethodCase, Run
from .scene import Floats, FromPixels, How, Scene, floats

EPSILON = 1e-7


def activation_map(name: str) -> Make:
    """Return what makes one of its classes at the last feature map."""

    def make(scene: Scene, how: How) -> Run:
        import pytorch_grad_cam

        layer = find_layer(scene.classifier)
        module = scene.classifier.module.get_submodule(layer.name)
        explainer = getattr(pytorch_grad_cam, name)(
            model=FromPixels(scene.classifier), target_layers=[module], reshape_transform=layer.maps
        )

        def run(rows: slice) -> Floats:
            # with frozen weights, it finds no gradient unless the pixels ask for one
            x = scene.pixels[rows].clone().requires_grad_(not how.usual)
            return floats(explainer(input_tensor=x, targets=None))

        return run

    return make


def as_pictures(ours: Floats, theirs: Floats, scene: Scene) -> tuple[Floats, Floats]:
    """Do to salience's raw maps what the peer does to its own: cut, scale to [0, 1], enlarge, scale again."""
    small = _scaled(np.maximum(ours, 0)).astype(np.float32)
    return _scaled(upsample(small, scene.size).astype(np.float64)), theirs


def _scaled(maps: Floats) -> Floats:
    low = maps.min(axis=(1, 2), keepdims=True)
    out: Floats = (maps - low) / (EPSILON + (maps - low).max(axis=(1, 2), keepdims=True))
    return out


def _case(ours: str, name: str, remark: str = "") -> MethodCase:
    return MethodCase(ours, name, "pytorch_grad_cam", activation_map(name), align=as_pictures, remark=remark)


CASES = (
    _case("gradcam", "GradCAM"),
    _case(
        "gradcam++",
        "GradCAMPlusPlus",
        "it adds 1e-6 to a denominator of squared gradients, which may be smaller; salience's is the paper's (eq. 19)",
    ),
    _case("hirescam", "HiResCAM"),
    _case("layercam", "LayerCAM"),
    _case("xgradcam", "XGradCAM", "it adds 1e-7 to a channel's sum, which the paper does not"),
)
