"""One batch through the model: a forward pass, and the vector-Jacobian products that the methods want."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from salience.engine.method import Activation, Contrast, Gradient, Rivals, Want
from salience.engine.plan import Plan
from salience.engine.precision import casting, single
from salience.engine.random import choose, row_key
from salience.engine.scalars import Output, cotangent, one_hot
from salience.errors import ModelError, SalienceError
from salience.models.classifier import Classifier
from salience.models.layers import Capture, Layer, capture

RIVALS_ALL_UP_TO = 20
RIVALS_TOP = 10
RIVALS_RANDOM = 10
_KEPT_BYTES = 2 * 2**30


@dataclass
class Calls:
    """Rows of images that went forward and backward through the model, padding left out."""

    forward: int = 0
    backward: int = 0
    told: Callable[[Calls], None] | None = field(default=None, compare=False, repr=False)
    """Hears of every change as it happens: what was added."""

    def count(self, forward: int = 0, backward: int = 0) -> None:
        """Add rows, or take them back where a batch was done in vain."""
        self.forward += forward
        self.backward += backward
        if self.told is not None:
            self.told(Calls(forward, backward))

    def __iadd__(self, other: Calls) -> Calls:
        self.forward += other.forward
        self.backward += other.backward
        return self


@dataclass
class Look:
    """The model evaluated at a batch of points, ready to be differentiated class by class."""

    classifier: Classifier
    output: Output
    inputs: Tensor
    logits: Tensor
    layers: dict[Activation, tuple[Layer, Capture]]
    leaf: Tensor | None
    seed: int
    rows: int
    calls: Calls
    rivals: dict[Rivals, Tensor | None] = field(default_factory=dict)
    _classes: dict[int, Tensor] = field(default_factory=dict)

    def release(self) -> None:
        """Let go of the graph."""
        self.leaf = None
        self.layers = {}
        self._classes = {}

    # ------------------------------------------------------------------ products

    def _product(self, weights: Tensor, of: Sequence[Tensor], last: bool) -> tuple[Tensor, ...]:
        vector = cotangent(self.output, self.logits.detach(), weights)
        self.calls.count(backward=self.rows)
        with torch.enable_grad():
            # Its gradient by the logits is the vector. Handed over as grad_outputs, the vector would have torch import
            # its symbolic shapes, and with them sympy: half a second of every process.
            whole = (self.logits * vector).sum()
        found = torch.autograd.grad(whole, list(of), retain_graph=not last, allow_unused=True)
        return tuple(torch.zeros_like(t) if g is None else g for g, t in zip(found, of, strict=True))

    def collect(self, target: Tensor, wants: Sequence[Want], last: bool) -> dict[Want, tuple[Tensor, ...]]:
        """Find everything wanted for classes ``target`` (N,); ``last`` frees the graph with the last product."""
        found: dict[Want, tuple[Tensor, ...]] = {}
        if not wants:
            return found
        count = self.logits.shape[1]
        own = one_hot(target, count)
        contrasts = [w for w in wants if isinstance(w, Contrast)]
        rivals = [w for w in wants if isinstance(w, Rivals)]
        activations = [w for w in wants if isinstance(w, Activation)]
        every = any(self.rivals[w] is None for w in rivals)  # all classes compete: g_t is one of them
        sampled = [w for w in rivals if self.rivals[w] is not None]
        products = len(contrasts) + sum(self._width(w) for w in sampled) + (count if every else 0)

        gradient: Tensor | None = None
        need_pixels = Gradient() in wants
        if activations or (need_pixels and not every):
            of = [self._captured(w) for w in activations]
            if need_pixels and not every:
                of.append(self._pixels())
            results = self._product(own, of, last and not products)
            for want, result in zip(activations, results, strict=False):
                layer = self.layers[want][0]
                found[want] = (single(layer.maps(self._captured(want).detach())), single(layer.maps(result)))
            if need_pixels and not every:
                gradient = results[-1].contiguous()
        for contrast in contrasts:
            products -= 1
            weights = own - self._spread(contrast, target)
            (slope,) = self._product(weights, [self._pixels()], last and not products)
            found[contrast] = (slope.contiguous(),)  # channels are combined several times: planes are faster
        for rival in sampled:
            drawn = self.rivals[rival]
            assert drawn is not None  # sampled means drawn
            indices = rivals_of(drawn, target)
            low: Tensor | None = None
            high: Tensor | None = None
            for r in range(indices.shape[1]):
                products -= 1
                (g,) = self._product(one_hot(indices[:, r], count), [self._pixels()], last and not products)
                high, low = _extend(high, low, g)
            found[rival] = _pair(high, low)
        if every:
            high = low = None
            gradient = torch.zeros_like(self.inputs)
            for c in range(count):
                products -= 1
                g = self._class(c, last=last and not products, keep=not last)
                same = (target == c).view(-1, 1, 1, 1)
                gradient = torch.where(same, g, gradient)
                high, low = _extend(high, low, g, same)
            for rival in rivals:
                if self.rivals[rival] is None:
                    found[rival] = _pair(high, low)
        if Gradient() in wants:
            assert gradient is not None  # it was needed, so it was computed
            found[Gradient()] = (gradient,)
        return found

    def _class(self, c: int, *, last: bool, keep: bool) -> Tensor:
        """Return the gradient of class ``c`` for every row; kept while other targets of the batch will ask again."""
        known = self._classes.get(c)
        if known is None:
            weights = torch.zeros(self.logits.shape, dtype=torch.float64, device=self.logits.device)
            weights[:, c] = 1
            (known,) = self._product(weights, [self._pixels()], last)
            if keep and known.nbytes * self.logits.shape[1] < _KEPT_BYTES:
                self._classes[c] = known
        return known

    def _width(self, want: Rivals) -> int:
        drawn = self.rivals[want]
        return 0 if drawn is None else drawn.shape[1] - 1

    def _spread(self, want: Contrast, target: Tensor) -> Tensor:
        z = self.logits.detach().double()
        if want.weights == "uniform":
            return torch.full_like(z, 1 / z.shape[1])
        if want.weights == "rivals":
            z = z.scatter(1, target.unsqueeze(1), float("-inf"))
        return z.softmax(1)

    def _pixels(self) -> Tensor:
        assert self.leaf is not None  # look() was told that pixels are wanted
        return self.leaf

    def _captured(self, want: Activation) -> Tensor:
        tensor = self.layers[want][1].activation
        if tensor is None:
            raise ModelError(f"Layer {self.layers[want][0].name!r} was not reached by the forward pass.")
        return tensor


def _extend(high: Tensor | None, low: Tensor | None, g: Tensor, skip: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Take ``g`` into the running extremes, but for the rows in ``skip``."""
    up = g if skip is None else g.masked_fill(skip, float("-inf"))
    down = g if skip is None else g.masked_fill(skip, float("inf"))
    return (
        up if high is None else torch.maximum(high, up),
        down if low is None else torch.minimum(low, down),
    )


