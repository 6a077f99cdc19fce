"""How do CIFAR-10 classifiers behave: four published ones alone, and a group of small networks from different seeds.

    python experiments/cifar/run.py TRAIN.npz TEST.npz --model resnet20.toml --model cifar_vit.toml ... --out WORK

TRAIN and TEST hold ``images`` (N, 32, 32, 3) and ``labels``. The small networks are trained on TRAIN, and all are
audited on the first images of TEST. Killed, the same command goes on. Prints Markdown, and writes it to ``results.md``
beside this file.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np

from salience.behaviour.audit import read_audit

sys.path.append(str(Path(__file__).resolve().parents[1]))
from overview import overview

SHORT = 3
"""Epochs of the group that is trained too shortly."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train", type=Path)
    parser.add_argument("test", type=Path)
    parser.add_argument("--model", action="append", default=[], type=Path, help="a card; may be given again")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--train-images", type=int, default=10000)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--limit", type=int, default=100, help="images of the audit")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    some = given.out / "train.npz"
    if not some.exists():
        with np.load(given.train) as file:
            images, labels = file["images"][: given.train_images], file["labels"][: given.train_images]
        np.savez(some, images=images, labels=labels)
    for name, epochs in (("small", given.epochs), ("small-short", SHORT)):
        train = [str(some), "--backbone", "small:width=8", "--runs", str(given.runs), "--name", name]
        train += ["--epochs", str(epochs), "--lr", "0.1", "--schedule", "cosine", "--batch-size", "128"]
        salience("train", *train, "--augment", "flip,shift", "--out", str(given.out / "models"), given=given)
    groups = [f"--group={card.stem}={card}" for card in given.model]
    groups += [f"--group={name}={given.out}/models/{name}_*.toml" for name in ("small", "small-short")]
    salience("audit", str(given.test), "--limit", str(given.limit), *groups, "--out", f"{given.out}/audit", given=given)
    cards = " ".join(f"--model {card.name}" for card in given.model)
    command = (
        f"python experiments/cifar/run.py TRAIN.npz TEST.npz {cards} --out WORK --runs {given.runs} "
        f"--train-images {given.train_images} --epochs {given.epochs} --limit {given.limit}"
    )
    lines = ["# CIFAR-10: four classifiers, and five small networks from different seeds", "", f"`{command}`", ""]
    text = "\n".join([*lines, *overview(read_audit(given.out / "audit"))])
    print(text)
    (Path(__file__).parent / "results.md").write_text(text, encoding="utf-8")


def salience(verb: str, *arguments: str, given: argparse.Namespace) -> None:
    """Run a command of salience on the CPU."""
    command = [sys.executable, "-m", "salience", verb, *arguments, "--device", "cpu", "--threads", str(given.threads)]
    subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
