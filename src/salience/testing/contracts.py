"""The contracts that every method and every classifier must keep, as functions to call from a test.

    from salience.testing.contracts import CLASSIFIER_CONTRACTS, METHOD_CONTRACTS
    for check in METHOD_CONTRACTS:
        check("my_method", classifier)
    for check in CLASSIFIER_CONTRACTS:
        check(classifier)

Each raises ``AssertionError`` with what was broken. They run on any classifier; small ones are in
:mod:`salience.testing.models`.
"""

from __future__ import annotations

import gc
import random
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from salience.engine.events import Event
from salience.engine.runner import to_pixels
from salience.errors import MethodError
from salience.explaining import RunSettings, explain, explain_run
from salience.methods.registry import parse_method
from salience.models.classifier import GRADIENTS, LAYERS, Classifier, as_found
from salience.store.maps import Maps
from salience.store.run import open_run
from salience.store.unit import UnitResult
from salience.store.writer import RunWriter

Images = npt.NDArray[np.uint8]


def example_images(classifier: Classifier, count: int = 7, seed: int = 0) -> Images:
    """Return uint8 images (count, H, W, 3) of the classifier's input size: noise over slow gradients."""
    generator = np.random.Generator(np.random.Philox(seed))
    h, w = classifier.preprocessing.size
    slope = np.linspace(0, 1, h)[None, :, None, None] * np.linspace(0, 1, w)[None, None, :, None]
    images = 200 * slope * generator.random((count, 1, 1, 3)) + 55 * generator.random((count, h, w, 3))
    return images.astype(np.uint8)


def _explain(method: str, classifier: Classifier, images: Any, **how: Any) -> Maps:
    if parse_method(method).method.needs_pool:  # drawn from the images explained, it would change with them
        how.setdefault("pool", example_images(classifier, 4, seed=1))
    maps: Maps = explain(classifier, images, method, **{"batch_size": 4, **how})
    return maps


# ---------------------------------------------------------------------- 1: batch invariance


def check_batch_invariance(method: str, classifier: Classifier) -> None:
    """The map of an image is the same alone, in any batch, in any order; nearly so under another plan."""
    images = list(example_images(classifier))
    together = _explain(method, classifier, np.stack(images))
    order = [3, 0, 6, 5, 1, 4, 2]
    with tempfile.TemporaryDirectory() as folder:
        # files keep an image's id, and with it its random numbers, wherever it stands
        names = [_save(Path(folder) / f"{i}.png", image) for i, image in enumerate(images)]
        whole = _explain(method, classifier, names)
        shuffled = _explain(method, classifier, [names[i] for i in order])
        for place, i in enumerate(order):
            assert shuffled.values[place].tobytes() == whole.values[i].tobytes(), (
                f"{method}: image {i} has another map at another place in the batch"
            )
        for i in (0, 4):
            alone = _explain(method, classifier, [names[i]])
            assert alone.values[0].tobytes() == whole.values[i].tobytes(), (
                f"{method}: image {i} has another map alone than in a batch"
            )
        wider = _explain(method, classifier, names, batch_size=7)
        _near(wider.values, whole.values, f"{method}: maps change with the size of the batch")
    assert len(together) == len(images), f"{method}: a map is missing"


def _save(path: Path, image: npt.NDArray[np.uint8]) -> str:
    from PIL import Image

    Image.fromarray(image).save(path)
    return str(path)


def _near(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32], message: str, tolerance: float = 1e-5) -> None:
    size = np.abs(b).reshape(len(b), -1).max(axis=1)
    off = np.abs(a - b).reshape(len(b), -1).max(axis=1)
    # A pixel whose sign or competition hangs on the last bit may flip; it may not be many pixels.
    flips = (np.abs(a - b) > tolerance * np.maximum(size, 1e-12)[:, None, None]).mean()
    assert (off <= tolerance * np.maximum(size, 1e-12)).all() or flips < 1e-3, f"{message}: {off.max()} of {size.max()}"


