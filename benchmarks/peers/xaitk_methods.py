"""Black-box methods of XAITK-saliency, asked about the predicted class alone: it makes a map of every class it knows.

It explains an image at a time, through a classifier that its user writes: here one that fills batches.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from salience.engine.masks import RandomCells

from .captum_methods import BUDGET, CELLS
from .case import Make, MethodCase, Run
from .scene import Floats, FromPixels, How, Scene, predicted

KEEP = 0.5
Pixels = npt.NDArray[np.float32]


def explained(explainer: Callable[[Scene, int], Any]) -> Make:
    """Return what runs a generator of its, made for an image of the scene."""

    def make(scene: Scene, how: How) -> Run:
        model = FromPixels(scene.classifier, probabilities=True)

        def one(index: int) -> Floats:
            x = scene.pixels[index : index + 1]
            image = np.ascontiguousarray(x[0].permute(1, 2, 0).float().cpu().numpy())
            found = explainer(scene, index)(image, black_box(model, scene, int(predicted(model, x)), how))
            return np.asarray(found, dtype=np.float64)

        def run(rows: slice) -> Floats:
            return np.concatenate([one(i) for i in range(rows.start, rows.stop)])

        return run

    return make


def black_box(model: FromPixels, scene: Scene, target: int, how: How) -> Any:
    """Return a classifier of its kind that knows one class."""
    from smqtk_classifier.interfaces.classify_image import ClassifyImage

    class OneClass(ClassifyImage):  # type: ignore[misc]  # its package may be absent
        def get_labels(self) -> list[Hashable]:
            return [target]

        def classify_images(self, img_iter: Iterable[Pixels]) -> Iterator[dict[Hashable, float]]:
            images = iter(img_iter)
            while batch := list(islice(images, how.batch)):
                x = torch.from_numpy(np.stack(batch)).permute(0, 3, 1, 2)
                x = x.to(scene.pixels.device, scene.pixels.dtype, memory_format=how.plan.torch_format)
                with torch.no_grad():
                    found = model(x)[:, target]
                for p in found:
                    yield {target: float(p)}

        def get_config(self) -> dict[str, Any]:
            return {}

    return OneClass()


def sliding_window(scene: Scene, index: int) -> Any:
    """Hide a touching window after another."""
    from xaitk_saliency.impls.gen_image_classifier_blackbox_sal.slidingwindow import SlidingWindowStack

    side = scene.settings()["stride"]
    return SlidingWindowStack((side, side), (side, side))


def rise(scene: Scene, index: int) -> Any:
    """RISE with masks of its own."""
    from xaitk_saliency.impls.gen_image_classifier_blackbox_sal.rise import RISEStack

    return RISEStack(n=BUDGET - 1, s=CELLS, p1=KEEP, seed=index, debiased=False)


def rise_with_given_masks(scene: Scene, index: int) -> Any:
    """RISE as it scores masks, with the masks of salience."""
    from xaitk_saliency.impls.gen_classifier_conf_sal.rise_scoring import RISEScoring
    from xaitk_saliency.impls.gen_image_classifier_blackbox_sal.occlusion_based import PerturbationOcclusion

    ids = scene.ids[index : index + 1]
    masks = RandomCells(ids, 0, BUDGET - 1, scene.size, CELLS, KEEP, torch.device("cpu"))
    every = torch.arange(masks.count)
    made = masks.render(torch.zeros_like(every), every, scene.size)[:, 0].numpy()
    return PerturbationOcclusion(lambda image: made, RISEScoring(p1=0.0))


def to_largest(ours: Floats, theirs: Floats, scene: Scene) -> tuple[Floats, Floats]:
    """Average the peer's map over the cells of salience's, and divide both by the largest value, as it does."""
    h, w = ours.shape[1:]
    pooled = theirs.reshape(len(theirs), h, theirs.shape[1] // h, w, -1).mean(axis=(2, 4))
    return _to_largest(ours), _to_largest(pooled)


def _to_largest(maps: Floats) -> Floats:
    out: Floats = maps / np.abs(maps).max(axis=(1, 2), keepdims=True)
    return out


CASES = (
    MethodCase(
        "occlusion:window={stride}:fill=black",
        "SlidingWindowStack",
        "xaitk_saliency",
        explained(sliding_window),
        output="prob",
        align=to_largest,
    ),
    MethodCase(
        f"rise:centred=false:fill=black:budget={BUDGET}",
        f"RISEStack, {BUDGET - 1} masks, not debiased",
        "xaitk_saliency",
        explained(rise),
        output="prob",
        given=explained(rise_with_given_masks),
        align=to_largest,
        remark="values with salience's masks",
    ),
)