def _pair(high: Tensor | None, low: Tensor | None) -> tuple[Tensor, Tensor]:
    assert high is not None
    assert low is not None
    return high, low


def needs_pixels(wants: Sequence[Want]) -> bool:
    """Tell whether a gradient by the pixels is among the wants."""
    return any(not isinstance(w, Activation) for w in wants)


@dataclass(frozen=True)
class Product:
    """One backward pass that is needed: to the layers' activations, to the pixels, or to both."""

    layers: bool
    pixels: bool


def products(wants: Sequence[Want], classes: int, columns: int = 1) -> list[Product]:
    """Return the backward passes that ``columns`` target classes of a batch need at one point.

    Where all classes compete, their gradients serve every target class.
    """
    every = any(isinstance(w, Rivals) and rival_count(w, classes) is None for w in wants)
    layers = any(isinstance(w, Activation) for w in wants)
    own = Gradient() in wants and not every
    one = [Product(layers, own)] if layers or own else []
    one += [Product(False, True) for w in wants if isinstance(w, Contrast)]
    for want in wants:
        if isinstance(want, Rivals):
            one += [Product(False, True)] * (rival_count(want, classes) or 0)
    return one * columns + ([Product(False, True)] * classes if every else [])


def rival_count(want: Rivals, classes: int) -> int | None:
    """Return the size of the drawn set of rivals, or None where all classes compete."""
    drawn = RIVALS_TOP + RIVALS_RANDOM
    if want.which == "all" or (classes <= drawn + 1 and want.which == "sample"):
        return None
    if want.which == "auto" and classes <= RIVALS_ALL_UP_TO:
        return None
    return min(drawn, classes - 1)


