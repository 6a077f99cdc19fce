"""What ``run.json`` must hold so that it can be read: checked once, when a run is opened.

Everything else in it may be there or not; a reader takes it with a default. Names that become parts of paths, and what
follows a slash in them, begin with no dot and no other slash, so that a run directory from elsewhere cannot lead a
reader out of itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from salience.errors import RunError
from salience.store.place import Place

Name = Annotated[str, Field(pattern=r"^[^/.\\\x00]([^/\\\x00]|/[^/.\\\x00])*$")]
Count = Annotated[int, Field(ge=1, le=2**40)]
Side = Annotated[int, Field(ge=1, le=2**20)]


class _Loose(BaseModel):
    """Checks the keys that it names, strictly, and leaves the others alone."""

    model_config = ConfigDict(extra="allow", strict=True)


class _Preprocessing(_Loose):
    size: Annotated[list[Side], Field(min_length=2, max_length=2)]


class _Plan(_Loose):
    batch: int = 0
    memory_format: str = ""
    threads: int = 0
    device: str = ""
    attention: str = ""
    exact: bool = True


class _Last(_Loose):
    computed: int = 0
    reused: int = 0
    failures: int = 0
    seconds: int | float = 0.0
    forward_calls: int = 0
    backward_calls: int = 0


class _Model(_Loose):
    preprocessing: _Preprocessing
    classes: list[str]
    fingerprint: str = ""
    spec: str = ""
    architecture: str = ""
    parameters: int = 0
    plan: _Plan = _Plan()
    capabilities: list[str] = []
    queries: int = 0


class _Recipe(_Loose):
    model: Name
    method: str
    signed: bool
    map_dtype: Literal["float16", "float32"]
    per_shard: Count
    grid: Annotated[list[Side], Field(min_length=2, max_length=2)] | None = None
    name: str = ""
    summary: str = ""
    family: str = ""
    reference: str = ""
    target: str = ""
    output: str | None = None
    settings: dict[str, Any] = {}
    weights: str = ""


class _StageRecipe(_Loose):
    model: str = ""
    method: str = ""
    metric: str = ""
    background: str | None = None


class _Stage(_Loose):
    current: list[str] = []
    recipes: dict[str, _StageRecipe] = {}
    metrics: dict[str, dict[str, Any]] = {}
    methods: dict[str, dict[str, Any]] = {}
    settings: dict[str, Any] = {}
    plans: dict[str, _Plan] = {}


class _Images(_Loose):
    source: str
    kind: str = ""
    count: int = 0
    limit: int | None = None
    shard: str | None = None


class _Run(_Loose):
    kind: str
    images: _Images
    models: dict[Name, _Model]
    recipes: dict[Name, _Recipe]
    current: list[str]
    status: Literal["running", "complete", "interrupted", "failed"] = "running"
    created: str = ""
    updated: str = ""
    seconds: int | float = 0.0
    labels_of: str | None = None
    settings: dict[str, Any] = {}
    command: list[str] = []
    directory: str = ""
    environment: dict[str, Any] = {}
    last: dict[str, _Last] = {}
    stages: dict[Name, _Stage] = {}


def check_info(info: dict[str, Any], path: Place) -> None:
    """Check a description of the version that this salience writes.

    Raises
    ------
    RunError
        When something is missing or of another kind; the message names it.
    """
    try:
        run = _Run.model_validate(info)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise _damaged(path, f"{place}: {first['msg']}") from None
    named: list[tuple[str, list[str], Mapping[str, object]]] = [
        ("recipes", run.current, run.recipes),
        ("models", [r.model for r in run.recipes.values()], run.models),
        *((f"stages.{n}.recipes", s.current, s.recipes) for n, s in run.stages.items()),
    ]
    for what, names, known in named:
        missing = [name for name in names if name not in known]
        if missing:
            raise _damaged(path, f"{what} has no {missing[0]!r}, which another entry names")


def _damaged(path: Place, what: str) -> RunError:
    return RunError(f"{path} cannot be used: {what}. The run directory is damaged; restore it or start another.")
