"""The one place where adapters are registered, and the grammar of a model spec.

An adapter turns what stands behind its prefix into a :class:`~salience.models.classifier.Classifier`. It is one
function in one file of the package ``salience.models.adapters``; every file there is found by itself. Neither this
module nor those files import torch or an optional package before a model is loaded, so listing them is fast.

    [NAME=]PREFIX:TARGET[?option=value&option=value]
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from salience.errors import ModelError, nearest

if TYPE_CHECKING:
    import torch

    from salience.models.classifier import Classifier

NAME = re.compile(r"[A-Za-z0-9_.-]+")


@dataclass(frozen=True)
class Request:
    """What an adapter is asked for.

    Attributes
    ----------
    spec
        The whole spec, for messages.
    target
        What stands behind the prefix: a model's name, an identifier or a path.
    options
        The options behind ``?``; only those that the adapter declares get here.
    device
        Where the model will run. The loader moves it there; only programs that are tied to a device need to know.
    base
        Folder that a path in the spec is relative to: a card's own where the card names the model.
    card
        The card that describes a model that carries no description; only for adapters that say ``takes_card``.
    """

    spec: str
    target: str
    device: torch.device
    options: Mapping[str, str] = field(default_factory=dict)
    base: Path = Path()
    card: Path | None = None

    @property
    def path(self) -> Path:
        """The target as a path."""
        return self.base / Path(self.target).expanduser()

    def flag(self, key: str, default: bool) -> bool:
        """Read an option that is true or false."""
        text = self.options.get(key)
        if text is None:
            return default
        if text.lower() in ("true", "1", "yes"):
            return True
        if text.lower() in ("false", "0", "no"):
            return False
        raise ModelError(f"Model {self.spec!r}: the option {key!r} is {text!r}; write {key}=true or {key}=false.")

    def count(self, key: str) -> int | None:
        """Read an option that is a positive whole number."""
        text = self.options.get(key)
        if text is None:
            return None
        if not text.isdecimal() or int(text) < 1:
            raise ModelError(f"Model {self.spec!r}: the option {key!r} is {text!r}; a positive whole number is needed.")
        return int(text)


Load = Callable[[Request], "Classifier"]


@dataclass(frozen=True)
class Adapter:
    """One way to load models, as it registered itself.

    ``requires`` is the package it needs, if any, and ``extra`` what installs it; ``options`` maps each option's name to
    what it means. ``takes_card`` says that a card can describe what it loads, ``whole`` that a spec is not split at
    ``?``: its target is the spec itself.
    """

    prefix: str
    summary: str
    example: str
    load: Load
    requires: str | None = None
    options: Mapping[str, str] = field(default_factory=dict)
    extra: str | None = None
    takes_card: bool = False
    whole: bool = False


class AdapterRow(NamedTuple):
    """One row of the table of adapters."""

    prefix: str
    summary: str
    example: str
    installed: bool


_ADAPTERS: dict[str, Adapter] = {}


def adapter(
    prefix: str,
    *,
    summary: str,
    example: str,
    requires: str | None = None,
    options: Mapping[str, str] | None = None,
    extra: str | None = None,
    takes_card: bool = False,
    whole: bool = False,
) -> Callable[[Load], Load]:
    """Register the decorated function as the adapter of ``prefix``.

    Parameters
    ----------
    prefix
        What stands before the colon of a spec.
    summary, example
        One line and one spec, for the table of adapters.
    requires
        Package that must be installed.
    options
        Options that may stand behind ``?``, with their meaning.
    extra
        The extra that installs it; by default the one of the package's name.
    takes_card
        Whether a card (``--card``, or ``model = "PREFIX:TARGET"`` in it) can describe the model.
    whole
        Whether the spec is handed over whole, as URLs need it.
    """

    def register(load: Load) -> Load:
        known = _ADAPTERS.get(prefix)
        if known is not None and known.load.__module__ != load.__module__:
            raise ModelError(
                f"The prefix {prefix!r} is taken by the adapter in {known.load.__module__}; choose another."
            )
        _ADAPTERS[prefix] = Adapter(
            prefix, summary, example, load, requires, dict(options or {}), extra or requires, takes_card, whole
        )
        return load

    return register


def adapters() -> dict[str, Adapter]:
    """Return every adapter by prefix, after importing all files of the package ``adapters``."""
    from salience.models import adapters as home

    for module in pkgutil.iter_modules(home.__path__):
        importlib.import_module(f"{home.__name__}.{module.name}")
    return _ADAPTERS


def list_adapters() -> list[AdapterRow]:
    """List every way to load a model: prefix, summary, an example, and whether what it needs is installed.

    Neither torch nor the optional packages are imported.
    """
    return [
        AdapterRow(a.prefix, a.summary, a.example, a.requires is None or is_installed(a.requires))
        for a in adapters().values()
    ]


def is_installed(package: str) -> bool:
    """Tell whether a package can be found, without importing it."""
    try:
        return importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):
        return False


# ---------------------------------------------------------------------- the grammar of a spec


def split_name(text: str) -> tuple[str | None, str]:
    """Split ``NAME=SPEC`` into name and spec; the name is None where there is none.

    Raises
    ------
    ModelError
        When what stands before ``=`` is meant as a name but cannot be one.
    """
    name, equals, spec = text.partition("=")
    if not equals or any(mark in name for mark in ":?/\\"):  # the sign belongs to an option or to a path
        return None, text
    if not spec:
        raise ModelError(f"Model {text!r} has nothing behind '='; write NAME=SPEC, e.g. {name or 'mine'}=card.toml.")
    return check_name(name), spec


def check_name(name: str) -> str:
    """Return ``name`` when it can name a model in tables, files and on the page.

    Raises
    ------
    ModelError
        When it holds anything but letters, digits and ``_ . -``.
    """
    if not NAME.fullmatch(name) or set(name) == {"."}:
        raise ModelError(f"{name!r} cannot name a model: use letters, digits, '_', '.' and '-', e.g. 'resnet-50'.")
    return name


def redacted(text: str) -> str:
    """Take user name and password out of every URL in ``text``."""
    return re.sub(r"(https?://)[^/?#@\s]*@", r"\1", text)


def make_name(text: str) -> str:
    """Turn any text into a name that :func:`check_name` accepts."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", text).strip("-.") or "model"


