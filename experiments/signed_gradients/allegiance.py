"""Allegiance of the gradient family: how soon the prediction changes while salient pixels are deleted.

    python experiments/signed_gradients/allegiance.py cifar.npz --model resnet20.toml --limit 500

Prints a Markdown table: area under the curve, lower is better, with 95 % bootstrap intervals over images.
"""

from __future__ import annotations

import argparse

import numpy as np

import salience
from salience.data.decode import load
from salience.data.source import open_images
from salience.metrics.allegiance import allegiance

METHODS = (
    "gradient",
    "positive",
    "active",
    "negative",
    "inactive",
    "contrast",
    "gradient_x_input",
    "competitive_gi",
    "ig",
    "gradcam",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images")
    parser.add_argument("--model", required=True)
    parser.add_argument("--limit", type=int, default=500)
    given = parser.parse_args()
    model = salience.load_model(given.model)
    source = open_images(given.images, limit=given.limit)
    images = np.stack([load(source, ref, model.preprocessing).pixels for ref in source.refs])
    maps = salience.explain(model, images, METHODS)
    random = np.random.Generator(np.random.Philox(0)).random(maps["gradient"].values.shape, dtype=np.float32)
    maps["random"] = salience.Maps(**{**vars(maps["gradient"]), "values": random, "method": "random"})
    print("| map | black, published, 0-90 | white, published, 0-90 | black, exact, 0-30 | white, exact, 0-30 |")
    print("|---|---|---|---|---|")
    for name, of in maps.items():
        cells = [
            str(allegiance(model, images, of, fill=fill, rule=rule).auc(upto))
            for rule, upto in (("published", 90), ("exact", 30))
            for fill in ("black", "white")
        ]
        print(f"| `{name}` | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
