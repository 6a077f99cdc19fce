"""Image classifiers of timm: ``timm:NAME``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from salience.errors import ModelError, nearest
from salience.models.options import HUB
from salience.models.registry import Request, adapter, importing, make_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from salience.models.classifier import Classifier


@adapter(
    "timm",
    summary="any image classifier of timm, with its own preprocessing",
    example="timm:resnet50.a1_in1k",
    requires="timm",
    options=HUB,
)
def load(request: Request) -> Classifier:
    """Load a classifier of timm, with its pretrained weights unless the options say otherwise."""
    with importing("timm"):
        import timm
        from timm.data import resolve_model_data_config

    from salience.models.classifier import Classifier
    from salience.models.hub import Origin, known_interpolation
    from salience.models.hub_processor import geometry

    where, name = f"Model {request.spec!r}", request.target
    if ":" not in name and not timm.is_model(name):
        known = timm.list_models()
        raise ModelError(f"timm has no model {name!r}.{nearest(name, known)} List them with timm.list_models().")
    origin = Origin(request)
    settings = {} if origin.num_classes is None else {"num_classes": origin.num_classes}
    with origin.making():
        module = timm.create_model(name, pretrained=origin.pretrained, **settings)
    origin.load_into(module)
    if module.num_classes == 0:
        raise ModelError(f"{where} gives features and no classes: timm has no classification head for it.")
    config = resolve_model_data_config(module)
    channels, height, width = config["input_size"]
    if channels != 3:
        raise ModelError(f"{where} takes images of {channels} channels; three are needed.")
    if config["crop_mode"] not in ("center", "squash"):
        raise ModelError(
            f"{where} is configured with the crop mode {config['crop_mode']!r}; 'center' and 'squash' are known. "
            "Write a model card with the fit that comes nearest."
        )
    fit, crop = geometry("squash" if config["crop_mode"] == "squash" else "crop", config["crop_pct"], where)
    return Classifier(
        module,
        size=(height, width),
        mean=config["mean"],
        std=config["std"],
        interpolation=known_interpolation(config["interpolation"], where),
        fit=fit,
        crop=crop,
        classes=origin.names or _class_names(module, origin.num_classes is not None),
        name=make_name(name.rpartition("/")[2].rpartition(":")[2]),
        token_grid=_token_grid(module),
    )


def _class_names(module: Any, own: bool) -> Sequence[str] | None:
    """Name the classes as the model's configuration does, or by the ImageNet set that has as many."""
    from timm.data import ImageNetInfo, infer_imagenet_subset

    from salience.models.imagenet import imagenet_classes

    if own:
        return None
    config = module.pretrained_cfg
    names = config.get("label_names")
    if names and len(names) == module.num_classes:
        return [str(n) for n in names]
    subset = infer_imagenet_subset(module)
    if subset is None:
        return None
    # one name for each class of ImageNet-1k, whichever library a model comes from: models are compared by them
    return imagenet_classes() if subset == "imagenet-1k" else list(ImageNetInfo(subset).label_descriptions())


def _token_grid(module: Any) -> tuple[int, int] | None:
    """Read the grid of patches off a plain vision transformer; those with stages have another at every stage."""
    grid = getattr(getattr(module, "patch_embed", None), "grid_size", None)
    if grid is None or not hasattr(module, "num_prefix_tokens"):
        return None
    return int(grid[0]), int(grid[1])
