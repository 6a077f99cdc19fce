"""Image classifiers of transformers: ``hf:ID`` or ``hf:FOLDER``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from salience.errors import ModelError
from salience.models.registry import Request, adapter, importing, make_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from salience.models.classifier import Classifier


@adapter(
    "hf",
    summary="any image classifier of transformers, from the hub or a local folder",
    example="hf:google/vit-base-patch16-224",
    requires="transformers",
    options={
        "pretrained": "true, or false for random weights",
        "revision": "branch, tag or commit on the hub",
    },
)
def load(request: Request) -> Classifier:
    """Load a classifier of transformers with its image processor's settings; no code of the repository is run."""
    with importing("transformers"):
        from transformers import AutoImageProcessor, AutoModelForImageClassification

    from salience.models.classifier import Classifier
    from salience.models.hub_processor import preprocessing_of

    where = f"Model {request.spec!r}"
    revision = request.options.get("revision", "main")
    try:
        processor = AutoImageProcessor.from_pretrained(request.target, revision=revision, trust_remote_code=False)
        module, absent = _make(AutoModelForImageClassification, request, revision)
    except Exception as error:  # the library raises OSError, ValueError and those of the network
        raise ModelError(_explained(error, request)) from error
    if absent:
        raise ModelError(
            f"{where} has no trained weights for {', '.join(sorted(absent)[:3])}: it is no finished image classifier. "
            "Choose one that was fine-tuned for classification, or say pretrained=false."
        )
    seen = preprocessing_of(processor, where)
    return Classifier(
        module,
        size=seen.size,
        mean=seen.mean,
        std=seen.std,
        interpolation=seen.interpolation,
        fit=seen.fit,
        crop=seen.crop,
        classes=_class_names(module.config),
        name=make_name(Path(request.target).name),
        token_grid=_token_grid(module.config, seen.size),
    )


def _make(auto: Any, request: Request, revision: str) -> tuple[Any, Sequence[str]]:
    """Make the module; return it with the names of weights that the files lack."""
    if not request.flag("pretrained", True):
        from transformers import AutoConfig

        config = AutoConfig.from_pretrained(request.target, revision=revision, trust_remote_code=False)
        return auto.from_config(config, trust_remote_code=False), ()
    module, report = auto.from_pretrained(
        request.target,
        revision=revision,
        trust_remote_code=False,
        use_safetensors=True,
        output_loading_info=True,
    )
    return module, tuple(report["missing_keys"])


def _explained(error: Exception, request: Request) -> str:
    from salience.models.registry import torchvision_cure

    lines = str(error).strip().splitlines() or ["no message"]
    told = f"Model {request.spec!r} cannot be loaded: {type(error).__name__}: {lines[0].rstrip('.')}."
    if cure := torchvision_cure(error):
        return f"{told} {cure}"
    folder = Path(request.target)
    if folder.is_dir():
        pickled = sorted(p.name for p in folder.glob("*.bin"))
        if pickled and not list(folder.glob("*.safetensors")):
            return (
                f"Model {request.spec!r}: {pickled[0]} would need unpickling, which can run any code, and is refused. "
                "Where you trust it, load it yourself and convert it with model.save_pretrained(folder)."
            )
        return f"{told} The folder needs config.json, preprocessor_config.json and model.safetensors."
    return (
        f"{told} Check the name and the network, or download the folder elsewhere and name it: 'hf:PATH/TO/FOLDER'. "
        "Weights must be .safetensors, and the model one of transformers' own."
    )


def _class_names(config: Any) -> list[str] | None:
    names = [str(config.id2label[i]) for i in sorted(config.id2label)]
    placeholders = all(name == f"LABEL_{i}" for i, name in enumerate(names))
    return None if placeholders else names


def _token_grid(config: Any, size: tuple[int, int]) -> tuple[int, int] | None:
    """Compute the grid of patches of a plain vision transformer; those with stages have another at every stage."""
    patch = getattr(config, "patch_size", None)
    if (
        not isinstance(patch, int)
        or hasattr(config, "depths")
        or not isinstance(getattr(config, "hidden_size", 0), int)
    ):
        return None
    return size[0] // patch, size[1] // patch
