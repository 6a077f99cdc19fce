"""What a reader of a comparison must know: what is missing, what is assumed, what was not tested."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pyarrow.compute as pc

from salience.store.run import Run

_GAP = 0.05
"""Share of the scalar's change that a map may miss before it is told of."""


def adds_up(run: Run, recipes: Mapping[str, str]) -> bool:
    """Tell whether the maps of all models come with the change of the scalar that they add up to.

    ``recipes`` are those of the maps, by model.
    """
    rows = run.table("diagnostics")
    rows = rows.filter(pc.equal(rows["name"], "output_change"))
    return set(recipes.values()) <= set(rows["recipe"].unique().to_pylist())


def of_maps(run: Run, recipes: Mapping[str, str], method: str, images: Iterable[str]) -> list[str]:
    """Say that there is no ledger, or of how many images maps miss too much of the scalar's change."""
    if not adds_up(run, recipes):
        return [f"Maps of {method!r} do not add up to the change of the scalar: there is no ledger."]
    rows, compared = run.table("diagnostics").to_pylist(), set(images)
    notes = []
    for model, recipe in recipes.items():
        own = [r for r in rows if r["recipe"] == recipe and r["image_id"] in compared]
        change = {r["image_id"]: r["value"] for r in own if r["name"] == "output_change"}
        gap = {r["image_id"]: r["value"] for r in own if r["name"] == "completeness_gap"}
        wide = [i for i, g in gap.items() if i in change and abs(g) > _GAP * abs(change[i])]
        if wide:
            notes.append(
                f"Maps of {model!r} miss more than {_GAP:.0%} of the change of the scalar on {len(wide)} of {len(gap)} "
                f"images: more steps on the path than {method} takes narrow the gap."
            )
    return notes


def of_images(asked: int, compared: int) -> list[str]:
    """Say how many images are left out."""
    lost = asked - compared
    return [f"{lost} of {asked} images could not be compared and are left out."] if lost else []


def of_concepts(count: int, tested: int, *, described: bool) -> list[str]:
    """Say what makes segments alike, where no encoder does (``described``), and how many concepts were not tested."""
    notes = []
    if described:
        notes.append(
            "Segments are alike by colour and texture, for no encoder was given; one that knows objects (--encoder) "
            "makes concepts of objects."
        )
    if tested < count:
        notes.append(f"{count - tested} of {count} concepts were not tested by changing their pixels.")
    return notes
