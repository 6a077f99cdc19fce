"""The command line of the comparison; see the package's own text."""

from __future__ import annotations

import argparse
import json

import torch

import salience
from salience.data.source import open_images
from salience.engine.allocator import keep_freed_memory

from . import __doc__ as about
from .cases import LEFT_OUT, chosen
from .importing import define_operators, versions
from .measuring import Effort, compare
from .row import Row, head, line
from .scene import Scene


def main() -> None:
    usual = Effort()
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers", description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("images")
    parser.add_argument("--model", required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--limit", type=int, default=64, help="images of a row at most")
    parser.add_argument("--rounds", type=int, default=usual.rounds)
    parser.add_argument("--seconds", type=float, default=usual.seconds, help="of bare calls a round, about")
    parser.add_argument("--only", default="", help="the rows in which this stands, e.g. ig: or quantus")
    parser.add_argument("--json", action="store_true", help="print JSON instead of Markdown")
    given = parser.parse_args()

    operators = define_operators()  # noqa: F841  # they live as long as this
    keep_freed_memory()  # as the command line does; the bare calls and the peers gain by it too
    scene = Scene.of(
        salience.load_model(given.model, device=given.device), open_images(given.images, limit=given.limit)
    )
    found = versions()

    def tell(row: Row) -> None:
        if not given.json:
            print(line(row.cells()), flush=True)

    if not given.json:
        listed = ", ".join(f"{title} {version or 'missing'}" for title, version in found.items())
        print(f"{scene.classifier.name}, up to {len(scene)} images, {torch.get_num_threads()} threads; {listed}\n")
        print(head())
    rows = compare(scene, chosen(given.only), Effort(given.rounds, given.seconds), tell)
    if given.json:
        print(json.dumps({"peers": found, "rows": [r.to_dict() for r in rows], "left_out": LEFT_OUT}, indent=2))
    else:
        print("\nNot compared:\n", *(f"- {text}" for text in LEFT_OUT), sep="\n")


if __name__ == "__main__":
    main()
