"""The frame that every page stands in: templates, style sheets and scripts, joined into one file.

A page is a template that extends ``base.html.j2``, with the style sheets and scripts that it names:
``render("page.html.j2", styles=(*STYLES, "page.css"), scripts=("page.js",), ...)``.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from salience.report import words
from salience.report.colour import css_gradient

STYLES = ("tokens.css", "components.css")
"""What all pages share: colours, space and type; cards, tables, bars, buttons, fields, dialogs."""


@dataclass(frozen=True)
class Link:
    """A page of the run, as the others lead to it: its title, its file beside them, and whether one is on it."""

    title: str
    file: str
    here: bool


Links = tuple[Link, ...]


def render(
    template: str,
    *,
    styles: tuple[str, ...] = STYLES,
    scripts: tuple[str, ...] = (),
    links: Links = (),
    **context: Any,
) -> str:
    """Return the HTML of a page.

    Parameters
    ----------
    template
        A template of this package.
    styles, scripts
        Files in ``assets``, joined in this order and written into the page.
    links
        The pages of the run, where it has several.
    **context
        Variables of the template; everything in them is escaped unless it is Markup.
    """
    page = environment().get_template(template)
    return page.render(
        style=style(styles), script=script(scripts) if scripts else "", icon=_icon(), links=links, **context
    )


@cache
def environment() -> Environment:
    """Return the Jinja environment that all pages share: everything is escaped, nothing undefined is accepted."""
    env = Environment(
        loader=PackageLoader("salience.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.filters.update(percent=words.percent, count=words.count, kind_of_failure=words.kind_of_failure)
    env.globals.update(script_sources=_script_sources)
    return env


def style(names: tuple[str, ...]) -> Markup:
    """Return style sheets joined, with the two colour scales as custom properties."""
    scales = "".join(f"--scale-{name}:{css_gradient(name)};" for name in ("sequential", "diverging"))
    return Markup(f":root{{{scales}}}\n" + "\n".join(_asset(name) for name in names))  # our own files


def script(names: tuple[str, ...]) -> Markup:
    """Return scripts joined into one strict function, so that they share their names and add none to the page."""
    body = "\n".join(_asset(name) for name in names)
    return Markup(f'(() => {{\n"use strict";\n{body}\n}})();')  # our own files


def _asset(name: str) -> str:
    return (files("salience.report") / "assets" / name).read_text(encoding="utf-8")


def _script_sources(text: str) -> Markup:
    """Allow this very script and the sidecars beside the page, and no other."""
    digest = base64.b64encode(hashlib.sha256(str(text).encode()).digest()).decode()
    return Markup(f"'sha256-{digest}' 'self' file:")  # base64 has no quotes


def _icon() -> Markup:
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16"><defs><linearGradient id="g" x2="1" y2="1">'
        '<stop stop-color="#2a0a5e"/><stop offset=".55" stop-color="#b81f6a"/><stop offset="1" stop-color="#ffb347"/>'
        '</linearGradient></defs><rect width="16" height="16" rx="4" fill="url(#g)"/></svg>'
    )
    return Markup("data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode())