def draw_rivals(logits: Tensor, image_ids: Sequence[str], seed: int) -> Tensor:
    """Return the classes (N, 21) of which the rivals of any target are taken, see :func:`rivals_of`.

    The 11 most probable classes, falling, and 10 random others, drawn per image.
    """
    n, top = len(logits), RIVALS_TOP + 1
    order = logits.argsort(dim=1, descending=True, stable=True).cpu()
    chosen = torch.empty(n, top + RIVALS_RANDOM, dtype=torch.int64)
    chosen[:, :top] = order[:, :top]
    for i, image_id in enumerate(image_ids):
        rest = order[i, top:]
        pick = choose(row_key(seed, "rivals", image_id), RIVALS_RANDOM, len(rest))
        chosen[i, top:] = rest[pick]
    return chosen.to(logits.device)


def rivals_of(drawn: Tensor, target: Tensor) -> Tensor:
    """Return the rivals (N, 20) of ``target`` (N,): what was drawn but the target, or but the last of the top."""
    same = drawn == target.unsqueeze(1)
    last = torch.zeros_like(same)
    last[:, RIVALS_TOP] = ~same.any(1)
    return drawn[~(same | last)].view(len(drawn), -1)


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an exception means that a smaller batch may work."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(
        sign in str(error) for sign in ("can't allocate memory", "not enough memory", "out of memory")
    )


def call_model(classifier: Classifier, inputs: Tensor, plan: Plan) -> Tensor:
    """Return the logits (N, C) of inputs (N, 3, H, W) in the plan's precision; errors become messages that name it.

    Logits are in single precision whatever the model computed in.
    """
    try:
        with casting(classifier, plan.precision):
            return single(classifier.logits(inputs))
    except SalienceError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise ModelError(
            f"Model {classifier.name!r} fails on a batch of shape {tuple(inputs.shape)}: "
            f"{type(error).__name__}: {error}"
        ) from error


def pad(rows: Tensor, count: int) -> Tensor:
    """Repeat the last row until there are ``count``."""
    missing = count - len(rows)
    return rows if missing <= 0 else torch.cat([rows, rows[-1:].expand(missing, *rows.shape[1:])])


def forward(classifier: Classifier, inputs: Tensor, plan: Plan) -> Tensor:
    """Return the logits (N, C) of any number of inputs (N, 3, H, W), in batches as ``plan`` says; no gradients."""
    parts = []
    with torch.no_grad():
        for at in range(0, len(inputs), plan.batch):
            rows = inputs[at : at + plan.batch]
            full = pad(rows, plan.batch).contiguous(memory_format=plan.torch_format)
            parts.append(call_model(classifier, full, plan)[: len(rows)])
    return torch.cat(parts)


def look(
    classifier: Classifier,
    inputs: Tensor,
    wants: Sequence[Want],
    layers: dict[Activation, Layer],
    plan: Plan,
    *,
    output: Output,
    image_ids: Sequence[str],
    seed: int,
    rows: int,
    calls: Calls,
) -> Look:
    """Run the model forward at ``inputs`` (N, 3, H, W), of which the first ``rows`` are not padding."""
    pixels = needs_pixels(wants)
    leaf = inputs.detach().requires_grad_() if pixels else None
    calls.count(forward=rows)
    with contextlib.ExitStack() as stack:
        held = {
            want: (layers[want], stack.enter_context(capture(classifier, layers[want])))
            for want in dict.fromkeys(w for w in wants if isinstance(w, Activation))
        }
        with torch.set_grad_enabled(bool(wants)):
            logits = call_model(classifier, inputs if leaf is None else leaf, plan)
    state = Look(classifier, output, inputs, logits, held, leaf, seed, rows, calls)
    for want in wants:
        if isinstance(want, Rivals):
            full = rival_count(want, logits.shape[1]) is None
            state.rivals[want] = None if full else draw_rivals(logits.detach(), image_ids, seed)
    return state
