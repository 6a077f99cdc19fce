"""Does the page lead to a caption? Two detectors of synthetic faces, one of them trained with the caption left in.

    python experiments/compare/faces.py WORK --out RUN

WORK is what ``experiments/faces/run.py`` made: the models ``plain_01`` (every synthetic face that it was trained on has
a caption of 5 rows and 56 columns in its bottom right corner) and ``cropped_01`` (the lowest rows and rightmost columns
cut away, of all images). They are compared on faces that neither was trained on, the caption left in. Nothing but the
images tells the comparison of it. Killed, the same command goes on. Prints Markdown, and writes it to ``faces.md``
beside this file.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

import salience
from salience.explaining import RunSettings

sys.path.append(str(Path(__file__).resolve().parent))
from telling import told

CAPTION = (5 / 224, 56 / 224)
"""Height and width of the caption, as shares of the image's."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--run", type=int, default=1, help="which run of each group")
    parser.add_argument("--method", default="ig:steps=32:baseline=black+white")
    parser.add_argument("--segments", default="grid:rows=28:columns=28")
    parser.add_argument("--encoder", default="place")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    models = [
        salience.load_model(str(given.work / "models" / f"{group}_{given.run:02d}.toml"), name=name, device="cpu")
        for group, name in (("cropped", "cropped"), ("plain", "captioned"))
    ]
    comparison = salience.compare(
        *models,
        given.work / "images" / "test_captioned",
        method=given.method,
        segments=given.segments,
        encoder=given.encoder,
        target="label",
        out=given.out,
        settings=RunSettings(threads=given.threads),
        command=sys.argv,
    )
    comparison.report()
    height, width = comparison.settings["frame"]
    caption = np.zeros((height, width), dtype=bool)
    caption[-round(CAPTION[0] * height) :, -round(CAPTION[1] * width) :] = True
    nowhere = np.zeros_like(caption)
    lines = [heading(given), *told(comparison, lambda i: caption if i.startswith("fake/") else nowhere)]
    text = "\n".join(lines)
    print(text)
    (Path(__file__).parent / "faces.md").write_text(text, encoding="utf-8")


def heading(given: argparse.Namespace) -> str:
    return (
        "# Captioned faces: does the page lead to the caption?\n\n"
        f"`python experiments/compare/faces.py WORK --out RUN --run {given.run} --method {given.method} "
        f"--segments {given.segments} --encoder {given.encoder}`\n\n"
        "*Of it planted* is the share of a concept's area that is caption, *of the planted in it* the share of all "
        "captions that belongs to the concept.\n"
    )


if __name__ == "__main__":
    main()
