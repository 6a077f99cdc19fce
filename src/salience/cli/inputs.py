"""From what was typed to what the public functions take. Nothing heavy is imported before a verb runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from salience.errors import SettingsError

if TYPE_CHECKING:
    from salience.engine.crew import Crew
    from salience.explaining import RunSettings
    from salience.models.classifier import Classifier
    from salience.store.place import Place


def split(values: list[str]) -> list[str]:
    """Return the parts of repeated and comma-separated options."""
    return [part.strip() for value in values for part in value.split(",") if part.strip()]


def load(models: list[str], device: str, card: Path | None, rate: str | None) -> list[Classifier]:
    """Load the models of a command."""
    from salience.engine.allocator import keep_freed_memory
    from salience.models.loading import load_models

    keep_freed_memory()
    return load_models(models, device=device, card=card, rate=rate)


def settings(
    batch: int | None,
    threads: int | None,
    memory_format: str | None,
    precision: str,
    unit_images: int | None = None,
    crew: Crew | None = None,
) -> RunSettings:
    """Return how the job is run, as the options say."""
    from salience.explaining import RunSettings

    if memory_format not in (None, "channels_last", "contiguous"):
        raise SettingsError(f"--memory-format is {memory_format!r}; choose channels_last or contiguous.")
    if precision not in ("float32", "bfloat16", "auto"):
        raise SettingsError(f"--precision is {precision!r}; choose float32, bfloat16 or auto.")
    return RunSettings(
        batch=batch,
        threads=threads,
        memory_format=memory_format,  # type: ignore[arg-type]  # checked above
        unit_images=unit_images,
        crew=crew,
        precision=precision,  # type: ignore[arg-type]  # checked above
    )


def crew_of(engine: str, workers: int | None, address: str, gpus: float) -> Crew | None:
    """Return who does the work, None where it is this process."""
    from salience.engine.crew import Crew

    if engine == "local" and workers is None:
        if address != "local" or gpus:
            raise SettingsError("--address and --gpus-per-worker belong to --engine ray.")
        return None
    return Crew(engine, workers or 1, address, gpus)  # type: ignore[arg-type]  # checked by Crew itself


def columns_of(pairs: list[str] | None) -> dict[str, str] | None:
    """Return which column of a manifest has which role, from ROLE=COLUMN."""
    if not pairs:
        return None
    columns = {}
    for pair in pairs:
        role, equals, name = pair.partition("=")
        if not equals or not role or not name:
            raise SettingsError(f"--column is {pair!r}; write ROLE=COLUMN, e.g. label=wnid.")
        columns[role.strip()] = name.strip()
    return columns


def write_page(run: str, out: str | None = None) -> Place:
    """Write the page of a run, into the run or another folder."""
    from salience.progress import busy
    from salience.report import write_report

    with busy("writing the page"):
        return write_report(run, out)
