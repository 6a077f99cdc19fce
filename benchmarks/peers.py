"""Salience beside Captum and pytorch-grad-cam: the same maps, one process, alternated rounds, ratios of medians.

    python benchmarks/peers.py photos/ --model salience.models.zoo:efficientnet_lite0

Every row divides the time of the bare model calls that the method needs (the best batch and memory format, frozen
weights, warmed up) by the time that a library takes. Salience's figure is that of a whole run: decoding, explaining,
storing. The peers get decoded tensors and store nothing, in their usual way of being called: batches of 32, default
memory format; and, in brackets, as they are at their best, with the batch and memory format that salience found.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from salience.benchmark import _bare_seconds, _best_plan, _whole_seconds
from salience.data.decode import load
from salience.data.source import open_images
from salience.engine.allocator import keep_freed_memory
from salience.engine.runner import to_pixels
from salience.engine.sweep import Sweep
from salience.engine.tune import running
from salience.explaining import RunSettings, prepare
from salience.models.classifier import Classifier
from salience.models.layers import find_layer
from salience.models.loading import load_model


class Inside(nn.Module):
    """The classifier as the peers want it: pixels in, logits out."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.net = classifier.module
        self._classifier = classifier

    def forward(self, x: Tensor) -> Tensor:
        return self._classifier.logits(x)


def captum(name: str, **options: object) -> Callable[[Classifier], Callable[[Tensor], object]]:
    def make(classifier: Classifier) -> Callable[[Tensor], object]:
        import captum.attr

        explainer = getattr(captum.attr, name)(Inside(classifier))

        def run(x: Tensor) -> object:
            with torch.no_grad():
                target = explainer.forward_func(x).argmax(1)
            return explainer.attribute(x, target=target, **options)

        return run

    return make


def captum_layer(name: str) -> Callable[[Classifier], Callable[[Tensor], object]]:
    def make(classifier: Classifier) -> Callable[[Tensor], object]:
        import captum.attr

        inside = Inside(classifier)
        layer = classifier.module.get_submodule(find_layer(classifier).name)
        explainer = getattr(captum.attr, name)(inside, layer)

        def run(x: Tensor) -> object:
            with torch.no_grad():
                target = inside(x).argmax(1)
            return explainer.attribute(x, target=target)

        return run

    return make


def grad_cam(name: str) -> Callable[[Classifier], Callable[[Tensor], object]]:
    def make(classifier: Classifier) -> Callable[[Tensor], object]:
        import pytorch_grad_cam

        layer = classifier.module.get_submodule(find_layer(classifier).name)
        explainer = getattr(pytorch_grad_cam, name)(model=Inside(classifier), target_layers=[layer])
        return lambda x: explainer(input_tensor=x, targets=None)

    return make


ROWS: list[tuple[str, str, Callable[[Classifier], Callable[[Tensor], object]]]] = [
    ("gradient", "captum Saliency", captum("Saliency")),
    ("gradient_x_input", "captum InputXGradient", captum("InputXGradient")),
    ("ig:steps=32", "captum IntegratedGradients", captum("IntegratedGradients", n_steps=32, internal_batch_size=32)),
    ("gradcam", "captum LayerGradCam", captum_layer("LayerGradCam")),
    ("gradcam", "pytorch-grad-cam GradCAM", grad_cam("GradCAM")),
    ("gradcam++", "pytorch-grad-cam GradCAMPlusPlus", grad_cam("GradCAMPlusPlus")),
    ("layercam", "pytorch-grad-cam LayerCAM", grad_cam("LayerCAM")),
]


def seconds_per_image(run: Callable[[Tensor], object], pixels: Tensor, batch: int) -> float:
    begin = time.perf_counter()
    done = 0
    for at in range(0, len(pixels), batch):
        run(pixels[at : at + batch].clone())
        done += len(pixels[at : at + batch])
    return (time.perf_counter() - begin) / done


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images")
    parser.add_argument("--model", required=True)
    parser.add_argument("--limit", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="", help="run the rows whose method begins with this")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()

    keep_freed_memory()  # as the command line does; the bare calls and the peers gain by it too
    classifier = load_model(given.model, device="cpu")
    rows = []
    for method, peer, make in ROWS:
        if not method.startswith(given.only):
            continue
        try:
            make(classifier)
        except (ImportError, RuntimeError) as error:  # a torchvision beside another torch raises RuntimeError
            print(f"{method:18} {peer}: cannot be imported here: {error}", file=sys.stderr)
            continue
        limit = max(16, given.limit // 8) if method.startswith("ig") else given.limit
        source = open_images(given.images, limit=limit)
        job = prepare(
            classifier,
            source,
            [method],
            target="predicted",
            output="logit",
            seed=0,
            map_dtype="float16",
            settings=RunSettings(),
        )
        sweep = Sweep(classifier, [m.method for m in job.request.methods], job.request.target, "logit", 0, job.plan)
        pixels = to_pixels([load(source, r, classifier.preprocessing).pixels for r in source.refs], classifier)
        plan = _best_plan(classifier, sweep, pixels, job.plan)
        times: dict[str, list[float]] = {"bare": [], "salience": [], "usual": [], "best": []}
        usual = replace(plan, batch=32, memory_format="contiguous")
        for _ in range(given.rounds):
            times["bare"].append(_bare_seconds(classifier, sweep, pixels, plan, 2.0))
            times["salience"].append(_whole_seconds(job, source, RunSettings()) / len(source))
            for name, how in (("usual", usual), ("best", plan)):
                laid_out = pixels.contiguous(memory_format=how.torch_format)
                with running(classifier, how):
                    run = make(classifier)
                    times[name].append(seconds_per_image(run, laid_out, how.batch))
        middle = {k: statistics.median(v) for k, v in times.items()}
        row = {
            "method": method,
            "peer": peer,
            "bare_ms": round(middle["bare"] * 1e3, 3),
            "salience": round(middle["bare"] / middle["salience"], 3),
            "peer_usual": round(middle["bare"] / middle["usual"], 3),
            "peer_best": round(middle["bare"] / middle["best"], 3),
            "faster_than_usual": round(middle["usual"] / middle["salience"], 2),
        }
        rows.append(row)
        if not given.json:
            print(
                f"{method:18} {row['salience']:.2f}   {peer:34} {row['peer_usual']:.2f} ({row['peer_best']:.2f})   "
                f"{row['faster_than_usual']:.1f} times as fast as usual"
            )
    if given.json:
        print(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
