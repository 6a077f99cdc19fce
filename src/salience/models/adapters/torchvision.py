"""Image classifiers of torchvision: ``torchvision:NAME``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from salience.errors import ModelError, nearest
from salience.models.options import HUB
from salience.models.registry import Request, adapter, importing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from salience.models.classifier import Classifier


@adapter(
    "torchvision",
    summary="any image classifier of torchvision, with the preprocessing of its weights",
    example="torchvision:resnet50",
    requires="torchvision",
    options=HUB | {"weights": f"{HUB['weights']}; or the name of a set, e.g. IMAGENET1K_V1"},
)
def load(request: Request) -> Classifier:
    """Load a classifier of torchvision, with its default weights unless the options say otherwise."""
    with importing("torchvision"):
        from torchvision import models

    from salience.models.classifier import Classifier
    from salience.models.hub import Origin, known_interpolation

    where, name = f"Model {request.spec!r}", request.target
    known = models.list_models(module=models)
    if name not in known:
        raise ModelError(
            f"torchvision has no image classifier {name!r}.{nearest(name, known)} "
            "List them with torchvision.models.list_models(module=torchvision.models)."
        )
    sets = models.get_model_weights(name)
    chosen = sets.DEFAULT
    if request.options.get("weights") in sets.__members__:
        chosen = sets[request.options["weights"]]
        request = _without_weights(request)
    origin = Origin(request)
    settings = {} if origin.num_classes is None else {"num_classes": origin.num_classes}
    with origin.making():
        if origin.pretrained:
            # fetched and read as tensors alone first: the library itself would unpickle whatever the file holds
            chosen.get_state_dict(progress=False, check_hash=True, weights_only=True, map_location="cpu")
        module = models.get_model(name, weights=chosen if origin.pretrained else None, **settings)
    origin.load_into(module)
    transforms = chosen.transforms()
    size = _sides(transforms.crop_size)
    names = origin.names or _class_names(chosen, origin.num_classes is not None)
    return Classifier(
        module,
        size=size,
        mean=transforms.mean,
        std=transforms.std,
        interpolation=known_interpolation(transforms.interpolation.value, where),
        crop=min(1.0, min(size) / min(_sides(transforms.resize_size))),
        classes=names,
        name=name,
    )


def _without_weights(request: Request) -> Request:
    """Take the named set of weights out of the options: what is left asks for a download."""
    options = {key: value for key, value in request.options.items() if key != "weights"}
    return Request(request.spec, request.target, request.device, options)


def _sides(sizes: Sequence[int]) -> tuple[int, int]:
    return int(sizes[0]), int(sizes[-1])


def _class_names(weights: Any, own: bool) -> Sequence[str] | None:
    return None if own else weights.meta.get("categories")
