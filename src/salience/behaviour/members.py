"""Who is audited: models by group, each with a name of its own, loaded one at a time."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path

import torch

from salience.errors import SettingsError
from salience.models.classifier import Classifier
from salience.models.loading import load_model
from salience.models.registry import check_name, make_name, split_name

Model = Classifier | str | PathLike[str]
Models = Model | Sequence[Model] | Mapping[str, Sequence[Model]]


@dataclass(frozen=True, eq=False)
class Member:
    """One model of a group: what it is called, and the model or what loads it."""

    name: str
    group: str
    given: Classifier | str


@dataclass(frozen=True)
class Loading:
    """How specs are loaded; see :func:`~salience.models.loading.load_model`."""

    device: str = "auto"
    card: str | PathLike[str] | None = None
    rate: str | float | None = None


def parse_models(models: Models) -> tuple[Member, ...]:
    """Return who is audited.

    A model of a group is called ``GROUP-FILE``, or ``FILE`` where that begins with the group's name; one that is a
    group by itself ``FILE``. ``NAME=SPEC`` names it.

    Raises
    ------
    SettingsError
        When there is no model, a group is empty, or two models have one name.
    ModelError
        When a group has a name that files cannot have.
    """
    if isinstance(models, Mapping):
        groups = {check_name(str(group)): _several(members) for group, members in models.items()}
        found = [member for group, members in groups.items() for member in _group(group, members)]
    else:
        found = [Member(name, name, given) for name, given in _named(_several(models))]
        groups = {member.group: [member.given] for member in found}
    for group, members in groups.items():
        if not members:
            raise SettingsError(f"The group {group!r} has no models.")
    if not found:
        raise SettingsError("There are no models: give one, or groups of them.")
    names = [member.name for member in found]
    for name in names:
        if names.count(name) > 1:
            raise SettingsError(f"Two models are called {name!r}. Name them: first=CARD, second=CARD.")
    return tuple(found)


def name_of(spec: str) -> str:
    """Return what a model is called that is a group by itself."""
    return _name(spec, 0)[0]


def _several(models: Model | Sequence[Model]) -> list[Classifier | str]:
    some = [models] if isinstance(models, (Classifier, str, PathLike)) else list(models)
    return [m if isinstance(m, Classifier) else fspath(m) for m in some]


def _group(group: str, models: Sequence[Classifier | str]) -> Iterator[Member]:
    for name, given in _named(models):
        yield Member(name if name.startswith(group) else f"{group}-{name}", group, given)


def _named(models: Sequence[Classifier | str]) -> list[tuple[str, Classifier | str]]:
    """Name models by their files, and by the files' folders too where files of several folders have one name.

    What has one name even then is numbered, but for names that were given.
    """
    for parents in (0, 1, 2):
        found = [_name(model, parents) for model in models]
        if len({name for name, _ in found}) == len(found):
            return found
    seen: Counter[str] = Counter()
    out = []
    for model in models:
        name, given = _name(model, 0)
        seen[name] += 1
        own = isinstance(model, Classifier) or split_name(model)[0] is not None
        out.append((name if own or seen[name] == 1 else f"{name}-{seen[name]}", given))
    return out


def _name(model: Classifier | str, parents: int) -> tuple[str, Classifier | str]:
    if isinstance(model, Classifier):
        return model.name, model
    given, spec = split_name(model)
    if given is not None:
        return given, spec
    if not spec.lower().endswith(".toml"):
        return make_name(spec.partition("?")[0].rpartition(":")[2] or spec), spec
    path = Path(spec).absolute()
    above = [folder.name for folder in path.parents[:parents]][::-1]
    return make_name("-".join([*above, path.stem])), spec


@contextmanager
def opened(member: Member, how: Loading) -> Iterator[Classifier]:
    """Load a model, under its name, for as long as the body works; what was given as an object stays as it was.

    Its weights, which nothing changes meanwhile, are hashed once.
    """
    classifier = (
        load_model(member.given, name=member.name, device=how.device, card=how.card, rate=how.rate)
        if isinstance(member.given, str)
        else member.given
    )
    before, fingerprint = classifier.name, classifier.fingerprint()
    vars(classifier)["fingerprint"] = lambda: fingerprint
    classifier.name = member.name
    try:
        yield classifier
    finally:
        classifier.name = before
        vars(classifier).pop("fingerprint", None)


def let_go() -> None:
    """Free what a model took that nothing refers to any more."""
    gc.collect()  # modules and hooks refer to one another
    torch.cuda.empty_cache()
