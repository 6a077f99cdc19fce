"""The page of a comparison, put together: everything that its template and its script are given."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from salience.comparison.result import Comparison
from salience.report import gather as maps
from salience.report import view, words
from salience.report.bundles import Bundles
from salience.report.comparison import wording
from salience.report.comparison.boards import (
    STATES,
    Forest,
    Heat,
    ScatterView,
    forests,
    heat,
    matrix,
    scatter_view,
)
from salience.report.comparison.cards import Card, card
from salience.report.comparison.drawing import Drawing, payload
from salience.report.comparison.findings import Findings, findings
from salience.report.comparison.ledgers import LedgerView, ledgers
from salience.report.comparison.material import Material, gather
from salience.report.comparison.overview import Overview, overview
from salience.report.comparison.sentences import SCALARS, Verdict, verdict
from salience.report.frame import STYLES, Links, render
from salience.report.payload import safe_json

SCRIPTS = ("dom.js", "page.js", "choices.js", "pictures.js", "comparison.js", "comparison-image.js")

SCATTER_SIDE = 420.0


@dataclass(frozen=True)
class Part:
    """What the page says of one model against the reference, or of one model alone."""

    model: str
    verdict: Verdict
    overview: Overview
    hero: Card | None
    forests: list[Forest]
    cards: list[Card]
    scatter: ScatterView | None
    heat: Heat | None
    ledgers: list[LedgerView]


def render_comparison(comparison: Comparison, bundles: Bundles, links: Links = ()) -> str:
    """Return the HTML of the page of a comparison.

    Parameters
    ----------
    comparison
        What it shows.
    bundles
        Where the pictures of patches and images go.
    links
        The pages of the run.
    """
    material = gather(comparison)
    found = findings(comparison)
    parts = [_part(material, f) for f in found]
    drawing = Drawing(material, bundles)
    drawing.draw([p.cards for p in parts])
    return render(
        "comparison.html.j2",
        styles=(*STYLES, "page.css", "trust.css", "comparison.css"),
        scripts=SCRIPTS,
        links=links,
        files=bundles.files,
        payload=safe_json(payload(material, drawing, parts[0].hero if parts else None)),
        pictures=safe_json(bundles.inline),
        parts_of_run=parts,
        part_options=[(i, p.model) for i, p in enumerate(parts)],
        several=len(parts) > 1,
        reference=comparison.reference,
        alone=comparison.alone,
        scalar=SCALARS.get(str(comparison.settings["output"]), "scalar"),
        matrix=matrix(material, found),
        places=drawing.concept_places,
        opened={e["image"] for e in drawing.entries},
        lost=drawing.missing,
        states=STATES,
        images=len(material.pictures),
        shown_images=len(drawing.entries),
        concepts=[(n, material.names[n].title) for n in sorted(material.names)],
        reading=reading(material, found),
        notes=comparison.notes,
        headline=parts[0].verdict.title if parts else "Nothing was compared",
        **_made(comparison),
    )


def _part(material: Material, found: Findings) -> Part:
    """Return one model's part; its cards stand in the order in which its effects lead."""
    order = [e.concept for e in found.leads()]
    order += [n for n in sorted(material.names) if n not in set(order)]
    cards = [card(material, found, n) for n in order]
    return Part(
        found.model,
        verdict(material, found),
        overview(material, found.model),
        cards[0] if cards else None,
        forests(material, found),
        cards,
        scatter_view(material, found, SCATTER_SIDE),
        heat(material, found),
        ledgers(material, found),
    )


ALIKE = {
    "color": "by colour and texture, since no encoder was given: concepts that differ in meaning but not in looks fall "
    "together",
    "place": "by where they lie, whatever they show: concepts are regions of the image, and mean something only where "
    "images are aligned",
}
"""What makes segments alike, for encoders that are no models."""


def reading(material: Material, found: Sequence[Findings]) -> list[tuple[str, str]]:
    """Return what a reader must know before believing the page: titles and sentences."""
    c = material.comparison
    encoder = str(c.settings["encoder"])
    by = ALIKE.get(encoder) or (
        f"by the encoder {encoder}, which is neither of the models: another encoder would draw other lines"
    )
    told = [
        (
            "Attribution is not causation.",
            "A map says what a method books on pixels, not what would happen without them. Only where changing the "
            "pixels agrees in sign, beyond chance, is a concept called confirmed here, and even a change makes an "
            "image that no camera took.",
        ),
        (
            "Another baseline, other numbers.",
            f"The maps are of {c.settings['method']}. Attributions tell a change from a baseline, so what looks like "
            "the baseline gets little whatever the model thinks of it.",
        ),
        ("Concepts are clusters.", f"Segments were put together {by}. Look at the patches before you name one."),
        ("Small classes are underpowered.", _power(found)),
    ]
    if not c.has_ledger:
        told.append(
            (
                "There is no ledger.",
                f"Maps of {c.settings['method']} do not add up to the change of the scalar, so the prediction cannot "
                "be booked by concept. Compare with integrated gradients for that.",
            )
        )
    return told


def _power(found: Sequence[Findings]) -> str:
    cells = [e for f in found for e in f.effects if e.family == "direction"]
    few = sum(not e.tested for e in cells)
    able = [e for e in cells if math.isfinite(e.detectable) and e.tested]
    told = "Cells of fewer than 30 independent images are not tested at all. "
    if few:
        told = (
            f"{few:,} of {words.count(len(cells), 'cell')} have fewer than 30 independent images and are not tested. "
        )
    if able:
        least, most = (100 * f(e.detectable for e in able) for f in (min, max))
        told += (
            f"In the others, the smallest difference that would be found with power 0.8 is between "
            f"{wording.least(least)} and {wording.least(most)} points; each row of effects says its own. "
        )
    return told + "What is not shown here may still be there."


def _made(comparison: Comparison) -> dict[str, Any]:
    """Return how the run was made, for ``made.html.j2``, the failures and the footer."""
    material = maps.gather(comparison.run)
    info = comparison.run.info
    return {
        "version": info.get("environment", {}).get("salience") or "",
        "created": str(info.get("created", ""))[:10],
        "notice": view.notice(material),
        "command": [shlex.quote(str(word)) for word in info.get("command") or []],
        "facts": [*view.facts(material), ("Comparison", _facts(comparison))],
        "method_rows": view.method_rows([c for p in material.parts for c in p.columns]),
        "failures": material.failures,
        "failed_images": material.images,
    }


def _facts(comparison: Comparison) -> list[tuple[str, str]]:
    settings = comparison.settings
    rows = [
        ("reference", "" if comparison.alone else comparison.reference),
        ("explained", words.target(str(settings["target"]), comparison.classes)),
        ("scalar", SCALARS.get(str(settings["output"]), str(settings["output"]))),
        ("segments", str(settings["partition"])),
        ("encoder", str(settings["encoder"])),
        ("concepts", str(len(comparison.concepts))),
        ("units", "groups of images" if settings.get("group_by") else "images"),
        ("fills", ", ".join(settings.get("fills") or [])),
        ("seed", str(settings["seed"])),
        ("intervals", "95 %, bias-corrected and accelerated bootstrap by unit"),
        ("tests", "sign flips by unit; Benjamini-Hochberg over a family"),
    ]
    return [(name, value) for name, value in rows if value]