def check_seed_and_global_generators(method: str, classifier: Classifier) -> None:
    """The same seed gives the same bytes, another seed another map where a method draws; no global generator moves."""
    images = example_images(classifier, 3)
    before = (torch.random.get_rng_state().numpy().tobytes(), repr(np.random.get_state()), random.getstate())  # noqa: NPY002
    first = _explain(method, classifier, images, seed=1)
    after = (torch.random.get_rng_state().numpy().tobytes(), repr(np.random.get_state()), random.getstate())  # noqa: NPY002
    assert before == after, f"{method}: a global random generator was used"
    torch.manual_seed(12345)
    again = _explain(method, classifier, images, seed=1)
    assert first.values.tobytes() == again.values.tobytes(), f"{method}: the same seed gives other maps"
    other = _explain(method, classifier, images, seed=2)
    name = method.split(":")[0]
    draws = parse_method(method).method.traits.stochastic and name != "captum"
    if draws:
        assert first.values.tobytes() != other.values.tobytes(), f"{method}: it says that it draws, and does not"


# ---------------------------------------------------------------------- 2: the model is left as found


def _snapshot(classifier: Classifier) -> dict[str, Any]:
    module = classifier.module
    return {
        "training": [m.training for m in module.modules()],
        "requires_grad": [p.requires_grad for p in module.parameters()],
        "grad": [None if p.grad is None else p.grad.clone().tolist() for p in module.parameters()],
        "storage": [p.data_ptr() for p in module.parameters()],
        "stride": [p.stride() for p in module.parameters()],
        "state": {k: v.detach().clone().cpu().numpy().tobytes() for k, v in module.state_dict().items()},
        "hooks": [
            {k: len(v) for k, v in vars(m).items() if k.endswith("hooks") and hasattr(v, "__len__")}
            for m in module.modules()
        ],
        "modules": [type(m).__name__ for m in module.modules()],
        "threads": torch.get_num_threads(),
        "grad_mode": torch.is_grad_enabled(),
    }


def _same(before: dict[str, Any], after: dict[str, Any], method: str, when: str) -> None:
    for key, value in before.items():
        assert after[key] == value, f"{method}: {key} of the model was changed {when}"


def check_model_left_as_found(method: str, classifier: Classifier) -> None:
    """Training flags, gradients, hooks, weights and outputs are as before, also after an exception in the model."""
    module = classifier.module
    module.train()
    first = next(module.parameters(), None)  # a black box has none
    if first is not None:
        first.requires_grad_(True)
        first.grad = torch.ones_like(first)
    images = example_images(classifier, 3)
    before = _snapshot(classifier)
    _explain(method, classifier, images)
    _same(before, _snapshot(classifier), method, "by a run")
    with _breaking(classifier, after=1):
        try:
            _explain(method, classifier, images)
        except Exception:
            pass
        else:
            raise AssertionError(f"{method}: an exception of the model was swallowed")
    _same(before, _snapshot(classifier), method, "by a run that failed")
    if first is not None:
        first.grad = None
    module.eval()


@contextmanager
def _breaking(classifier: Classifier, after: int) -> Iterator[None]:
    """Let the last module that a forward pass runs raise at the given call, as a user's bug would."""
    module = _last_run(classifier)
    kind = type(module)
    calls = 0

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += self is module
        if self is module and calls >= after:
            raise ValueError("a broken layer")
        return original(self, *args, **kwargs)

    original = kind.forward
    kind.forward = forward  # put back below
    try:
        yield
    finally:
        kind.forward = original


def _last_run(classifier: Classifier) -> torch.nn.Module:
    """Return the module without children that runs last; the whole one where the parts are no layers."""
    ran = [classifier.module]
    if LAYERS not in classifier.capabilities:
        return classifier.module
    leaves = [m for m in classifier.module.modules() if not list(m.children())]
    handles = [m.register_forward_pre_hook(lambda m, _: ran.append(m)) for m in leaves]
    try:
        with as_found(classifier.module), torch.no_grad():
            classifier.logits(to_pixels(list(example_images(classifier, 1)), classifier))
    finally:
        for handle in handles:
            handle.remove()
    return ran[-1]


