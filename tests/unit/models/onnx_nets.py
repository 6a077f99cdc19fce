"""ONNX files made by hand, node by node, whose answers NumPy can give as well."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

CLASSES = 4
SIZE = (8, 6)
WEIGHTS = np.random.default_rng(0).standard_normal((3, CLASSES)).astype(np.float32)


def expected(images: np.ndarray) -> np.ndarray:
    """Channel means times weights: the logits (N, 4) of normalised images (N, 3, H, W)."""
    return images.mean((2, 3)) @ WEIGHTS


def write_net(
    path: Path,
    *,
    rows: int | str = "n",
    size: tuple[int | str, int | str] = SIZE,
    layout: str = "nchw",
    kind: str = "FLOAT",
    softmax: bool = False,
    outputs: tuple[str, ...] = ("scores",),
    inputs: int = 1,
    channels: int = 3,
    external: bool = False,
    weights: np.ndarray = WEIGHTS,
    domain: str = "",
) -> Path:
    """Write a mean over pixels, a matrix product and perhaps a softmax, in every form that files come in."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    dtype = getattr(TensorProto, kind)
    shape = [rows, channels, *size] if layout == "nchw" else [rows, *size, channels]
    axes = [2, 3] if layout == "nchw" else [1, 2]
    values: Any = weights.astype(
        {"FLOAT": np.float32, "FLOAT16": np.float16, "DOUBLE": np.float64}.get(kind, np.float32)
    )
    first = "image" if kind != "UINT8" else "floats"
    nodes = [] if kind != "UINT8" else [helper.make_node("Cast", ["image"], ["floats"], to=TensorProto.FLOAT)]
    nodes += [
        helper.make_node("ReduceMean", [first, "axes"], ["features"], keepdims=0),
        helper.make_node("MatMul", ["features", "weights"], ["product"], domain=domain),
    ]
    nodes += [
        helper.make_node("Softmax" if softmax else "Identity", ["product"], [name])
        if name != "grid" else helper.make_node("Identity", [first], [name])
        for name in outputs
    ]  # fmt: skip
    out = dtype if kind != "UINT8" else TensorProto.FLOAT
    infos = [helper.make_tensor_value_info(name, out, shape if name == "grid" else [rows, CLASSES]) for name in outputs]
    ins = [helper.make_tensor_value_info("image" if i == 0 else f"more{i}", dtype, shape) for i in range(inputs)]
    graph = helper.make_graph(
        nodes, "net", ins, infos,
        [numpy_helper.from_array(np.array(axes, dtype=np.int64), "axes"), numpy_helper.from_array(values, "weights")],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 18)] + ([helper.make_opsetid(domain, 1)] if domain else [])
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    onnx.save_model(model, path, save_as_external_data=external, location=f"{path.name}.data", size_threshold=64)
    return path
