"""The definitions, written down once more: one image, one class, one gradient at a time, in float64.

Nothing here uses the engine's passes or the classifier's normalisation, so that a mistake in them cannot hide.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from salience.engine.plan import Plan
from salience.engine.sweep import Batch, BatchResult, Sweep
from salience.engine.targets import parse_target
from salience.engine.tune import running
from salience.methods.registry import parse_method
from salience.models.classifier import Classifier
from salience.testing.models import small_vit


def double_vit(pool: str = "token") -> Classifier:
    """A small vision transformer in float64."""
    classifier = small_vit(pool=pool)
    return Classifier(classifier.module.double(), size=16, name=classifier.name)


def pixels(count: int, size: int, seed: int = 0) -> Tensor:
    """Images (count, 3, size, size) in [0, 1], float64."""
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def names(count: int) -> tuple[str, ...]:
    return tuple(f"image-{i}" for i in range(count))


def engine(
    classifier: Classifier,
    images: Tensor,
    methods: Sequence[str],
    *,
    target: str = "predicted",
    output: str = "logit",
    labels: Sequence[int] | None = None,
    seed: int = 0,
    batch: int = 4,
    memory_format: str = "contiguous",
) -> BatchResult:
    """What the engine makes of ``images`` in the classifier's own precision, before anything is stored."""
    plan = Plan(batch, memory_format, 1)
    sweep = Sweep(
        classifier,
        [parse_method(m).method for m in methods],
        parse_target(target, classifier.class_names),
        output,
        seed,
        plan,
    )
    known = torch.tensor([-1] * len(images) if labels is None else list(labels))
    with running(classifier, plan):
        return sweep.run(Batch(names(len(images)), images, known))


# ---------------------------------------------------------------------- the model, one image at a time


def logits(classifier: Classifier, image: Tensor) -> Tensor:
    """Logits (C,) of one image (3, H, W)."""
    mean = torch.tensor(classifier.preprocessing.mean, dtype=image.dtype).view(3, 1, 1)
    std = torch.tensor(classifier.preprocessing.std, dtype=image.dtype).view(3, 1, 1)
    return classifier.module.eval()(((image - mean) / std)[None])[0]


def scalar(output: str, z: Tensor, c: int) -> Tensor:
    """The explained scalar of class ``c`` for logits (C,)."""
    if output == "logit":
        return z[c]
    if output == "prob":
        return torch.softmax(z, 0)[c]
    if output == "logprob":
        return torch.log_softmax(z, 0)[c]
    others = torch.cat([z[:c], z[c + 1 :]])
    return z[c] - torch.logsumexp(others, 0)


def gradient(classifier: Classifier, image: Tensor, c: int, output: str = "logit") -> Tensor:
    """Gradient (3, H, W) of the scalar of class ``c`` by the pixels."""
    leaf = image.detach().clone().requires_grad_()
    return torch.autograd.grad(scalar(output, logits(classifier, leaf), c), leaf)[0]


def activation(classifier: Classifier, image: Tensor, layer: nn.Module, c: int, output: str) -> tuple[Tensor, Tensor]:
    """The layer's output for one image and the gradient of the scalar by it, as the module returns them."""
    held: list[Tensor] = []
    handle = layer.register_forward_hook(lambda _m, _a, out: held.append(out))
    try:
        leaf = image.detach().clone().requires_grad_()
        value = scalar(output, logits(classifier, leaf), c)
    finally:
        handle.remove()
    return held[0].detach()[0], torch.autograd.grad(value, held[0])[0][0]


def relu(x: Tensor) -> Tensor:
    return torch.where(x > 0, x, torch.zeros_like(x))


def channels(values: Tensor, rule: str) -> Tensor:
    """Combine (3, H, W) to (H, W)."""
    if rule == "max":
        return values.max(0).values
    return values[0] + values[1] + values[2]


def loudest(values: Tensor) -> Tensor:
    """The channel with the largest absolute value, with its sign, pixel by pixel."""
    out = torch.empty_like(values[0])
    for y in range(out.shape[0]):
        for x in range(out.shape[1]):
            column = values[:, y, x]
            out[y, x] = max(column, key=lambda v: abs(float(v)))
    return out


def own_map(form: str, g: Tensor, image: Tensor) -> Tensor:
    """Maps that need the target's gradient alone."""
    return {
        "gradient": lambda: channels(g.abs(), "max"),
        "gradient:channels=sum": lambda: channels(g.abs(), "sum"),
        "gradient:channels=signed": lambda: channels(g, "sum"),
        "positive": lambda: channels(relu(g), "max"),
        "positive:channels=sum": lambda: channels(relu(g), "sum"),
        "negative": lambda: channels(relu(-g), "max"),
        "negative:channels=sum": lambda: channels(relu(-g), "sum"),
        "gradient_x_input": lambda: channels(g * image, "sum"),
    }[form]()


OWN = (
    "gradient",
    "gradient:channels=sum",
    "gradient:channels=signed",
    "positive",
    "positive:channels=sum",
    "negative",
    "negative:channels=sum",
    "gradient_x_input",
)


def rival_map(form: str, g: Tensor, rivals: Sequence[Tensor], image: Tensor) -> Tensor:
    """Maps in which the target competes with ``rivals``, each a gradient (3, H, W)."""
    name, _, rest = form.partition(":")
    rule = "sum" if "channels=sum" in rest else "max"
    above = torch.stack([g > r for r in rivals]).all(0)
    below = torch.stack([g < r for r in rivals]).all(0)
    if name == "active":
        return channels(relu(g) * above, rule)
    if name == "inactive":
        return channels(relu(-g) * below, rule)
    # competitive gradient x input: the product is kept where it is positive and the largest of all classes, or
    # negative and the smallest
    product, others = g * image, [r * image for r in rivals]
    largest = torch.stack([product > o for o in others]).all(0) & (product > 0)
    smallest = torch.stack([product < o for o in others]).all(0) & (product < 0)
    return channels(product * (largest | smallest), "sum")


RIVAL = ("active", "active:channels=sum", "inactive", "inactive:channels=sum", "competitive_gi")


def contrast_map(weights: str, rule: str, slopes: Sequence[Tensor], z: Tensor, t: int) -> Tensor:
    """``g_t`` less a mean over the classes' gradients ``slopes``."""
    count = len(slopes)
    if weights == "uniform":
        share = torch.full((count,), 1 / count, dtype=z.dtype)
    else:
        share = torch.softmax(z, 0).detach().clone()
        if weights == "rivals":
            share[t] = 0
            share = share / share.sum()
    h = slopes[t] - sum(share[c] * slopes[c] for c in range(count))
    return channels(h, "sum") if rule == "sum" else loudest(h)


def cam(name: str, a: Tensor, g: Tensor) -> Tensor:
    """A class activation map (h, w) before any rectifier, channel by channel, from A and dS/dA, both (K, h, w)."""
    out = torch.zeros_like(a[0])
    for k in range(len(a)):
        if name == "gradcam":
            out += g[k].mean() * a[k]
        elif name == "gradcam++":
            below = 2 * g[k] ** 2 + a[k].sum() * g[k] ** 3
            alpha = torch.where(below != 0, g[k] ** 2 / torch.where(below != 0, below, 1), 0)
            out += (alpha * relu(g[k])).sum() * a[k]
        elif name == "hirescam":
            out += g[k] * a[k]
        elif name == "layercam":
            out += relu(g[k]) * a[k]
        elif name == "xgradcam":
            total = a[k].sum()
            out += ((g[k] * a[k]).sum() / total if total != 0 else 0) * a[k]
    return out