# ---------------------------------------------------------------------- 3: raw values


def check_raw_values(method: str, classifier: Classifier) -> None:
    """Maps are finite float32 (N, h, w), not negative unless the method is signed, and not normalised."""
    images = example_images(classifier, 3)
    maps = _explain(method, classifier, images)
    assert maps.values.dtype == np.float32, f"{method}: maps are {maps.values.dtype}"
    assert maps.values.ndim == 3, f"{method}: maps have the shape {maps.values.shape}"
    assert np.isfinite(maps.values).all(), f"{method}: maps are not finite"
    if not maps.signed:
        assert maps.values.min() >= 0, f"{method}: it says that it is not signed, and has negative values"
    spans = maps.values.reshape(3, -1)
    assert not np.allclose(spans.max(axis=1), 1.0), f"{method}: maps are normalised"
    assert maps.targets.tolist() == maps.probabilities.argmax(axis=1).tolist(), f"{method}: another class was explained"


# ---------------------------------------------------------------------- 4: memory


def check_memory_is_flat(method: str, classifier: Classifier) -> None:
    """No tensor outlives a call."""
    images = example_images(classifier, 5)

    def living() -> int:
        gc.collect()
        return sum(1 for o in gc.get_objects() if issubclass(type(o), torch.Tensor))  # type(): proxies may be dead

    freeze = not gc.get_freeze_count()
    if freeze:
        gc.collect()
        gc.freeze()  # what is there already is not looked through again and again
    try:
        _explain(method, classifier, images)
        before = living()
        for _ in range(3):
            _explain(method, classifier, images)
        assert living() <= before, f"{method}: tensors stay alive after a call"
    finally:
        if freeze:
            gc.unfreeze()


# ---------------------------------------------------------------------- 5: kill and resume


class _Killed(Exception):
    """Stands for the end of the process."""


class _DyingWriter(RunWriter):
    """A writer that dies in the middle of its second unit, when arrays are written and tables are not."""

    dying = False

    def write(self, number: int, unit: UnitResult) -> None:
        self.dying = number == 1
        super().write(number, unit)

    def _predictions(self, unit: UnitResult) -> dict[str, list[Any]]:
        if self.dying:
            raise _Killed
        return super()._predictions(unit)


def check_resume(method: str, classifier: Classifier) -> None:
    """A run that died and was carried on equals one that never did, and no finished image is computed again."""
    images = example_images(classifier, 6)
    how: dict[str, Any] = {
        "settings": RunSettings(batch=2, memory_format="contiguous", unit_images=2),
        "map_dtype": "float32",
    }
    with tempfile.TemporaryDirectory() as folder:
        np.savez(Path(folder) / "images.npz", images=images)
        source = str(Path(folder) / "images.npz")
        smooth, killed = Path(folder) / "smooth", Path(folder) / "killed"
        explain_run([classifier], source, [method], smooth, **how)
        try:
            explain_run([classifier], source, [method], killed, writer_type=_DyingWriter, **how)
        except _Killed:
            pass
        else:
            raise AssertionError(f"{method}: the run did not die")
        assert len(open_run(killed).units()) == 1, f"{method}: a unit that was not finished counts"
        events: list[Event] = []
        outcome = explain_run([classifier], source, [method], killed, listen=events.append, **how)
        summary = outcome.summaries[classifier.name]
        assert (summary.reused, summary.computed) == (2, 4), f"{method}: finished work was repeated: {summary}"
        a, b = open_run(smooth).maps(), outcome.run.maps()
        assert a.image_ids == b.image_ids, f"{method}: other images after resuming"
        assert a.values.tobytes() == b.values.tobytes(), f"{method}: other maps after resuming"
        again = explain_run([classifier], source, [method], killed, **how)
        assert again.summaries[classifier.name].computed == 0, f"{method}: a finished run was computed again"


