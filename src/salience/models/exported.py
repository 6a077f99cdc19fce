"""Exported programs (``.pt2``): the graph and the weights in one file, with gradients of the input and no layers."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from salience.errors import ModelError
from salience.models.classifier import GRADIENTS, Classifier
from salience.models.description import Description


class ExportedModule(nn.Module):
    """An exported program as a module that takes any number of images.

    A program answers only for the numbers of images it was exported for: fewer are filled up with blanks, more are
    sent through in parts. Its mode is fixed in its graph, so ``train`` and ``eval`` only set the flag.
    """

    def __init__(self, program: torch.export.ExportedProgram) -> None:
        super().__init__()
        self.program = program.module()
        self.shape, self.least, self.most = _input_shape(program)
        self._code = hashlib.sha256(program.graph_module.code.encode()).hexdigest()[:16]

    def extra_repr(self) -> str:
        """Show a hash of the graph: it tells two programs with equal weights apart."""
        return f"graph={self._code}, images={self.least}..{self.most or ''}"

    def train(self, mode: bool = True) -> ExportedModule:
        """Set the flag; the program itself has no modes."""
        self.training = mode
        return self

    def forward(self, images: Tensor) -> Any:
        """Answer for images (N, 3, H, W), whatever N the program was exported for."""
        count = len(images)
        if self.least <= count <= (self.most or count):
            return self.program(images)
        parts = torch.split(images, self.most) if self.most else (images,)
        return torch.cat([_first(self._padded(part))[: len(part)] for part in parts])

    def _padded(self, images: Tensor) -> Any:
        blanks = self.least - len(images)
        if blanks > 0:
            images = torch.cat([images, images.new_zeros(blanks, *images.shape[1:])])
        return self.program(images)


def _first(output: Any) -> Tensor:
    if isinstance(output, dict):
        output = output.get("logits", next(iter(output.values()), None))
    while isinstance(output, (tuple, list)) and output:
        output = output[0]
    if not isinstance(output, Tensor):
        raise ModelError(f"The exported program returned {type(output).__name__}; a tensor of logits is needed.")
    return output


def _input_shape(program: torch.export.ExportedProgram) -> tuple[tuple[int | None, ...], int, int | None]:
    """Read the input's shape (None where it is free), and the least and the greatest number of images."""
    names = program.graph_signature.user_inputs
    values = [n.meta["val"] for n in program.graph.nodes if n.op == "placeholder" and n.name in names]
    if len(values) != 1 or not isinstance(values[0], Tensor) or values[0].ndim != 4:
        raise ModelError(f"The exported program takes {len(names)} inputs; one batch of images (N, 3, H, W) is needed.")
    sides: list[Any] = list(values[0].shape)  # whole numbers, or symbols where the program leaves them free
    shape = tuple(n if isinstance(n, int) else None for n in sides)
    if shape[0] is not None:
        return shape, shape[0], shape[0]
    bounds: Any = program.range_constraints.get(sides[0].node.expr)
    if bounds is None:
        return shape, 1, None
    return shape, max(1, int(bounds.lower)), int(bounds.upper) if bounds.upper.is_Integer else None


def load_exported(path: Path, description: Description, base: Path, where: str, device: torch.device) -> Classifier:
    """Load an exported program as a classifier that has gradients and no layers.

    The size is the program's own where the description gives none. ``fixed_batch`` is set where the program
    takes one number of images alone.

    Parameters
    ----------
    path
        The ``.pt2`` file. Its tensors are read without unpickling code; the graph is read by torch itself, so take
        programs from sources you trust.
    description
        Size, normalisation, class names.
    base
        Folder that the class names are relative to.
    where
        What asked for it, for messages.
    device
        Where the program will run.

    Raises
    ------
    ModelError
        When the file is missing or broken, would need unpickling, was exported in training mode, or does not take
        one batch of colour images.
    """
    if not path.is_file():
        raise ModelError(f"{where}: there is no exported program {str(path)!r}. Check the path.")
    refuse_pickles(path, where)
    try:
        program = torch.export.load(path)
        if device.type != "cpu":
            from torch.export.passes import move_to_device_pass

            program = move_to_device_pass(program, device)
    except Exception as error:  # whatever a broken or too new file makes torch raise
        raise ModelError(
            f"{where}: {str(path)!r} cannot be read as an exported program: {type(error).__name__}: {error}. "
            f"Was it saved with torch.export.save, by a torch no newer than {torch.__version__}?"
        ) from error
    try:
        module = ExportedModule(program)
    except ModelError as error:
        raise ModelError(f"{where}: {error}") from error
    _refuse_training(program, path, where)
    channels, *size = module.shape[1:]
    if channels not in (3, None):
        raise ModelError(f"{where}: the exported program takes {channels} channels; three are needed.")
    if description.size is None and None not in size:
        description = description.model_copy(update={"size": size})
    classifier = description.build(module, base, where, frozenset({GRADIENTS}))
    for own, wanted in zip(size, classifier.preprocessing.size, strict=True):
        if own not in (None, wanted):
            raise ModelError(
                f"{where}: 'size' is {classifier.preprocessing.size}, but the program was exported for {tuple(size)}."
            )
    if module.least == module.most:
        classifier.fixed_batch = module.most
    return classifier


def _refuse_training(program: torch.export.ExportedProgram, path: Path, where: str) -> None:
    """Refuse a program whose graph drops values at random or updates its statistics."""
    if any(map(_trains, program.graph.nodes)) or program.graph_signature.buffers_to_mutate:
        raise ModelError(
            f"{where}: {str(path)!r} was exported in training mode: its answers change from call to call. "
            "Call model.eval() before torch.export.export."
        )


def _trains(node: torch.fx.Node) -> bool:
    """Tell whether a graph's operation has the switch that dropout and batch normalisation have, and it is on."""
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return False
    values = dict(zip((a.name for a in schema.arguments), node.args, strict=False)) | dict(node.kwargs)
    return values.get("train") is True or values.get("training") is True


def refuse_pickles(path: Path, where: str) -> None:
    """Refuse a ``.pt2`` file with parts that torch would unpickle without limits.

    Raises
    ------
    ModelError
        When the file is no archive, or a part of it holds more than tensors.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            for name in _pickled_parts(archive):
                content = archive.read(name)
                if content:
                    torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"{where}: {str(path)!r} would need unpickling, which can run any code, and is refused. "
            "Export the model with tensors alone as inputs, weights and constants."
        ) from error
    except (zipfile.BadZipFile, OSError, KeyError, ValueError, RuntimeError, EOFError) as error:
        raise ModelError(f"{where}: {str(path)!r} is no exported program that can be read: {error}.") from error


def _pickled_parts(archive: zipfile.ZipFile) -> list[str]:
    """List the parts of an archive that torch reads with pickle: the old layout's, and those its tables mark."""
    names = archive.namelist()
    parts = [n for n in names if n.endswith(".pt")]
    for table in (n for n in names if n.endswith(("_weights_config.json", "_constants_config.json"))):
        folder = table.rpartition("/")[0]
        for payload in json.loads(archive.read(table)).get("config", {}).values():
            if payload["path_name"].startswith(("custom_obj_", "opaque_obj_")):
                raise pickle.UnpicklingError("the program holds objects other than tensors")
            if payload.get("use_pickle"):
                parts.append(f"{folder}/{payload['path_name']}")
    # a program saved by torch 2.6 and earlier keeps its tensors under these names
    parts += [n for n in names if n in ("serialized_state_dict.json", "serialized_constants.json")]
    return parts
