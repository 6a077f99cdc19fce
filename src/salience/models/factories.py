"""Models made by a function of somebody's own: ``pkg.module:function`` or ``file.py:function``."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from salience.errors import ModelError, SalienceError, nearest
from salience.models.classifier import Classifier
from salience.models.registry import adapters, torchvision_cure

_PREFIX = "salience_factory_"


def make(text: str, base: Path, where: str) -> nn.Module | Classifier:
    """Call the factory that ``text`` names, without arguments, and return what it makes.

    A name that stands for a module or a classifier itself is taken as it is.

    Parameters
    ----------
    text
        ``pkg.module:function`` or ``file.py:function``.
    base
        Folder that a file is relative to, and where packages are looked for besides the installed ones.
    where
        What asked for it, for the message.

    Raises
    ------
    ModelError
        When there is no such function, it raises, or it makes something else.
    """
    home, colon, attribute = text.rpartition(":")
    if not colon or not home or not attribute:
        raise ModelError(f"{where}: factory is {text!r}; write 'file.py:function' or 'package.module:function'.")
    own_file = home.endswith(".py")
    with _on_path((base / home).parent, forget=True) if own_file else _on_path(base):
        module = _run_file(base / home, where) if own_file else _import(home, text, where)
        found = _attribute(module, attribute, text, where)
        if isinstance(found, (nn.Module, Classifier)):
            return found
        if not callable(found):
            raise ModelError(f"{where}: {text!r} is {type(found).__name__}; a function without arguments is needed.")
        try:
            made = found()
        except SalienceError:  # it speaks for itself
            raise
        except Exception as error:
            raise ModelError(f"{where}: the factory {text!r} raised {_told(error)}") from error
    if not isinstance(made, (nn.Module, Classifier)):
        raise ModelError(
            f"{where}: the factory {text!r} returned {type(made).__name__}; "
            "a torch.nn.Module or a salience.Classifier is needed."
        )
    return made


def _told(error: Exception) -> str:
    """Tell an error of foreign code: its kind, its text and the line it came from."""
    frames = traceback.extract_tb(error.__traceback__)
    own = frames and not isinstance(error, SyntaxError)  # which says itself where it is
    place = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if own else ""
    cure = torchvision_cure(error)
    return f"{type(error).__name__}: {error}{place}. {cure or 'Call it by itself in Python to mend it.'}"


def _run_file(path: Path, where: str) -> ModuleType:
    if not path.is_file():
        near = nearest(path.name, [p.name for p in path.parent.glob("*.py")]) if path.parent.is_dir() else ""
        raise ModelError(f"{where}: there is no Python file {str(path)!r}.{near}")
    # named by the file alone: the name is part of a model's fingerprint, which must not change with the folder
    name = f"{_PREFIX}{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ModelError(f"{where}: {str(path)!r} cannot be imported as Python.")
    module = importlib.util.module_from_spec(spec)
    before = sys.modules.get(name)
    sys.modules[name] = module  # dataclasses and typing look a class's module up there
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        if before is not None:
            sys.modules[name] = before
        raise ModelError(f"{where}: the file {str(path)!r} raised {_told(error)}") from error
    return module


def _import(name: str, text: str, where: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or name
        if name == missing or name.startswith(f"{missing}."):
            raise ModelError(
                f"{where}: {text!r} names the Python module {missing!r}, which is not installed and not in the current "
                f"folder.{nearest(name, adapters())}"
            ) from error
        raise ModelError(f"{where}: the module {name!r} raised {_told(error)}") from error
    except Exception as error:
        raise ModelError(f"{where}: the module {name!r} raised {_told(error)}") from error


def _attribute(module: ModuleType, attribute: str, text: str, where: str) -> Any:
    found: Any = module
    for part in attribute.split("."):
        if not hasattr(found, part):
            public = [n for n, v in vars(found).items() if callable(v) and not n.startswith("_")]
            raise ModelError(f"{where}: {text!r} has no {part!r} in it.{nearest(part, public)}")
        found = getattr(found, part)
    return found


_FOLDERS: set[str] = set()
"""Folders that modules of models were imported from by their own name, which they keep."""


@contextmanager
def _on_path(folder: Path, *, forget: bool = False) -> Iterator[None]:
    """Let imports find what stands in ``folder``, as they do when a script is run from there.

    The ``layers.py`` beside one model must not be taken for the ``layers.py`` beside another: modules of other models'
    folders are out of sight meanwhile. ``forget`` drops those of this folder again.
    """
    entry = str(folder.resolve())
    others = _FOLDERS - {entry}
    away = [name for name in sys.modules if _folder_of(name) in others]
    hidden = {name: sys.modules.pop(name) for name in away}
    before = set(sys.modules)
    added = entry not in sys.path
    if added:
        sys.path.insert(0, entry)
    if not forget:
        _FOLDERS.add(entry)
    try:
        yield
    finally:
        if added and entry in sys.path:
            sys.path.remove(entry)
        new = [name for name in sys.modules if name not in before and _folder_of(name) == entry] if forget else []
        for name in new:
            del sys.modules[name]
        sys.modules.update({name: module for name, module in hidden.items() if name not in sys.modules})


def _folder_of(name: str) -> str | None:
    """Return the folder in which an imported module, or the package that it is in, stands."""
    top = sys.modules.get(name.partition(".")[0])
    file = getattr(top, "__file__", None)
    if file is None or name.startswith(_PREFIX):
        return None
    return str(Path(file).parent.parent if hasattr(top, "__path__") else Path(file).parent)
