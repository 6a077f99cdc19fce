"""ONNX files through ONNX Runtime: which input takes images, which output has scores, how many at a time."""

from __future__ import annotations

import hashlib
import re
import threading
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from salience.errors import ModelError, SalienceWarning, nearest
from salience.models.registry import importing

Array = npt.NDArray[Any]

TYPES: dict[str, type[np.floating[Any]]] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
}
PREFERRED_OUTPUT = "logits"
_CPU = ["CPUExecutionProvider"]


@dataclass(frozen=True)
class ImageInput:
    """The input that takes images.

    Attributes
    ----------
    name
        Its name.
    dtype
        What it takes.
    channels_last
        Whether it takes (N, H, W, 3) in place of (N, 3, H, W).
    batch
        The one number of images that it takes, None where it takes any.
    size
        Height and width, None where they are free.
    """

    name: str
    dtype: type[np.floating[Any]]
    channels_last: bool
    batch: int | None
    size: tuple[int | None, int | None]

    def arrange(self, images: Tensor) -> Array:
        """Bring normalised images (N, 3, H, W) into the input's layout and type."""
        array = images.cpu().numpy()
        if self.channels_last:
            array = array.transpose(0, 2, 3, 1)
        return np.ascontiguousarray(array, dtype=self.dtype)


class OnnxProgram:
    """An ONNX file, ready to answer, also to several threads at a time.

    It answers with as many threads as torch has in the thread that asks; with one, in that thread itself.

    Only the operators of ONNX Runtime itself are there: libraries of custom operators are code, and are not loaded.

    Parameters
    ----------
    path
        The ``.onnx`` file; weights in files beside it are found by the runtime.
    device
        ``cuda`` takes the runtime's own CUDA where that is installed.
    output
        Name of the output with the scores; else the one called ``logits``, else the first of two dimensions.
    where
        What asked for it, for messages.

    Raises
    ------
    ModelError
        When the file cannot be read, or does not take one batch of colour images, or has no such output.
    """

    def __init__(self, path: Path, device: torch.device, output: str | None, where: str) -> None:
        with importing("onnxruntime", "onnx"):
            import onnxruntime as ort
        if not path.is_file():
            near = nearest(path.name, [p.name for p in path.parent.glob("*.onnx")]) if path.parent.is_dir() else ""
            raise ModelError(f"{where}: there is no ONNX file {str(path)!r}.{near} Check the path.")
        providers = _providers(ort, device)

        def begin(threads: int) -> Any:
            options = ort.SessionOptions()
            options.intra_op_num_threads = threads
            options.inter_op_num_threads = 1
            # Threads that wait would keep the cores busy on which the next images are made.
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
            options.log_severity_level = 3  # errors: what the runtime warns of is not for the reader of a run
            return ort.InferenceSession(str(path), options, providers=providers)

        self._path = path
        self._begin = begin
        self._lock = threading.Lock()
        self._on_cpu = providers == _CPU
        self._threads = torch.get_num_threads()
        try:
            self._session = begin(self._threads)
        except Exception as error:  # the runtime's own exceptions have no common base but this
            raise ModelError(
                f"{where}: {str(path)!r} cannot be loaded by ONNX Runtime {ort.__version__}: {_short(error)} Was the "
                "file written whole, with operators that this version has?"
            ) from error
        self.input = image_input([(i.name, i.type, i.shape) for i in self._session.get_inputs()], where)
        self.output = score_output([(o.name, o.shape) for o in self._session.get_outputs()], output, where)
        self._identity = file_identity(path) + self.output.encode()

    def __call__(self, images: Tensor) -> Array:
        """Return scores (N, C) of normalised images (N, 3, H, W)."""
        (scores,) = self._suited().run([self.output], {self.input.name: self.input.arrange(images)})
        found: Array = np.asarray(scores)
        return found

    def _suited(self) -> Any:
        """Return a session with as many threads as torch has here; the runtime cannot change those of one."""
        wanted = torch.get_num_threads() if self._on_cpu else self._threads
        with self._lock:
            if wanted != self._threads:
                if file_identity(self._path) + self.output.encode() != self._identity:
                    raise ModelError(
                        f"{str(self._path)!r} changed while it was in use. Start again with the file as it is."
                    )
                self._session, self._threads = self._begin(wanted), wanted
            return self._session

    def identity(self) -> bytes:
        """Return a hash of the file, of the weights beside it, and the output's name."""
        return self._identity


