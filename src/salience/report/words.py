"""Numbers and facts as words that a person reads at a glance."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import PurePath

NBSP = "\N{NO-BREAK SPACE}"
MINUS = "\N{MINUS SIGN}"
TIMES = "\N{MULTIPLICATION SIGN}"
DASH = "\N{EN DASH}"

#: how the scalars that can be explained are called in a sentence
SCALARS = {
    "logit": "logit",
    "prob": "probability",
    "logprob": "log probability",
    "margin": "margin over the best other class",
}


def count(n: int, one: str, many: str = "") -> str:
    """Return ``1 image``, ``2 images``, ``12,000 images``."""
    return f"{n:,} {one if n == 1 else many or one + 's'}"


def percent(share: float, digits: int = 0) -> str:
    """Return a share as a percentage; what is not quite all or nothing never reads as such."""
    if not math.isfinite(share):
        return "unknown"
    text = f"{100 * share:.{digits}f}"
    if share < 1 and float(text) == 100:
        text = f">{100 - 10**-digits:.{digits}f}"
    if share > 0 and float(text.lstrip(">")) == 0:
        text = f"<{10**-digits:.{digits}f}"
    return f"{text}{NBSP}%"


def duration(seconds: float) -> str:
    """Return a time: ``0.4 s``, ``31 s``, ``4 min 13 s``, ``2 h 5 min``."""
    if seconds < 9.95:
        return f"{seconds:.1f}{NBSP}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}{NBSP}s"
    if whole < 3600:
        return f"{whole // 60}{NBSP}min {whole % 60}{NBSP}s"
    return f"{whole // 3600}{NBSP}h {whole % 3600 // 60}{NBSP}min"


def rate(per_second: float, what: str = "images") -> str:
    """Return a speed: ``1.5 images/s``, or by the minute where that is easier to read."""
    if per_second >= 1:
        digits = 0 if per_second >= 20 else 1
        return f"{per_second:.{digits}f}{NBSP}{what}/s"
    return f"{per_second * 60:.{0 if per_second * 60 >= 10 else 1}f}{NBSP}{what}/min"


def big(number: int) -> str:
    """Return a large number in short: ``4.65 million``."""
    for size, name in ((10**9, "billion"), (10**6, "million")):
        if number >= size:
            return f"{number / size:.3g}{NBSP}{name}"
    return f"{number:,}"


def number(value: float) -> str:
    """Return a measured number with three significant digits and a true minus sign."""
    if not math.isfinite(value):
        return "not a number" if math.isnan(value) else ("∞" if value > 0 else f"{MINUS}∞")
    if value == 0:
        return "0"
    size = abs(value)
    text = f"{value:.2e}" if size < 1e-3 or size >= 1e5 else f"{value:,.{max(0, 2 - math.floor(math.log10(size)))}f}"
    return text.replace("-", MINUS)


def grid(height: int, width: int) -> str:
    """Return a size: ``7 × 7``."""
    return f"{height} {TIMES} {width}"


def listed(names: Sequence[str], most: int = 3) -> str:
    """Return ``a``, ``a and b``, ``a, b and c``, ``a, b and 4 others``."""
    if len(names) > most:
        names = [*names[: most - 1], f"{len(names) - most + 1} others"]
    if len(names) < 2:
        return "".join(names)
    return f"{', '.join(names[:-1])} and {names[-1]}"


def target(rule: str, classes: Sequence[str] = ()) -> str:
    """Return which class was explained, as the end of "explained for ..."."""
    if rule == "predicted":
        return "the predicted class"
    if rule == "label":
        return "the true class"
    if rule == "all":
        return "every class"
    if rule == "given":
        return "the class named for each image"
    head, _, name = rule.partition(":")
    if head == "class":
        known = name.isdigit() and int(name) < len(classes)
        return f"the class {classes[int(name)] if known else name}"
    return rule


def scalar(output: str) -> str:
    """Return the explained scalar's name."""
    return SCALARS.get(output, output)


def short_names(names: Iterable[str]) -> dict[str, str]:
    """Return class names without their synonyms, where what is left still names one class only.

    ``tench, Tinca tinca`` becomes ``tench``, but both of ``crane, bird`` and ``crane, machine`` stay whole.
    """
    whole = list(names)
    heads = Counter(name.split(",")[0].strip() for name in whole)
    short = {}
    for name in whole:
        head = name.split(",")[0].strip()
        short[name] = head if head and heads[head] == 1 else name
    return short


def place(location: str) -> str:
    """Return the end of a path: enough to know the images by, without the machine they lay on."""
    path = PurePath(location)
    if len(path.parts) < 3 and not path.is_absolute():
        return location
    return "/".join(path.parts[-2:]) if len(path.parts) > 2 else path.name


def without_path(message: str, path: str | None, image_id: str) -> str:
    """Return a failure's message with the image's id in the place of its absolute path."""
    return message.replace(path, image_id) if path else message


def kind_of_failure(kind: str) -> str:
    """Return what a kind of failure means."""
    return {
        "unreadable": "image could not be read",
        "label": "true class not known",
        "model": "model's answer unusable",
        "map": "map unusable",
        "memory": "out of memory",
        "damaged": "stored map damaged",
    }.get(kind, kind)


def headline(models: Sequence[str], images: int) -> str:
    """Return what was run on what."""
    return f"{listed(models) or 'No model'} on {count(images, 'image')}"


def lead(
    methods: int,
    targets: Sequence[str],
    outputs: Sequence[str],
    scores: Sequence[tuple[str, float]],
    spent: Sequence[str],
) -> str:
    """Return the sentences below the headline.

    Parameters
    ----------
    methods
        How many methods.
    targets, outputs
        The classes and scalars that were explained, in words.
    scores
        Share of right predictions by model, of models with labelled images.
    spent
        Time and speed, in words.
    """
    scalars = f" ({listed(list(outputs))})" if outputs else ""
    sentences = [f"{count(methods, 'method')}, explained for {listed(list(targets))}{scalars}."] if methods else []
    if len(scores) == 1:
        sentences.append(f"{percent(scores[0][1])} right.")
    elif scores:
        sentences.append(f"{', '.join(f'{name} {percent(share)}' for name, share in scores)} right.")
    if spent:
        sentences.append(f"{', '.join(spent)}.")
    return " ".join(sentences)
