"""Where a classifier came from, so that another process can load the same one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from salience.models.classifier import Classifier


@dataclass(frozen=True)
class Origin:
    """What :func:`~salience.models.loading.load_model` was given.

    Attributes
    ----------
    spec
        The spec, with whatever a URL carries.
    name, layer, card
        As they were resolved.
    then
        What was made of the model since; it can be pickled, and two of them that are equal make the same.
    """

    spec: str
    name: str
    layer: str | None = None
    card: str | None = None
    then: Callable[[Classifier], Classifier] | None = None
