"""What has to be said of a model besides its code: size, normalisation, class names. Checked, with clear errors.

Model cards write it as TOML, specs as options behind ``?``; both go through the same checks.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import nn

from salience.data.preprocessing import Fit, Interpolation
from salience.errors import ModelError, SalienceWarning, nearest
from salience.models.classifier import GRADIENTS, LAYERS, Classifier

Positive = Annotated[int, Field(gt=0)]
Pair = Annotated[list[Positive], Field(min_length=2, max_length=2)]
Mean = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Std = Annotated[float, Field(gt=0, le=10, allow_inf_nan=False)]

EXPECTED = {
    "size": "the input's side in pixels is needed, e.g. size = 224, or [height, width]",
    "mean": "three numbers between 0 and 1 are needed, one for each colour channel, for pixels scaled to 0..1 "
    "(divide those of a 0..255 scale by 255), e.g. mean = [0.485, 0.456, 0.406]",
    "std": "three numbers above 0 are needed, one for each colour channel, for pixels scaled to 0..1 "
    "(divide those of a 0..255 scale by 255), e.g. std = [0.229, 0.224, 0.225]",
    "interpolation": "one of 'nearest', 'bilinear', 'bicubic', 'lanczos' and 'box' is needed",
    "fit": "'crop' (keep the centre) or 'squash' (keep everything) is needed",
    "crop": "the share that the centre crop keeps is needed, above 0 and at most 1, e.g. crop = 0.875",
    "classes": "a list of at least two class names, or the path of a .json list or of a .txt file with one name a line "
    "is needed",
    "layer": "the dotted name of a module is needed, e.g. layer = 'layer4'",
    "token_grid": "[rows, columns] of the patch tokens are needed, e.g. token_grid = [14, 14]",
    "factory": "'file.py:function' or 'package.module:function' is needed",
    "pt2": "the path of an exported program is needed, e.g. pt2 = 'model.pt2'",
    "model": "the spec of what the card describes is needed, e.g. model = 'onnx:net.onnx' or 'https://host/predict'",
    "scores": "'logits' or 'probabilities' is needed: what the model returns",
    "output": "the name of the output with the scores is needed, e.g. output = 'logits'",
    "batch": "the number of images in a request is needed, e.g. batch = 16",
    "connections": "the number of requests that may be under way at a time is needed, 1 to 64, e.g. connections = 4",
    "wire": "'npy' or 'json' is needed: how images are sent",
    "token_env": "the name of an environment variable that holds the token is needed, e.g. token_env = 'MY_TOKEN'",
    "timeout": "the seconds to wait for an answer are needed, above 0, e.g. timeout = 60",
    "retries": "the number of repeated attempts is needed, 0 to 100, e.g. retries = 6",
    "rate": "images in a time are needed, e.g. rate = '50/s'",
    "paid": "true or false is needed: whether asking costs something",
    "max_queries": "the number of images that may be sent at most is needed, e.g. max_queries = 100000",
    "version": "a text that changes when the model behind the URL does is needed, e.g. version = '2024-05'",
    "backbone": "the card or spec of the model that was trained further is needed, e.g. backbone = 'timm:resnet18'",
    "head": "the dotted name of its last linear layer is needed, e.g. head = 'fc'",
    "weights": "the path of a .safetensors, .pt, .pth or .th file is needed",
    "name": "a name of letters, digits, '_', '.' and '-' is needed, e.g. name = 'resnet-50'",
}


class Description(BaseModel):
    """Size, normalisation, geometry and class names, as a card or the options of a spec give them."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    size: Positive | Pair | None = None
    mean: Annotated[list[Mean], Field(min_length=3, max_length=3)] | None = None
    std: Annotated[list[Std], Field(min_length=3, max_length=3)] | None = None
    interpolation: Interpolation = "bicubic"
    fit: Fit = "crop"
    crop: Annotated[float, Field(gt=0, le=1)] = 1.0
    classes: Annotated[list[str], Field(min_length=2)] | str | None = None
    layer: str | None = None
    token_grid: Pair | None = None

    def build(
        self,
        made: nn.Module | Classifier,
        base: Path,
        where: str,
        capabilities: frozenset[str] = frozenset({GRADIENTS, LAYERS}),
    ) -> Classifier:
        """Make a classifier of a module, or replace what is said here of a classifier that is one already.

        Parameters
        ----------
        made
            The module or classifier.
        base
            Folder that the path of the class names is relative to.
        where
            What describes it, for messages.
        capabilities
            What can be asked of a bare module.

        Raises
        ------
        ModelError
            When the size of a bare module is not given, or the class names cannot be read.
        """
        given = self.model_fields_set
        classes = read_classes(base / self.classes, where) if isinstance(self.classes, str) else self.classes
        size = _pair(self.size) if isinstance(self.size, list) else self.size
        if isinstance(made, Classifier):
            known = made.preprocessing
            return Classifier(
                made.module,
                size=size or known.size,
                mean=self.mean or known.mean,
                std=self.std or known.std,
                interpolation=self.interpolation if "interpolation" in given else known.interpolation,
                fit=self.fit if "fit" in given else known.fit,
                crop=self.crop if "crop" in given else known.crop,
                classes=classes or made.classes,
                name=made.name,
                layer=self.layer or made.layer,
                token_grid=_pair(self.token_grid) or made.token_grid,
                capabilities=made.capabilities,
                fixed_batch=made.fixed_batch,
            )
        if size is None:
            raise ModelError(f"{where} does not give 'size': {EXPECTED['size']}.")
        if self.mean is None and self.std is None:
            _warn_of_raw_pixels(where)
        return Classifier(
            made,
            size=size,
            mean=self.mean or (0.0, 0.0, 0.0),
            std=self.std or (1.0, 1.0, 1.0),
            interpolation=self.interpolation,
            fit=self.fit,
            crop=self.crop,
            classes=classes,
            layer=self.layer,
            token_grid=_pair(self.token_grid),
            capabilities=capabilities,
        )


