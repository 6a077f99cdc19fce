"""The page of an audit, put together: everything that its template and its script are given."""

from __future__ import annotations

import shlex
from typing import Any

from salience.behaviour.audit import Audit
from salience.behaviour.reading import audit_failures
from salience.report import gather as maps
from salience.report import view, words
from salience.report.behaviour.gallery import Galleries
from salience.report.behaviour.material import Material
from salience.report.behaviour.overview import overview, verdict
from salience.report.behaviour.sections import sections
from salience.report.bundles import Bundles
from salience.report.frame import STYLES, Links, render
from salience.report.payload import safe_json

SCRIPTS = ("dom.js", "page.js", "pictures.js", "behaviour.js")


def render_audit(audit: Audit, bundles: Bundles, links: Links = ()) -> str:
    """Return the HTML of the page of an audit.

    Parameters
    ----------
    audit
        What it shows.
    bundles
        Where the pictures of the galleries go.
    links
        The pages of the run.
    """
    material = Material(audit)
    run = maps.gather(audit.run)
    galleries = Galleries(material, run.images, bundles)
    galleries.draw()
    told = verdict(material)
    return render(
        "behaviour.html.j2",
        styles=(*STYLES, "page.css", "trust.css", "behaviour.css"),
        scripts=SCRIPTS,
        links=links,
        files=bundles.files,
        payload=safe_json(galleries.data()),
        pictures=safe_json(bundles.inline),
        verdict=told,
        headline=told.title,
        lead=_lead(audit),
        groups=list(audit.groups.items()),
        reference=material.reference,
        several=len(audit.groups) > 1,
        blocks=overview(material),
        sections=sections(material),
        galleries=galleries.made,
        places=galleries.places,
        notes=audit.notes,
        **_made(audit, run),
    )


def _lead(audit: Audit) -> str:
    """Return what was audited."""
    groups = ", ".join(
        name if len(models) == 1 and models[0] == name else f"{name} ({words.count(len(models), 'run')})"
        for name, models in audit.groups.items()
    )
    images = words.count(len(audit.run.images), "image")
    second = " and a second dataset" if audit.settings.get("out_of_set") else ""
    return f"{groups}, on {images}{second}. The salience is {audit.method} of the predicted class."


def _made(audit: Audit, material: maps.Material) -> dict[str, Any]:
    """Return how the run was made, for ``made.html.j2``, the failures and the footer."""
    info = audit.run.info
    paths = {p.image_id: p.path for p in material.images}
    failures = [
        {**row, "message": words.without_path(row["message"], _path(paths, row["image_id"]), row["image_id"])}
        for row in audit_failures(audit.run)
    ]
    return {
        "version": info.get("environment", {}).get("salience") or "",
        "created": str(info.get("created", ""))[:10],
        "notice": view.notice(material),
        "command": [shlex.quote(str(word)) for word in info.get("command") or []],
        "facts": [*view.facts(material), ("Audit", _facts(audit))],
        "method_rows": view.method_rows([c for p in material.parts for c in p.columns]),
        "failures": failures,
    }


def _path(paths: dict[str, str | None], image_id: str) -> str | None:
    """Return where an image lies, of a changed one the unchanged."""
    return paths.get(image_id) or paths.get(image_id.rpartition("@")[0])


def _facts(audit: Audit) -> list[tuple[str, str]]:
    settings = audit.settings
    second = settings.get("out_of_set")
    rows = [
        ("groups", ", ".join(f"{g} ({len(m)})" for g, m in audit.groups.items())),
        ("measures", ", ".join(audit.asked)),
        ("conditions", str(len(settings.get("conditions", {})))),
        ("backgrounds", ", ".join(settings.get("backgrounds", []))),
        ("second dataset", words.place(str(second)) if second else ""),
        ("seed", str(settings.get("seed", ""))),
        ("intervals", "95 %, hierarchical: training runs, then images"),
        ("tests", "permutation of runs; Benjamini-Hochberg over all answers"),
    ]
    return [(name, value) for name, value in rows if value]
