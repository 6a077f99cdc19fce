"""Any function from a batch of images to scores, as a classifier; and what tells one function from another."""

from __future__ import annotations

import functools
import hashlib
import types
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from salience.errors import ModelError, SettingsError
from salience.models.account import Account
from salience.models.blackbox import BlackBox

Arrays = Literal["numpy", "torch"]


def box_callable(
    fn: Callable[[Any], Any],
    *,
    size: tuple[int, int],
    logits: bool,
    arrays: Arrays,
    batch: int | None,
    connections: int,
    classes: int | None,
    paid: bool,
    max_queries: int | None,
    version: str,
    name: str,
) -> BlackBox:
    """Make the module of :meth:`salience.models.classifier.Classifier.from_callable`.

    Raises
    ------
    ModelError
        When ``fn`` cannot be called.
    SettingsError
        When an argument has no meaning.
    """
    if not callable(fn):
        raise ModelError(f"A function of a batch of images is needed, not {type(fn).__name__}.")
    if arrays not in ("numpy", "torch"):
        raise SettingsError(f"arrays is {arrays!r}; 'numpy' or 'torch' is needed: what the function takes.")
    for key, value in (("batch", batch), ("connections", connections), ("max_queries", max_queries)):
        if value is not None and value < 1:
            raise SettingsError(f"{key} is {value}; 1 or more is needed.")
    if max_queries is not None and not paid:
        raise SettingsError("max_queries limits what is paid for: give paid=True with it.")
    label = f"Model {name!r}"
    account = Account(label, limit=max_queries) if paid else None

    def ask(images: Tensor) -> Any:
        if account is not None:
            account.charge(len(images))
        return fn(images.cpu().numpy() if arrays == "numpy" else images)

    def identity() -> bytes:
        digest = hashlib.sha256(repr((code_identity(fn), arrays, version)).encode())
        if not paid:
            probe = probe_batch(batch or 2, size)
            with torch.no_grad():
                digest.update(rough(box(probe)))
        return digest.digest()

    box = BlackBox(
        ask,
        identity,
        name=label,
        scores="logits" if logits else "probabilities",
        batch=batch,
        classes=classes,
        account=account,
        paid=paid,
        connections=connections,
    )
    return box


def code_identity(fn: Any) -> str:
    """Return a text that names a callable and its code, the same in every process.

    Functions give their qualified name and a hash of their bytecode with its constants; partials, methods and
    instances the same of what they call, instances with their class's name.
    """
    if isinstance(fn, functools.partial):
        return f"partial of {code_identity(fn.func)}"
    fn = getattr(fn, "__func__", fn)
    if not hasattr(fn, "__qualname__"):
        kind = type(fn)
        return f"{kind.__module__}.{kind.__qualname__} called by {code_identity(kind.__call__)}"
    code = getattr(fn, "__code__", None)
    hashed = "" if code is None else hashlib.sha256(_code_text(code).encode()).hexdigest()
    return f"{getattr(fn, '__module__', '')}.{fn.__qualname__} {hashed}"


def _code_text(code: types.CodeType) -> str:
    return repr((code.co_code, code.co_names, [_constant(c) for c in code.co_consts]))


def _constant(value: Any) -> str:
    if isinstance(value, types.CodeType):
        return _code_text(value)
    if isinstance(value, frozenset):  # printed in another order in every process
        return repr(sorted(map(_constant, value)))
    return repr(value)


def probe_batch(count: int, size: tuple[int, int]) -> Tensor:
    """Return normalised images (count, 3, H, W) that are the same in every process."""
    h, w = size
    values = np.random.Generator(np.random.Philox(20)).standard_normal((count, 3, h, w), dtype=np.float32)
    return torch.from_numpy(values)


def rough(scores: Tensor) -> bytes:
    """Return what is left of scores (N, C) when the order of floating-point sums is taken off.

    Two numbers a row: the logarithm of its norm, and its product with fixed random weights in thousandths of the norm.
    Where two machines differ by 1e-6, one of them changes about once in five hundred times; more digits or more numbers
    would tell the same model apart from itself.
    """
    z = torch.nan_to_num(scores.double().cpu())
    weights = torch.from_numpy(np.random.Generator(np.random.Philox(21)).standard_normal(z.shape[1]))
    norm = torch.linalg.vector_norm(z, dim=1).clamp_min(1e-30)
    shares = (z @ weights) / norm
    return repr([(round(float(v), 3), round(float(n.log()), 3)) for v, n in zip(shares, norm, strict=True)]).encode()
