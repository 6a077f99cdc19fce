"""ONNX files: ``onnx:PATH``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from salience.models.options import DESCRIBED, OUTPUTS
from salience.models.registry import Request, adapter, make_name

if TYPE_CHECKING:
    from salience.models.classifier import Classifier


@adapter(
    "onnx",
    summary="an ONNX file through ONNX Runtime: outputs alone; size and normalisation from a card or options",
    example="onnx:net.onnx?mean=0.5&std=0.5",
    requires="onnxruntime",
    extra="onnx",
    options={key: text for key, text in DESCRIBED.items() if key != "token_grid"} | OUTPUTS,
    takes_card=True,
)
def load(request: Request) -> Classifier:
    """Load an ONNX file; its size is its own where none is given."""
    from salience.errors import ModelError
    from salience.models.blackbox import BlackBox
    from salience.models.card import ONNX_KEYS, describe
    from salience.models.onnx_file import OnnxProgram

    card, base, where = describe(request, ONNX_KEYS)
    program = OnnxProgram(request.path, request.device, card.output, where)
    size = program.input.size
    if card.size is None and None not in size:
        card = card.model_copy(update={"size": list(size)})
    box = BlackBox(
        program,
        program.identity,
        name=f"ONNX model {str(request.path)!r}",
        scores=card.scores,
        batch=program.input.batch,
        side_by_side=True,
    )
    classifier = card.build(box, base, where, frozenset())
    box.classes = None if classifier.classes is None else len(classifier.classes)
    for own, wanted in zip(size, classifier.preprocessing.size, strict=True):
        if own not in (None, wanted):
            raise ModelError(f"{where}: 'size' is {classifier.preprocessing.size}, but the ONNX program takes {size}.")
    classifier.fixed_batch = program.input.batch
    classifier.name = card.name or make_name(request.path.stem)
    return classifier