def parse_spec(spec: str) -> tuple[Adapter, str, dict[str, str]]:
    """Find the adapter of a spec, its target and its options.

    Raises
    ------
    ModelError
        When there is no such adapter or option, or what the adapter needs is not installed.
    """
    known = adapters()
    prefix, colon, rest = spec.partition(":")
    if colon and prefix in known:
        found, rest = known[prefix], rest
    elif spec.lower().endswith(".toml"):
        return known["card"], spec, {}
    elif _FACTORY.fullmatch(spec.partition("?")[0]):
        found, rest = known["python"], spec
    else:
        raise ModelError(_unknown(spec, known))
    target, options = (spec, {}) if found.whole else _split_options(rest)
    if not target or not rest:
        raise ModelError(f"Model {spec!r} names nothing behind '{prefix}:'; write for example {found.example}.")
    for key in options:
        if key not in found.options:
            listed = "; ".join(f"{k} ({meaning})" for k, meaning in found.options.items()) or "none"
            raise ModelError(
                f"Model {spec!r} has the unknown option {key!r}.{nearest(key, found.options)} "
                f"Options of {found.prefix}: {listed}."
            )
    if found.requires is not None and not is_installed(found.requires):
        raise ModelError(
            f"Model {spec!r} needs the package {found.requires}, which is not installed: "
            f'pip install "salience[{found.extra}]".'
        )
    return found, target, options


# a dotted module or a file.py, and a dotted attribute of it
_FACTORY = re.compile(r"(?:[^\W\d]\w*(?:\.[^\W\d]\w*)*|.+\.py):[^\W\d]\w*(?:\.[^\W\d]\w*)*")


def _split_options(text: str) -> tuple[str, dict[str, str]]:
    target, mark, query = text.rpartition("?")
    if not mark or "=" not in query:  # a question mark of the path itself
        return text, {}
    pairs = (part.partition("=") for part in query.split("&") if part)
    return target, {key: value for key, _, value in pairs}


def _unknown(spec: str, known: Mapping[str, Adapter]) -> str:
    """Say what a spec that nothing recognises may have been meant as."""
    path, suffix = Path(spec), Path(spec).suffix.lower()
    if suffix == ".py":
        return f"Model {spec!r} is a Python file: say which function makes the model, e.g. '{spec}:build'."
    if suffix == ".pt2":
        return f"Model {spec!r} is an exported program: write 'pt2:{spec}'."
    if suffix in (".safetensors", ".pt", ".pth", ".th", ".bin", ".ckpt"):
        return (
            f"Model {spec!r} holds weights alone. Write a model card (.toml) with 'factory', the function that makes "
            f'the architecture, and weights = "{path.name}".'
        )
    if suffix == ".onnx":
        return f"Model {spec!r} is an ONNX file: write 'onnx:{spec}', with --card for its preprocessing."
    if path.is_dir():
        return f"Model {spec!r} is a folder. Is it one of transformers? Then write 'hf:{spec}'."
    prefix, colon, _ = spec.partition(":")
    ways = ", ".join(a.example for a in known.values())
    if colon:
        return (
            f"Model {spec!r} has the unknown prefix {prefix!r}.{nearest(prefix, known)} Ways to name a model: {ways}."
        )
    return f"Model {spec!r} has no prefix and is no model card (.toml). Ways to name a model: {ways}."


# ---------------------------------------------------------------------- optional packages


@contextmanager
def importing(package: str, extra: str | None = None) -> Iterator[None]:
    """Turn a failing import of an optional package, which ``extra`` installs, into a message that says what to do.

    Raises
    ------
    ModelError
        When the package is missing or broken.
    """
    try:
        yield
    except (ImportError, RuntimeError, OSError) as error:
        cause = str(error).strip().rstrip(".")
        cure = torchvision_cure(error) or f'Reinstall it: pip install "salience[{extra or package}]".'
        raise ModelError(f"The package {package} cannot be imported: {cause}. {cure}") from error


def torchvision_cure(error: BaseException | None) -> str | None:
    """Say what to do when an import failed because torchvision's compiled operators do not fit torch."""
    while error is not None:
        if "torchvision::" in str(error):
            return (
                "The installed torchvision was built for another torch, so its compiled operators are missing. "
                "Install the two that belong together, e.g. for machines without a GPU: pip install --force-reinstall "
                "torch torchvision --index-url https://download.pytorch.org/whl/cpu."
            )
        error = error.__cause__ or error.__context__
    return None