def _providers(ort: Any, device: torch.device) -> list[Any]:
    if device.type != "cuda":
        return _CPU
    if "CUDAExecutionProvider" not in ort.get_available_providers():
        warnings.warn(
            "The installed ONNX Runtime has no CUDA, so the model runs on the processor. For the GPU: "
            "pip uninstall onnxruntime, then pip install onnxruntime-gpu.",
            SalienceWarning,
            stacklevel=3,
        )
        return _CPU
    return [("CUDAExecutionProvider", {"device_id": device.index or 0}), "CPUExecutionProvider"]


def image_input(inputs: list[tuple[str, str, list[Any]]], where: str) -> ImageInput:
    """Read the one input of a program, given as (name, type, shape), as a batch of images.

    Numbers in a shape are fixed; names and None are free. Where three channels fit both places, they are taken to stand
    first, as PyTorch has them.

    Raises
    ------
    ModelError
        When it is no batch of colour images in floating point.
    """
    if len(inputs) != 1:
        names = ", ".join(repr(name) for name, _, _ in inputs)
        raise ModelError(
            f"{where}: the ONNX program takes {len(inputs)} inputs ({names}); one batch of images is needed."
        )
    ((name, kind, shape),) = inputs
    sides = [side if isinstance(side, int) and side > 0 else None for side in shape]
    told = f"{where}: the ONNX program's input {name!r} is {kind} of shape {tuple(shape)}"
    if kind not in TYPES:
        raise ModelError(
            f"{told}; floating-point numbers (float, float16 or double) are needed, as the images are normalised. "
            "Export the network without the conversion from bytes in front."
        )
    if len(sides) != 4 or (sides[1] not in (3, None) and sides[3] != 3):
        raise ModelError(f"{told}; (N, 3, H, W) or (N, H, W, 3) is needed.")
    last = sides[1] != 3 and sides[3] == 3
    size = (sides[1], sides[2]) if last else (sides[2], sides[3])
    return ImageInput(name, TYPES[kind], last, sides[0], size)


def score_output(outputs: list[tuple[str, list[Any] | None]], wanted: str | None, where: str) -> str:
    """Choose the output with the scores among (name, shape).

    Raises
    ------
    ModelError
        When there is none of that name, or none of two dimensions.
    """
    names = [name for name, _ in outputs]
    listed = ", ".join(f"{name!r} {tuple(shape) if shape else 'of unknown shape'}" for name, shape in outputs)
    if wanted is not None:
        if wanted not in names:
            raise ModelError(
                f"{where}: the ONNX program has no output {wanted!r}.{nearest(wanted, names)} It has {listed}."
            )
        return wanted
    if PREFERRED_OUTPUT in names:
        return PREFERRED_OUTPUT
    flat = [name for name, shape in outputs if shape is not None and len(shape) == 2]
    if not flat and len(outputs) == 1 and not outputs[0][1]:  # one output that does not say what it is
        return names[0]
    if not flat:
        raise ModelError(f"{where}: the ONNX program has no output of two dimensions (N, C), but {listed}.")
    return flat[0]


# the entry "location" of a tensor kept in another file, as protocol buffers write it: two strings with their lengths
_LOCATION = re.compile(rb"\x0a\x08location\x12([\x80-\xff]?[\x01-\x7f])", re.DOTALL)


def file_identity(path: Path) -> bytes:
    """Hash an ONNX file and the files of weights that it names."""
    digest = hashlib.sha256()
    content = path.read_bytes()
    digest.update(content)
    places = {content[m.end() : m.end() + _length(m[1])] for m in _LOCATION.finditer(content)}
    for place in sorted(places):
        beside = path.parent / place.decode("utf-8", errors="replace")
        if beside.is_file():
            with beside.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.digest()


def _length(varint: bytes) -> int:
    return sum((byte & 0x7F) << 7 * k for k, byte in enumerate(varint))


def _short(error: Exception, limit: int = 300) -> str:
    text = f"{type(error).__name__}: {error}".strip()
    return (text if len(text) <= limit else f"{text[:limit]}...").rstrip(".") + "."