def _warn_of_raw_pixels(where: str) -> None:
    warnings.warn(
        f"{where} gives neither 'mean' nor 'std': the model gets pixels between 0 and 1 as they are. Where that is "
        "meant, write mean = [0, 0, 0] and std = [1, 1, 1].",
        SalienceWarning,
        stacklevel=4,
    )


def _pair(values: list[int] | None) -> tuple[int, int] | None:
    return None if values is None else (values[0], values[1])


D = TypeVar("D", bound=Description)


def validated(kind: type[D], values: Mapping[str, Any], where: str) -> D:
    """Check ``values`` against a description.

    Raises
    ------
    ModelError
        For every key that is unknown or has an unusable value: what was given, what is expected.
    """
    try:
        return kind.model_validate(dict(values))
    except ValidationError as error:
        keys = dict.fromkeys(str(e["loc"][0]) for e in error.errors() if e["loc"])
        problems = [_problem(key, values, kind) for key in keys] or [e["msg"] for e in error.errors()]
        raise ModelError(f"{where}: {' '.join(problems)}") from None


def _problem(key: str, values: Mapping[str, Any], kind: type[Description]) -> str:
    if key not in kind.model_fields:
        return f"unknown key {key!r}.{nearest(key, kind.model_fields)} Known keys: {', '.join(kind.model_fields)}."
    if key not in values:
        return f"{key!r} is not given; {EXPECTED[key]}."
    given = values[key]
    count = f" ({len(given)} values)" if isinstance(given, list) else ""
    return f"{key!r} is {_short(given)}{count}; {EXPECTED[key]}."


def _short(value: Any, limit: int = 80) -> str:
    text = repr(value)
    return text if len(text) <= limit else f"{text[:limit]}..."


def from_options(options: Mapping[str, str], where: str) -> Description:
    """Read a description from the options of a spec: ``size=224x192``, ``mean=0.5,0.5,0.5``, ``crop=0.9``.

    Raises
    ------
    ModelError
        When a value is unusable.
    """
    return validated(Description, parse_options(options), where)


def parse_options(options: Mapping[str, str]) -> dict[str, Any]:
    """Turn the options of a spec into the values that a card would hold."""
    return {key: _parsed(key, text) for key, text in options.items()}


def _parsed(key: str, text: str) -> Any:
    """Turn an option's text into what a card would hold; text that makes no sense stays, and is refused later."""
    try:
        if key == "size" and text.isdecimal():
            return int(text)
        if key in ("size", "token_grid"):
            return [int(part) for part in text.replace("x", ",").split(",")]
        if key in ("mean", "std"):
            values = [float(part) for part in text.split(",")]
            return values * 3 if len(values) == 1 else values
        return float(text) if key == "crop" else text
    except ValueError:
        return text


def read_classes(path: Path, where: str) -> list[str]:
    """Read class names from a ``.json`` list or the lines of a ``.txt`` file.

    Raises
    ------
    ModelError
        When the file is missing, of another kind, or does not hold at least two names.
    """
    suffix = path.suffix.lower()
    if suffix not in (".json", ".txt"):
        raise ModelError(f"{where}: 'classes' is {str(path)!r}; {EXPECTED['classes']}.")
    try:
        text = path.read_text(encoding="utf-8")
        names = json.loads(text) if suffix == ".json" else [line.strip() for line in text.strip().splitlines()]
    except (OSError, ValueError) as error:
        raise ModelError(f"{where}: the class names {str(path)!r} cannot be read: {error}.") from error
    if not isinstance(names, list) or len(names) < 2 or not all(isinstance(n, str) for n in names):
        raise ModelError(f"{where}: {str(path)!r} does not hold class names; {EXPECTED['classes']}.")
    return names
