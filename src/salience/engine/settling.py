"""In which precision a model is run: bfloat16 is checked on a few images of the run itself, with its own methods.

Maps of the same classes are computed in both precisions and compared; so are the outputs, of the images and of the
images with half of their pixels hidden, since scores of maps are made of such.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from salience.data.base import ImageRef, ImageSource
from salience.data.decode import load
from salience.engine.fidelity import Fidelity, agreement
from salience.engine.fills import fill
from salience.engine.method import Labelled, Method
from salience.engine.passes import forward, is_out_of_memory
from salience.engine.plan import Plan, Precision
from salience.engine.pool import Pool
from salience.engine.precision import why_not
from salience.engine.queries import QueryMethod
from salience.engine.random import row_key, uniform
from salience.engine.runner import to_pixels
from salience.engine.scalars import Output
from salience.engine.sweep import Batch, OutOfMemory, Sweep
from salience.engine.targets import Target
from salience.engine.tune import running, seconds_per_row
from salience.errors import ImagesError, MethodError, ModelError, SettingsError
from salience.models.classifier import Classifier

Asked = Literal["float32", "bfloat16", "auto"]
"""``auto``: bfloat16 where it is faster and inside the tolerances, else float32."""

FASTER = 1.05
"""``auto`` takes bfloat16 where a model call is so many times as fast: measuring twice differs by as much."""
IMAGES = 8
"""So many images are checked, evenly spaced over the source."""
_ROWS = 4096
"""Model rows of the check in each precision, about: methods with many passes get fewer images, 2 at least."""
_BUDGET = 257
"""Black-box methods are checked with so many passes an image: fewer masks average less noise away."""


@dataclass(frozen=True)
class Check:
    """What is to be checked: a model, its methods and their settings, and the images of the run.

    ``classes`` are those that come with the images of the source, in its order, where the target goes by image.
    """

    classifier: Classifier
    methods: Sequence[Labelled]
    target: Target
    output: Output | None
    seed: int
    pool: Pool | None
    source: ImageSource
    classes: Sequence[int | None]
    gradients: bool

    def run(self, single: Plan, half: Plan) -> Fidelity | None:
        """Compare both plans; None where there is no image to do it with, or no memory for one."""
        pixels = self._images(self._count(single))
        if pixels is None:
            return None
        try:
            exact, rough = (self._probabilities(plan, pixels) for plan in (single, half))
            if not self._named:
                pixels = replace(pixels, labels=exact[: len(pixels)].argmax(1).cpu())
            maps = [self._maps(plan, pixels) for plan in (single, half)]
            times = [seconds_per_row(self.classifier, plan, self.gradients) for plan in (single, half) * 2]
        except Exception as error:
            if not (isinstance(error, OutOfMemory) or is_out_of_memory(error)):
                raise
            return None  # the images then fail one by one, as rows
        differences = (exact - rough)[exact.isfinite().all(1)].abs().amax(1)
        found = {m.label: agreement(a, b) for m, a, b in zip(self.methods, *maps, strict=True)}
        return Fidelity(len(pixels), differences.mean().item(), min(times[::2]) / min(times[1::2]), found)

    @property
    def _named(self) -> bool:
        """Whether the class that is explained is known before the model is asked."""
        return self.target.by_image or self.target.kind == "class"

    def _count(self, plan: Plan) -> int:
        calls = self._sweep(plan).calls_per_image()
        return max(2, min(IMAGES, _ROWS // max(1, calls.forward + calls.backward)))

    def _sweep(self, plan: Plan) -> Sweep:
        methods = [_shortened(item.method) for item in self.methods]
        return Sweep(self.classifier, methods, Target("given"), self.output, self.seed, plan, pool=self.pool)

    def _images(self, count: int) -> Batch | None:
        """Return images, evenly spaced over the source, each with the class that is explained where that is named."""
        refs = self.source.refs
        order = dict.fromkeys(np.linspace(0, len(refs) - 1, min(count, len(refs))).round().astype(int).tolist())
        order |= dict.fromkeys(range(len(refs)))  # others in the place of those that cannot be used
        found: list[tuple[ImageRef, Any, int]] = []
        for place in order:
            own = self.classes[place] if self.target.by_image else self.target.index  # -1 where not named
            if own is None:
                continue
            try:
                found.append((refs[place], load(self.source, refs[place], self.classifier.preprocessing).pixels, own))
            except ImagesError:
                continue
            if len(found) == count:
                break
        if not found:
            return None
        pixels = self.source.finish([ref for ref, _, _ in found], to_pixels([p for _, p, _ in found], self.classifier))
        return Batch(tuple(ref.image_id for ref, _, _ in found), pixels, torch.tensor([own for _, _, own in found]))

    def _maps(self, plan: Plan, batch: Batch) -> list[Tensor]:
        """Return the maps (N, h, w) of every method, of the classes in ``batch``."""
        with running(self.classifier, plan):
            result = self._sweep(plan).run(batch)
        return [maps.values[:, 0] for maps in result.maps]

    def _probabilities(self, plan: Plan, batch: Batch) -> Tensor:
        """Return the probabilities (2 N, C) of the images, and of the images with half of their pixels hidden."""
        pixels = batch.pixels.to(self.classifier.device, self.classifier.dtype)
        keys = [row_key(self.seed, "fidelity", image_id) for image_id in batch.image_ids]
        hidden = uniform(keys, (1, *pixels.shape[2:]), pixels.device) < 0.5
        half = torch.where(hidden, fill("mean", pixels), pixels)
        with running(self.classifier, plan):
            return forward(self.classifier, torch.cat([pixels, half]), plan).double().softmax(1)


def _shortened(method: Method) -> Method:
    """Return a black-box method with fewer passes, where it has a use for fewer."""
    if not isinstance(method, QueryMethod) or method.budget <= _BUDGET:
        return method
    try:
        return method.within(_BUDGET)
    except MethodError:  # its windows or segments need all of them
        return method


# ---------------------------------------------------------------------- deciding


def settle(
    check: Check,
    asked: Asked,
    plan_for: Callable[[Precision], Plan],
    recorded: Plan | None = None,
    known: Fidelity | None = None,
) -> tuple[Plan, Fidelity | None]:
    """Return the plan in the precision that is asked for, and what a check found, where one was made.

    Parameters
    ----------
    plan_for
        Finds the plan in a precision.
    recorded
        The plan that a run has already; it is kept where its precision is the one that is decided on.
    known
        What was found before: methods in it are not checked again.

    Raises
    ------
    SettingsError
        When bfloat16 is asked for and cannot be had, or is outside the tolerances; the message gives the figures.
    """
    found: dict[Precision, Plan] = {} if recorded is None else {recorded.precision: recorded}

    def plan_in(precision: Precision) -> Plan:
        if precision not in found:
            found[precision] = plan_for(precision)
        return found[precision]

    name = check.classifier.name
    if asked == "float32":
        return plan_in("float32"), known
    reason = why_not(check.classifier)
    if reason is not None:
        if asked == "auto":
            return plan_in("float32"), None
        raise SettingsError(f"Model {name!r} cannot be run in bfloat16: {reason}. Leave it out, or take auto.")
    lacking = [m for m in check.methods if known is None or m.label not in known.methods]
    if known is None or lacking:
        try:
            fresh = replace(check, methods=lacking).run(plan_in("float32"), plan_in("bfloat16"))
        except ModelError:  # it has something that torch does not do in bfloat16
            if asked == "bfloat16":
                raise
            return plan_in("float32"), known
        known = fresh if known is None or fresh is None else known.with_methods(fresh)
    now = None if known is None else known.only(m.label for m in check.methods)
    if now is not None and now.within and (asked == "bfloat16" or now.speedup >= FASTER):
        return plan_in("bfloat16"), known
    if asked == "auto":
        return plan_in("float32"), known
    if now is None:
        raise SettingsError(
            f"Whether model {name!r} can be run in bfloat16 cannot be checked: none of the images can be used for it. "
            "Take float32."
        )
    raise SettingsError(
        f"In bfloat16, model {name!r} gives other results than in float32, on {now.images} of the images. "
        f"{now.outside()}. Take float32, or methods that keep within these, such as class activation maps; "
        "auto decides by itself."
    )
