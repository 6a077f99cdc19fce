"""The classifier: a torch module with its preprocessing, its class names and what can be asked of it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from salience.data.preprocessing import Fit, Interpolation, Preprocessing
from salience.errors import ModelError

if TYPE_CHECKING:
    from salience.models.account import Account
    from salience.models.layers import Layer
    from salience.models.origin import Origin

GRADIENTS = "gradients"
LAYERS = "layers"


class Classifier:
    """A torch module that classifies images, with all that is needed to explain it.

    Parameters
    ----------
    module
        Takes normalised images (N, 3, H, W) and returns logits (N, C): as a tensor, as the first tensor of a tuple,
        or as the attribute or key ``logits`` of an output object.
    size
        Input side in pixels, or (height, width).
    mean, std
        Normalisation of pixels in [0, 1]; it happens inside :meth:`logits`, so gradients are those of the pixels.
    classes
        Class names in the order of the logits; numbers where none are given.
    interpolation, fit, crop
        How an image file is brought to ``size``: see :class:`~salience.data.preprocessing.Preprocessing`.
    name
        The name in tables and on the page.
    layer
        Dotted name of the module whose output class activation maps use; found automatically when it is None.
    token_grid
        (rows, columns) of the patch tokens of a vision transformer; inferred from the number of tokens when None.
    capabilities
        What can be asked: ``gradients`` (outputs can be differentiated by inputs), ``layers`` (hooks reach modules).
    fixed_batch
        The one number of images that the module is efficient with (or takes at all), None where it takes any.

    Raises
    ------
    SettingsError
        When the preprocessing makes no sense.
    ModelError
        When ``module`` is no torch module.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        size: int | tuple[int, int],
        mean: Sequence[float] = (0.0, 0.0, 0.0),
        std: Sequence[float] = (1.0, 1.0, 1.0),
        classes: Sequence[str] | None = None,
        interpolation: Interpolation = "bicubic",
        fit: Fit = "crop",
        crop: float = 1.0,
        name: str = "model",
        spec: str | None = None,
        layer: str | None = None,
        token_grid: tuple[int, int] | None = None,
        capabilities: frozenset[str] = frozenset({GRADIENTS, LAYERS}),
        fixed_batch: int | None = None,
    ) -> None:
        if not isinstance(module, nn.Module):
            raise ModelError(f"A torch.nn.Module is needed, not {type(module).__name__}.")
        self.module = module
        self.preprocessing = Preprocessing(
            size=(size, size) if isinstance(size, int) else tuple(int(s) for s in size),  # type: ignore[arg-type]
            mean=tuple(float(v) for v in mean),  # type: ignore[arg-type]  # the length is checked there
            std=tuple(float(v) for v in std),  # type: ignore[arg-type]
            interpolation=interpolation,
            fit=fit,
            crop=crop,
        )
        self.classes: tuple[str, ...] | None = None if classes is None else tuple(str(c) for c in classes)
        self.name = name
        self.spec = spec or name
        self.origin: Origin | None = None
        self.layer = layer
        self.token_grid = token_grid
        self.capabilities = capabilities
        self.fixed_batch = fixed_batch
        self._num_classes: int | None = None
        self.found_layers: dict[str | None, Layer] = {}  # by the name asked for: finding one takes a probe batch
        self._place()

    @classmethod
    def from_callable(
        cls,
        fn: Callable[[Any], Any],
        *,
        size: int | tuple[int, int],
        logits: bool = True,
        mean: Sequence[float] = (0.0, 0.0, 0.0),
        std: Sequence[float] = (1.0, 1.0, 1.0),
        classes: Sequence[str] | None = None,
        name: str = "model",
        arrays: Literal["numpy", "torch"] = "numpy",
        batch: int | None = None,
        connections: int = 1,
        paid: bool = False,
        max_queries: int | None = None,
        version: str = "",
        interpolation: Interpolation = "bicubic",
        fit: Fit = "crop",
        crop: float = 1.0,
    ) -> Classifier:
        """Make a classifier of any function; it has neither gradients nor layers.

        Parameters
        ----------
        fn
            Takes normalised images (N, 3, H, W), float32, and returns scores (N, C), one row for each image.
        size, mean, std, classes, name, interpolation, fit, crop
            As for the class itself.
        logits
            False says that the scores are probabilities: they are checked, and their logarithms taken for logits.
        arrays
            What ``fn`` takes: ``numpy`` arrays, or ``torch`` tensors on this classifier's device. It may return either.
        batch
            The one number of images that a call of ``fn`` takes, None where it takes any.
        connections
            So many calls of ``fn`` are under way at a time, each in a thread of its own with a part of a batch: for
            functions that wait for something, as for a service, and may be called so.
        paid
            Whether asking costs something: nothing is then asked to measure the model, no row is sent twice, and a run
            directory keeps every answer until what was made of it is safe.
        max_queries
            With ``paid``: rows that may be sent at most.
        version
            Changes when ``fn`` answers differently and its code does not show it; of paid functions nothing else tells.

        Raises
        ------
        SettingsError
            When the preprocessing or an argument makes no sense.
        ModelError
            When ``fn`` is no function; later, when it answers with something unusable.
        """
        from salience.models.callables import box_callable

        box = box_callable(
            fn,
            size=(size, size) if isinstance(size, int) else size,
            logits=logits,
            arrays=arrays,
            batch=batch,
            connections=connections,
            classes=None if classes is None else len(classes),
            paid=paid,
            max_queries=max_queries,
            version=version,
            name=name,
        )
        return cls(
            box,
            size=size,
            mean=mean,
            std=std,
            classes=classes,
            interpolation=interpolation,
            fit=fit,
            crop=crop,
            name=name,
            capabilities=frozenset(),
            fixed_batch=None if batch is None else batch * connections,
        )

    def __repr__(self) -> str:
        h, w = self.preprocessing.size
        return f"Classifier({self.name!r}, {type(self.module).__name__}, {h}x{w}, {self.device}, {self.dtype})"

    # ------------------------------------------------------------------ where it is

    def _place(self, device: torch.device | None = None) -> None:
        tensors = (t for t in _state(self.module).values() if t.is_floating_point())
        tensor = next(tensors, None)
        # a module without tensors runs where its input is
        self.device = tensor.device if tensor is not None else device or torch.device("cpu")
        self.dtype = torch.float32 if tensor is None else tensor.dtype
        # a half-precision module still gets its input normalised in single precision
        exact = torch.promote_types(self.dtype, torch.float32)
        shape = (1, 3, 1, 1)
        self._mean = torch.tensor(self.preprocessing.mean, dtype=exact, device=self.device).view(shape)
        self._scale = 1.0 / torch.tensor(self.preprocessing.std, dtype=exact, device=self.device).view(shape)

    def to(self, device: str | torch.device) -> Classifier:
        """Move the module to ``device`` (in place, as torch does) and return this classifier."""
        self.module.to(device)
        self._place(torch.device(device))
        return self

    # ------------------------------------------------------------------ what it costs

    @property
    def account(self) -> Account | None:
        """What is sent to a model that is not computed here, counted and limited; None for all others."""
        account: Account | None = getattr(self.module, "account", None)
        return account

    @property
    def paid(self) -> bool:
        """Whether asking costs something: then nothing is asked but what a method needs."""
        return bool(getattr(self.module, "paid", False))

    @property
    def usual_batch(self) -> int | None:
        """The number of images in a call where none is asked for and none may be measured."""
        batch: int | None = getattr(self.module, "usual_batch", None)
        return batch

    # ------------------------------------------------------------------ what it answers

    def normalise(self, images: Tensor) -> Tensor:
        """Map pixels in [0, 1], shape (N, 3, H, W), to what the module expects."""
        return ((images - self._mean) * self._scale).to(self.dtype)

    def logits(self, images: Tensor) -> Tensor:
        """Return the logits (N, C) of images (N, 3, H, W) with pixels in [0, 1]."""
        return unpack_logits(self.module(self.normalise(images)), len(images))

    @property
    def num_classes(self) -> int:
        """Number of logits, read off one forward pass the first time it is needed.

        Of a paid model with class names it is their number; its first answer must have as many.
        """
        if self._num_classes is None and self.paid and self.classes is not None:
            self._num_classes = len(self.classes)
        if self._num_classes is None:
            with as_found(self.module), torch.no_grad():
                blank = torch.zeros(
                    self.fixed_batch or 1, 3, *self.preprocessing.size, dtype=self.dtype, device=self.device
                )
                try:
                    count = self.logits(blank).shape[1]
                except ModelError:
                    raise
                except Exception as error:
                    h, w = self.preprocessing.size
                    raise ModelError(
                        f"Model {self.name!r} fails on one image of {h}x{w} pixels, the size it is declared with: "
                        f"{type(error).__name__}: {error}. Check 'size' and the model's own input size."
                    ) from error
            if self.classes is not None and len(self.classes) != count:
                raise ModelError(
                    f"Model {self.name!r} answers with {count} classes, but {len(self.classes)} class names are given. "
                    "Give one name for each class, in the order of the outputs."
                )
            self._num_classes = count
        return self._num_classes

    @property
    def class_names(self) -> tuple[str, ...]:
        """Class names; their numbers as text where none were given."""
        count = self.num_classes
        return self.classes if self.classes is not None else tuple(str(i) for i in range(count))

    def fingerprint(self) -> str:
        """Return a hash of all that decides the outputs: structure, weights, buffers, preprocessing.

        Two classifiers with equal fingerprints give equal outputs, as far as their code is the same: the code of
        ``forward`` itself is not hashed, the module tree's printed form is. It is the same in every process.

        A module that has no weights to show may have a method ``__fingerprint__(self) -> bytes``, which is hashed as
        well: bytes that are the same in every process and others when its outputs change.
        """
        digest = hashlib.sha256()
        shown = getattr(self.module, "__fingerprint__", None)
        if shown is not None:
            digest.update(shown())
        printed = _ADDRESS.sub("", repr(self.module))
        digest.update(f"{type(self.module).__module__}.{type(self.module).__qualname__}\n{printed}\n".encode())
        digest.update(repr(sorted(self.preprocessing.to_dict().items())).encode())
        for name, tensor in sorted(_state(self.module).items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        return digest.hexdigest()[:32]


# functions and plain objects print where they lie in memory, which is another place in every process
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


def _state(module: nn.Module) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    tensors.update(module.named_parameters())
    tensors.update(module.named_buffers())
    return tensors


def unpack_logits(output: Any, rows: int) -> Tensor:
    """Find the logits (N, C) in whatever a module returns.

    Raises
    ------
    ModelError
        When there is no (N, C) tensor with one row for each image.
    """
    found: Any = output
    if not isinstance(found, Tensor):
        if isinstance(found, Mapping) and "logits" in found:
            found = found["logits"]
        elif hasattr(found, "logits"):
            found = found.logits
        elif isinstance(found, (tuple, list)):
            found = next((item for item in found if isinstance(item, Tensor) and item.ndim == 2), None)
    if not isinstance(found, Tensor):
        raise ModelError(
            f"The model returned {type(output).__name__}; a tensor of logits (N, C), a tuple that begins with one, "
            "or an output object with 'logits' is needed."
        )
    if found.ndim != 2 or found.shape[0] != rows or found.shape[1] < 2:
        raise ModelError(
            f"The model returned shape {tuple(found.shape)} for {rows} images; ({rows}, C) with at least two classes "
            "is needed. A model with one output can be wrapped to return the logits (-z/2, z/2)."
        )
    return found


# the tables of a module that can be changed from outside: hooks, and what it is made of
_TABLES = (
    "_modules",
    "_parameters",
    "_buffers",
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_backward_hooks",
    "_backward_pre_hooks",
)


@contextmanager
def as_found(module: nn.Module, memory_format: torch.memory_format | None = None) -> Iterator[None]:
    """Evaluate ``module`` frozen, and leave it exactly as it was found, also after an exception.

    Inside, every sub-module is in eval mode, no parameter asks for a gradient, and, where ``memory_format`` is
    given, the four-dimensional weights are laid out in it. Afterwards the training flags, ``requires_grad``,
    ``.grad``, the weights' own storage, buffers, hooks and sub-modules are those of before.
    """
    modules = list(module.modules())
    training = [m.training for m in modules]
    tables = [{name: getattr(m, name).copy() for name in _TABLES if hasattr(m, name)} for m in modules]
    forwards = [m.__dict__.get("forward") for m in modules]
    parameters = list(module.parameters())
    flags = [p.requires_grad for p in parameters]
    gradients = [p.grad for p in parameters]
    storage = [p.data for p in parameters]
    buffers = [(b, b.detach().clone()) for b in module.buffers()]
    try:
        module.eval()
        for parameter in parameters:
            if parameter.is_leaf:
                parameter.requires_grad_(False)
                parameter.grad = None  # a backward pass adds to the tensor that it finds here
            if memory_format is not None and parameter.ndim == 4:
                parameter.data = parameter.data.contiguous(memory_format=memory_format)
        yield
    finally:
        for parameter, flag, gradient, data in zip(parameters, flags, gradients, storage, strict=True):
            parameter.data = data
            if parameter.is_leaf:
                parameter.requires_grad_(flag)
            parameter.grad = gradient
        for buffer, value in buffers:
            if not torch.equal(buffer, value):
                buffer.copy_(value)
        for m, flag, saved, forward in zip(modules, training, tables, forwards, strict=True):
            m.training = flag
            for name, value in saved.items():
                _restore(getattr(m, name), value)
            if m.__dict__.get("forward") is not forward:
                if forward is None:
                    m.__dict__.pop("forward", None)
                else:
                    m.__dict__["forward"] = forward


def _restore(table: dict[Any, Any], saved: dict[Any, Any]) -> None:
    """Give a table its saved entries back, in their order; entries are the same when they are the same objects."""
    if list(table) != list(saved) or any(table[key] is not value for key, value in saved.items()):
        table.clear()
        table.update(saved)