def check_lanes(method: str, classifier: Classifier) -> None:
    """Two threads that compute side by side write the maps of one."""
    images = example_images(classifier, 7)
    found = []
    with tempfile.TemporaryDirectory() as folder:
        np.savez(Path(folder) / "images.npz", images=images)
        for lanes in (1, 2):
            settings = RunSettings(batch=2, memory_format="contiguous", threads=lanes, lanes=lanes)
            out, source = Path(folder) / str(lanes), str(Path(folder) / "images.npz")
            found.append(explain_run([classifier], source, [method], out, settings=settings, map_dtype="float32").run)
        one, two = (run.maps() for run in found)
        assert one.image_ids == two.image_ids, f"{method}: other images in two lanes"
        assert one.values.tobytes() == two.values.tobytes(), f"{method}: other maps in two lanes"


# ---------------------------------------------------------------------- 6: failures are rows


def check_failures_are_rows(method: str, classifier: Classifier) -> None:
    """An unreadable image becomes a row; all others get the maps they would have had without it."""
    images = example_images(classifier, 4)
    with tempfile.TemporaryDirectory() as folder:
        names = [_save(Path(folder) / f"{i}.png", image) for i, image in enumerate(images)]
        whole = _explain(method, classifier, names)
        Path(names[1]).write_bytes(b"")
        lost = _explain(method, classifier, names)
        assert [f.kind for f in lost.failures] == ["unreadable"], f"{method}: failures are {lost.failures}"
        assert len(lost) == 3, f"{method}: {len(lost)} maps instead of 3"
        for kept, i in enumerate((0, 2, 3)):
            assert lost.values[kept].tobytes() == whole.values[i].tobytes(), f"{method}: a neighbour's failure shows"


METHOD_CONTRACTS: tuple[Callable[[str, Classifier], None], ...] = (
    check_batch_invariance,
    check_seed_and_global_generators,
    check_model_left_as_found,
    check_raw_values,
    check_memory_is_flat,
    check_resume,
    check_lanes,
    check_failures_are_rows,
)


# ---------------------------------------------------------------------- classifiers


def check_logits(classifier: Classifier) -> None:
    """Logits are (N, C), finite, one class name each, and what two calls answer is the same."""
    images = to_pixels(list(example_images(classifier, 3)), classifier)
    with as_found(classifier.module), torch.no_grad():
        first, again = classifier.logits(images), classifier.logits(images)
    assert first.shape == (3, classifier.num_classes), f"{classifier.name}: logits have the shape {tuple(first.shape)}"
    assert len(classifier.class_names) == classifier.num_classes, f"{classifier.name}: class names do not fit"
    assert bool(torch.isfinite(first).all()), f"{classifier.name}: logits are not finite"
    assert torch.equal(first, again), f"{classifier.name}: two calls answer differently"


def check_fingerprint(classifier: Classifier) -> None:
    """The fingerprint is the same when asked twice, and another when a weight changes."""
    before = classifier.fingerprint()
    assert before == classifier.fingerprint(), f"{classifier.name}: the fingerprint changes by itself"
    tensor = next((t for t in classifier.module.parameters() if t.is_floating_point()), None)
    if tensor is not None:
        value = tensor.data.flatten()[0].clone()
        tensor.data.view(-1)[0] = value + 1
        changed = classifier.fingerprint()
        tensor.data.view(-1)[0] = value
        assert changed != before, f"{classifier.name}: the fingerprint does not see a weight"
        assert classifier.fingerprint() == before, f"{classifier.name}: the fingerprint does not come back"


def check_capabilities(classifier: Classifier) -> None:
    """What a classifier says it can do, it does; what it cannot, is refused by name."""
    images = example_images(classifier, 2)
    for method, needs in (("gradient", GRADIENTS), ("gradcam", LAYERS)):
        if needs in classifier.capabilities:
            assert len(_explain(method, classifier, images)) == 2, f"{classifier.name}: {method} gave no maps"
            continue
        message = ""
        try:
            _explain(method, classifier, images)
        except MethodError as error:
            message = str(error)
        assert classifier.name in message, f"{classifier.name}: without {needs}, {method} was not refused by name"


CLASSIFIER_CONTRACTS: tuple[Callable[[Classifier], None], ...] = (
    check_logits,
    check_fingerprint,
    check_capabilities,
)
