"""Agreement of twenty rivals with all classes: sampled against full competition.

    python experiments/signed_gradients/rivals.py photos/ --model salience.models.zoo:efficientnet_lite0 --limit 16

Prints, for active and inactive maps, the share of pixels on which the two agree whether the map is zero, the share of
the sampled map's mass that the full competition keeps, and the rank correlation.
"""

from __future__ import annotations

import argparse

import numpy as np
from scipy.stats import spearmanr

import salience


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images")
    parser.add_argument("--model", required=True)
    parser.add_argument("--limit", type=int, default=16)
    given = parser.parse_args()
    names = ["active:rivals=sample", "active:rivals=all", "inactive:rivals=sample", "inactive:rivals=all"]
    maps = salience.explain(salience.load_model(given.model), given.images, names, limit=given.limit)
    print("| map | same zeros | mass kept | Spearman |")
    print("|---|---|---|---|")
    for name in ("active", "inactive"):
        few, full = maps[f"{name}:rivals=sample"].values, maps[f"{name}:rivals=all"].values
        zeros = ((few > 0) == (full > 0)).mean()
        kept = (full.sum((1, 2)) / few.sum((1, 2))).mean()
        ranks = np.mean([spearmanr(a.ravel(), b.ravel()).statistic for a, b in zip(few, full, strict=True)])
        print(f"| `{name}` | {zeros:.3f} | {kept:.3f} | {ranks:.3f} |")


if __name__ == "__main__":
    main()
