"""Where a classifier came from, so that another process can load the same one."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Origin:
    """What :func:`~salience.models.loading.load_model` was given.

    Attributes
    ----------
    spec
        The spec, with whatever a URL carries.
    name, layer, card
        As they were resolved.
    """

    spec: str
    name: str
    layer: str | None = None
    card: str | None = None
