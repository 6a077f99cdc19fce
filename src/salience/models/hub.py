"""What the adapters of model libraries share: weights from the network or from a file, classes, resampling filters."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import get_args

from torch import nn

from salience.data.preprocessing import Interpolation
from salience.errors import ModelError, SalienceError
from salience.models.description import read_classes
from salience.models.registry import Request, torchvision_cure
from salience.models.weights import load_weights


class Origin:
    """Where a library model's weights and classes come from, as the options of its spec say.

    Attributes
    ----------
    pretrained
        Whether the library's own weights are taken.
    weights
        File of weights to load, or None.
    num_classes
        Number of classes where it is not the library's own.
    names
        Class names where they are given.
    """

    def __init__(self, request: Request) -> None:
        where = f"Model {request.spec!r}"
        self.request = request
        self.weights = Path(request.options["weights"]) if "weights" in request.options else None
        self.pretrained = self.weights is None and request.flag("pretrained", True)
        path = request.options.get("classes")
        self.names = None if path is None else read_classes(Path(path), where)
        self.num_classes = request.count("num_classes")
        if self.num_classes is not None and self.names is not None and self.num_classes != len(self.names):
            raise ModelError(f"{where}: num_classes is {self.num_classes}, but {path!r} holds {len(self.names)} names.")
        if self.pretrained and self.num_classes is not None:
            raise ModelError(
                f"{where}: 'num_classes' would put an untrained head on the downloaded weights. "
                "Give the file of the trained ones with weights=PATH, or say pretrained=false."
            )
        if not self.pretrained and self.names is not None:
            self.num_classes = len(self.names)

    def load_into(self, module: nn.Module) -> None:
        """Load the file of weights, if there is one."""
        if self.weights is not None:
            load_weights(module, self.weights, f"Model {self.request.spec!r}")

    @contextmanager
    def making(self) -> Iterator[None]:
        """Turn whatever the library raises while it makes the model into a message that says what to do."""
        try:
            yield
        except SalienceError:
            raise
        except Exception as error:
            told = f"{type(error).__name__}: {_first_line(error)}"
            if cure := torchvision_cure(error):
                raise ModelError(f"Model {self.request.spec!r}: {told}. {cure}") from error
            if not self.pretrained:
                raise ModelError(f"Model {self.request.spec!r} cannot be made: {told}.") from error
            base = self.request.spec.partition("?")[0]
            raise ModelError(
                f"Model {self.request.spec!r}: its weights could not be downloaded ({told}). Check the name and the "
                f"network, or download the file elsewhere and name it: '{base}?weights=PATH.safetensors' "
                f"('{base}?pretrained=false' gives random weights)."
            ) from error


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else "no message"


def known_interpolation(name: str, where: str) -> Interpolation:
    """Return the resampling filter of that name.

    Raises
    ------
    ModelError
        When it is none of those that Pillow and this package share.
    """
    for known in get_args(Interpolation):
        if known == name:
            return known  # type: ignore[no-any-return]  # one of the literal's own values
    raise ModelError(
        f"{where} is configured with the resampling filter {name!r}; known are {', '.join(get_args(Interpolation))}. "
        "Write a model card with the one that comes nearest."
    )
