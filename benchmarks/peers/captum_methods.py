"""Captum's attribution methods that salience has too."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from salience.engine.random import Stream
from salience.methods.regression import coalitions
from salience.methods.superpixels import superpixels
from salience.models.layers import find_layer

from .case import Make, MethodCase, Run
from .scene import Floats, FromPixels, How, Scene, floats, predicted

BUDGET = 129
"""Forward passes an image of the black-box methods, that of the whole image among them."""
CELLS = 7
"""Of the segments' grid, along each side: the methods' own default."""
SIDE = 6
"""Superpixels, about, as of a square of so many a side: few enough for the samples to tell apart."""
SAMPLES = 25


def per_pixel(name: str, reduce: Callable[[Tensor], Tensor], **options: Any) -> Make:
    """Return what makes a class of Captum that explains a batch by its pixels; ``reduce`` combines the channels."""

    def make(scene: Scene, how: How) -> Run:
        import captum.attr

        explainer = getattr(captum.attr, name)(FromPixels(scene.classifier))
        own = {k: v(scene, how) if callable(v) else v for k, v in options.items()}

        def run(rows: slice) -> Floats:
            x = scene.pixels[rows].clone()
            target = predicted(explainer.forward_func if hasattr(explainer, "forward_func") else explainer.model, x)
            return floats(reduce(explainer.attribute(x, target=target, **own)))

        return run

    return make


def noise_tunnel(scene: Scene, how: How) -> Run:
    """SmoothGrad; the noise is a share of the whole range of pixels, where salience takes each image's own.

    As usual, all samples of an image go together: of a whole batch, its default, they would take tens of gigabytes.
    """
    import captum.attr

    model = FromPixels(scene.classifier)
    explainer = captum.attr.NoiseTunnel(captum.attr.Saliency(model))

    def some(rows: slice) -> Floats:
        x = scene.pixels[rows].clone()
        together = None if how.usual else max(1, how.batch // len(x))
        options = {"nt_samples": SAMPLES, "nt_samples_batch_size": together, "stdevs": 0.15, "abs": False}
        return floats(explainer.attribute(x, target=predicted(model, x), **options).sum(1))

    def run(rows: slice) -> Floats:
        step = 1 if how.usual else how.batch
        parts = [slice(at, min(at + step, rows.stop)) for at in range(rows.start, rows.stop, step)]
        return np.concatenate([some(part) for part in parts])

    return run


def per_layer(name: str, reduce: Callable[[Tensor], Tensor]) -> Make:
    """Return what makes a class of Captum that explains a batch by the last feature map."""

    def make(scene: Scene, how: How) -> Run:
        import captum.attr

        model = FromPixels(scene.classifier)
        layer = scene.classifier.module.get_submodule(find_layer(scene.classifier).name)
        explainer = getattr(captum.attr, name)(model, layer)

        def run(rows: slice) -> Floats:
            x = scene.pixels[rows].clone()
            return floats(reduce(explainer.attribute(x, target=predicted(model, x))))

        return run

    return make


def occlusion(scene: Scene, how: How) -> Run:
    """Slide a black window, over a batch of images at a time."""
    import captum.attr

    model = FromPixels(scene.classifier, probabilities=True)
    explainer = captum.attr.Occlusion(model)
    sizes = scene.settings()

    def run(rows: slice) -> Floats:
        x = scene.pixels[rows].clone()
        window, stride = (3, sizes["window"], sizes["window"]), (3, sizes["stride"], sizes["stride"])
        found = explainer.attribute(
            x, sliding_window_shapes=window, strides=stride, baselines=0.0, target=predicted(model, x)
        )
        return floats(found[:, 0])

    return run


def at_the_middles(ours: Floats, theirs: Floats, scene: Scene) -> tuple[Floats, Floats]:
    """Read the peer's map where salience's values stand: in the middle of each cell of a stride."""
    down, across = (
        (2 * torch.arange(cells) + 1) * length // (2 * cells)
        for cells, length in zip(ours.shape[1:], scene.size, strict=True)
    )
    return ours, theirs[:, down][:, :, across]


Draw = Callable[[Scene, int, int], Tensor]
"""Returns the rows (k, D) of 0 and 1 that salience draws for one image of D parts."""


def ridge_draws(scene: Scene, index: int, parts: int) -> Tensor:
    """Return which parts stay: as the method ``ridge`` draws them."""
    drawn = Stream(scene.ids[index : index + 1], 0, "parts", "cpu").uniform(BUDGET - 1, 2 * SIDE**2)[0]
    return (drawn < 0.5).to(torch.float32)[:, :parts]


def shapley_draws(scene: Scene, index: int, parts: int) -> Tensor:
    """Return all, none, and pairs of coalitions: as the method ``kernel_shap`` draws them."""
    present = (torch.arange(2 * SIDE**2) < parts).to(torch.float32)[None]
    pairs = (BUDGET - 2) // 2
    stream = Stream(scene.ids[index : index + 1], 0, "coalitions", "cpu")
    half = coalitions(stream.uniform(pairs, 1 + present.shape[1]), present)
    both = torch.stack([half, present.unsqueeze(1) - half], 2).flatten(1, 2)[0, :, :parts]
    return torch.cat([torch.ones(1, parts), torch.zeros(1, parts), both])


def surrogate(name: str, draw: Draw | None, samples: int) -> Make:
    """Return what makes Lime or KernelShap over SLIC superpixels; without ``draw`` Captum draws itself."""

    def make(scene: Scene, how: How) -> Run:
        import captum.attr
        from captum._utils.models.linear_model import SkLearnRidge

        model = FromPixels(scene.classifier, probabilities=True)
        if name == "Lime":
            explainer = captum.attr.Lime(
                model, interpretable_model=SkLearnRidge(alpha=1.0), similarity_func=lambda *_, **__: 1.0
            )
        else:
            explainer = getattr(captum.attr, name)(model)

        def one(index: int) -> Floats:
            x = scene.pixels[index : index + 1].clone()
            mask = superpixels(x, SIDE**2)
            if draw is not None:
                rows = draw(scene, index, int(mask.max()) + 1).to(x.device)

                def handed(*_: object, **__: object) -> Iterator[Tensor]:
                    yield from rows.split(1)

                explainer.perturb_func = handed
            options = {"n_samples": samples, "perturbations_per_eval": 1 if how.usual else how.batch}
            found = explainer.attribute(
                x, baselines=0.0, target=predicted(model, x), feature_mask=mask[:, None].expand_as(x), **options
            )
            return floats(found[:, 0])

        def run(rows: slice) -> Floats:
            return np.concatenate([one(i) for i in range(rows.start, rows.stop)])

        return run

    return make


def _internal(scene: Scene, how: How) -> int:
    return how.batch


SURROGATES = f"segments=slic:cells={SIDE}:fill=black:budget={BUDGET}"

CASES = (
    MethodCase("gradient", "Saliency", "captum", per_pixel("Saliency", lambda a: a.amax(1))),
    MethodCase("gradient_x_input", "InputXGradient", "captum", per_pixel("InputXGradient", lambda a: a.sum(1))),
    MethodCase(
        "ig:steps=32",
        "IntegratedGradients, 32 midpoints",
        "captum",
        per_pixel(
            "IntegratedGradients",
            lambda a: a.sum(1),
            n_steps=32,
            method="riemann_middle",
            internal_batch_size=_internal,
        ),
    ),
    MethodCase(
        f"smoothgrad:samples={SAMPLES}:channels=signed",
        f"NoiseTunnel of Saliency, {SAMPLES} samples",
        "captum",
        noise_tunnel,
        seeds=True,
        remark="other noise; salience scales it by each image's own range of values",
    ),
    MethodCase("gradcam:relu=false", "LayerGradCam", "captum", per_layer("LayerGradCam", lambda a: a[:, 0])),
    MethodCase(
        "hirescam",
        "LayerGradientXActivation, summed",
        "captum",
        per_layer("LayerGradientXActivation", lambda a: a.sum(1)),
    ),
    MethodCase(
        "occlusion:window={window}:stride={stride}:fill=black",
        "Occlusion",
        "captum",
        occlusion,
        output="prob",
        align=at_the_middles,
    ),
    MethodCase(
        f"ridge:{SURROGATES}",
        f"Lime, ridge, no kernel, {BUDGET - 1} samples",
        "captum",
        surrogate("Lime", None, BUDGET - 1),
        output="prob",
        given=surrogate("Lime", ridge_draws, BUDGET - 1),
        remark="values with salience's draws",
    ),
    MethodCase(
        f"kernel_shap:{SURROGATES}",
        f"KernelShap, {BUDGET} samples",
        "captum",
        surrogate("KernelShap", None, BUDGET),
        output="prob",
        given=surrogate("KernelShap", shapley_draws, 2 + (BUDGET - 2) // 2 * 2),
        remark="values with salience's draws; salience holds the sum exactly and leans a little to equal shares, "
        "Captum holds it by a large weight",
    ),
    MethodCase(
        "captum:GuidedBackprop",
        "GuidedBackprop, called directly",
        "captum",
        per_pixel("GuidedBackprop", lambda a: a.sum(1)),
        needed=("gradient", 1),
    ),
    MethodCase(
        "captum:DeepLift",
        "DeepLift, called directly",
        "captum",
        per_pixel("DeepLift", lambda a: a.sum(1)),
        needed=("gradient", 2),
    ),
)
