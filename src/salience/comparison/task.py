"""What is asked of compared models: in one label space, the same class and scalar of every image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from salience.comparison.label_spaces import SAME_ORDER, in_classes_of
from salience.comparison.strata import read_class_map
from salience.data.base import ImageSource
from salience.data.labels import resolve_labels
from salience.engine.scalars import Output, check_output
from salience.engine.targets import Target, parse_target
from salience.errors import SettingsError
from salience.methods.registry import parse_method
from salience.models.classifier import Classifier

ClassMap = str | Path | Mapping[str, Mapping[str, str]]
"""A CSV file, what it holds, or ``same-order``."""


@dataclass(frozen=True)
class Task:
    """Models in one label space, and what is explained in all of them.

    Attributes
    ----------
    models
        The reference first; the others answer in its classes.
    lacking
        By name: classes of the reference that a model does not have.
    target
        ``label``, ``predicted`` (by the reference) or a class.
    method
        Label of the method.
    labels
        True class by image id, of the images that have one.
    notes
        What was assumed.
    """

    models: tuple[Classifier, ...]
    lacking: Mapping[str, frozenset[int]]
    target: Target
    output: Output
    method: str
    labels: Mapping[str, int]
    notes: tuple[str, ...] = ()

    @property
    def alike(self) -> list[Classifier]:
        """The models that the target itself can be asked of: it names a class that they have."""
        reference, *others = self.models
        if self.target.kind == "predicted":
            return [reference]
        return [reference, *(m for m in others if not self.lacking[m.name])]

    def given(self, model: Classifier, source: ImageSource, predicted: Mapping[str, int]) -> dict[str, int]:
        """Return the class of each image to explain in one of the other models, without those that it lacks.

        ``predicted`` is what the reference predicts, by image id.
        """
        classes = dict(predicted if self.target.kind == "predicted" else self.labels)
        if self.target.kind == "class":
            classes = {ref.image_id: self.target.index for ref in source.refs}
        return {i: c for i, c in classes.items() if c not in self.lacking[model.name]}


def make_task(
    models: Sequence[Classifier],
    source: ImageSource,
    *,
    target: str | int | None,
    output: str,
    method: str,
    class_map: ClassMap | None,
) -> Task:
    """Resolve what is asked; mistakes are told before any work begins.

    Parameters
    ----------
    target
        None: the label where every image has one, else what the reference predicts.

    Raises
    ------
    SettingsError
        When label spaces cannot be matched, or the target is not one class of each image that all models have.
    MethodError
        When there is no such method.
    """
    reference, *rest = models
    pairs = _read_class_map(class_map, rest)
    found = [in_classes_of(reference, m, pairs) for m in rest]
    lacking = {m.name: lack for m, lack in found}
    values = resolve_labels(
        source.refs, source.label_names, reference.classes, reference.num_classes, titles=source.titles
    ).values
    labels = {ref.image_id: v for ref, v in zip(source.refs, values, strict=True) if v is not None}
    notes = []
    if target is None:
        target = "label" if len(labels) == len(source) else "predicted"
        if 0 < len(labels) < len(source):
            notes.append(
                f"{len(source) - len(labels)} of {len(source)} images have no label, so what {reference.name!r} "
                "predicts is explained of all of them."
            )
    rule = parse_target(target, reference.class_names)
    if rule.kind not in ("label", "predicted", "class"):
        raise SettingsError(
            f"The target is {target!r}; one class of each image is compared: label, predicted or class:K."
        )
    for name, lack in lacking.items():
        if rule.kind == "class" and rule.index in lack:
            raise SettingsError(
                f"Model {name!r} has no class {reference.class_names[rule.index]!r}: there is nothing to explain."
            )
    everyone = (reference, *(m for m, _ in found))
    return Task(everyone, lacking, rule, check_output(output), parse_method(method).label, labels, tuple(notes))


def _read_class_map(
    class_map: ClassMap | None, others: Sequence[Classifier]
) -> Mapping[str, Mapping[str, str]] | str | None:
    if class_map is None or class_map == SAME_ORDER:
        return None if class_map is None else SAME_ORDER
    pairs = read_class_map(class_map) if isinstance(class_map, (str, Path)) else class_map
    unknown = sorted(set(pairs) - {m.name for m in others})
    if unknown:
        raise SettingsError(
            f"The class map is of {', '.join(map(repr, unknown))}; the models that are compared with the reference are "
            f"{', '.join(repr(m.name) for m in others) or 'none'}."
        )
    return pairs
