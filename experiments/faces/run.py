"""Does guiding a detector of synthetic faces by human maps keep it from reading the caption? Training, tests, audit.

    python experiments/faces/run.py FACES BACKBONE --out WORK

FACES is a folder with ``real/`` and ``fake/``, where every fake carries a caption in its bottom right corner. WORK gets
the image sets, the models and the tables; killed, the same command goes on. Prints Markdown, and writes it to
``results.md`` and ``audit.md`` beside this file.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import salience
from salience.behaviour.audit import read_audit
from salience.data.decode import load
from salience.data.source import open_images
from salience.engine.random import row_key
from salience.engine.runner import to_pixels
from salience.training import Recipe, Trained, train

sys.path.append(str(Path(__file__).resolve().parents[1]))
from overview import overview

CLASSES = ("real", "fake")
CAPTION = (5, 56)
"""Rows and columns of the caption in the corner, in pixels of the originals (224 x 224)."""
MARGIN = 6
"""What the cropped sets lose below and at the right."""
HELD_OUT = 0.25
Pixels = np.ndarray


@dataclass(frozen=True)
class Group:
    """A group of runs: its images, what people look at, and the control."""

    name: str
    images: str
    human: str | None = None
    control: str | None = None


GROUPS = (
    Group("plain", "train"),
    Group("guided", "train", "maps_face"),
    Group("guided-shuffled", "train", "maps_face", "shuffled"),
    Group("guided-centre", "train", None, "centre"),
    Group("guided-corner", "train", "maps_corner"),
    Group("cropped", "train_cropped"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("faces", type=Path)
    parser.add_argument("backbone")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--train", default="last")
    parser.add_argument("--audit-images", type=int, default=24)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    overlap = prepare(given.faces, given.out)
    recipe = Recipe(train=given.train, epochs=given.epochs, balanced=True)
    trained = [train_group(group, recipe, given) for group in GROUPS]
    lines = table(trained, given.out, given.threads)
    lines += ["", f"Overlap (IoU) of an image's face box with another's: {overlap:.2f}."]
    text = "\n".join(lines) + "\n"
    print(text, flush=True)
    here = Path(__file__).parent
    (here / "results.md").write_text(heading(given, "accuracy") + text, encoding="utf-8")
    audit(given)
    text = "\n".join(overview(read_audit(given.out / "audit")))
    print(text, flush=True)
    (here / "audit.md").write_text(heading(given, "audit") + text, encoding="utf-8")


def heading(given: argparse.Namespace, what: str) -> str:
    return (
        f"# Captioned faces: {what}\n\n"
        f"`python experiments/faces/run.py FACES {Path(given.backbone).name} --out WORK --runs {given.runs} --size "
        f"{given.size} --epochs {given.epochs} --train {given.train} --audit-images {given.audit_images}`\n\n"
    )


# ---------------------------------------------------------------------- the images


def prepare(faces: Path, out: Path) -> float:
    """Write the image sets and the human maps; return how much two face boxes overlap on average."""
    sets = out / "images"
    names = {c: sorted(faces.glob(f"{c}/*")) for c in CLASSES}
    test = {c: set(sorted(paths, key=key)[: round(HELD_OUT * len(paths))]) for c, paths in names.items()}
    write_set(sets / "train", names, lambda c, p: None if p in test[c] else pixels_of(p))
    write_set(sets / "train_cropped", names, lambda c, p: None if p in test[c] else cropped(pixels_of(p)))
    write_set(sets / "test_captioned", names, lambda c, p: pixels_of(p) if p in test[c] else None)
    write_set(sets / "test_cropped", names, lambda c, p: cropped(pixels_of(p)) if p in test[c] else None)
    captions = sorted(test["fake"], key=key)
    donors = {p: captions[i % len(captions)] for i, p in enumerate(sorted(test["real"], key=key))}
    write_set(sets / "test_pasted", {"real": sorted(donors)}, lambda _, p: pasted(pixels_of(p), pixels_of(donors[p])))
    write_set(sets / "maps_corner", names, lambda c, p: None if p in test[c] else corner(pixels_of(p)))
    boxes = out / "boxes.npy"
    chosen = [(c, p) for c in CLASSES for p in names[c] if p not in test[c]]
    if not boxes.exists():
        np.save(boxes, find_faces([pixels_of(p) for _, p in chosen]))
    found = dict(zip(chosen, np.load(boxes), strict=True))
    write_set(sets / "maps_face", names, lambda c, p: box_map(pixels_of(p), found[c, p]) if (c, p) in found else None)
    return mean_overlap(np.load(boxes))


def key(path: Path) -> int:
    return row_key(0, "faces", f"{path.parent.name}/{path.name}")


def pixels_of(path: Path) -> Pixels:
    return np.asarray(Image.open(path).convert("RGB"))


def write_set(folder: Path, names: dict[str, list[Path]], make: Callable[[str, Path], Pixels | None]) -> None:
    """Write what ``make`` makes of every file, losslessly; a set that is complete is left alone."""
    if folder.exists():
        return
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    for c, paths in names.items():
        (partial / c).mkdir(parents=True)
        for path in paths:
            made = make(c, path)
            if made is not None:
                Image.fromarray(made).save(partial / c / f"{path.stem}.png")
    partial.rename(folder)


def cropped(pixels: Pixels) -> Pixels:
    return pixels[:-MARGIN, :-MARGIN]


def pasted(real: Pixels, fake: Pixels) -> Pixels:
    rows, columns = CAPTION
    changed = real.copy()
    changed[-rows:, -columns:] = fake[-rows:, -columns:]
    return changed


def corner(pixels: Pixels) -> Pixels:
    """Return a map of the upper left corner: neither face nor caption."""
    height, width = pixels.shape[:2]
    return box_map(pixels, np.array([0, 0, width // 4, height // 4]))


def box_map(pixels: Pixels, box: Pixels) -> Pixels:
    drawn = np.zeros(pixels.shape[:2], np.uint8)
    x0, y0, x1, y1 = np.round(box).astype(int)
    drawn[y0:y1, x0:x1] = 255
    return drawn


def find_faces(images: Iterable[Pixels]) -> Pixels:
    """Return a box (x0, y0, x1, y1) for each image, found by a cascade; the median box where none is found."""
    from skimage.data import lbp_frontal_face_cascade_filename
    from skimage.feature import Cascade

    detector = Cascade(lbp_frontal_face_cascade_filename())
    found: list[Pixels] = []
    for image in images:
        side = min(image.shape[:2])
        faces = detector.detect_multi_scale(
            img=image, scale_factor=1.2, step_ratio=1.5, min_size=(side // 3, side // 3), max_size=(side, side)
        )
        largest = max(faces, key=lambda f: f["width"], default=None)
        if largest is None:
            found.append(np.full(4, np.nan))
        else:
            x, y = largest["c"], largest["r"]
            found.append(np.array([x, y, x + largest["width"], y + largest["height"]], float))
    boxes = np.stack(found)
    return np.where(np.isnan(boxes), np.nanmedian(boxes, axis=0), boxes)


def mean_overlap(boxes: Pixels) -> float:
    """Return the mean intersection over union of each box and the next one."""
    other = np.roll(boxes, 1, axis=0)
    low, high = np.maximum(boxes[:, :2], other[:, :2]), np.minimum(boxes[:, 2:], other[:, 2:])
    both = np.clip(high - low, 0, None).prod(1)
    areas = [(b[:, 2:] - b[:, :2]).prod(1) for b in (boxes, other)]
    return float((both / (areas[0] + areas[1] - both)).mean())


# ---------------------------------------------------------------------- the models


def train_group(group: Group, recipe: Recipe, given: argparse.Namespace) -> Trained:
    images = given.out / "images"
    if group.human is not None or group.control is not None:
        recipe = replace(recipe, loss="guided", control=group.control)
    trained = train(
        images / group.images,
        given.backbone,
        given.out / "models",
        classes=CLASSES,
        runs=given.runs,
        recipe=recipe,
        human=None if group.human is None else images / group.human,
        name=group.name,
        size=given.size,
        device="cpu",
        threads=given.threads,
    )
    print(f"{group.name}: {trained.to_dict()['accuracy']:.3f} of the images held out", file=sys.stderr, flush=True)
    return trained


def fake_scores(card: Path, folder: Path) -> dict[str, Pixels]:
    """Return logit(fake) - logit(real) of every image of each class of a folder."""
    model = salience.load_model(card, device="cpu")
    scores: dict[str, list[Pixels]] = {}
    source = open_images(folder)
    for c in source.label_names or ():
        refs = [ref for ref in source.refs if ref.label == c]
        for start in range(0, len(refs), 32):
            pixels = [load(source, ref, model.preprocessing).pixels for ref in refs[start : start + 32]]
            with torch.no_grad():
                logits = model.logits(to_pixels(pixels, model))
            scores.setdefault(c, []).append((logits[:, 1] - logits[:, 0]).numpy())
    return {c: np.concatenate(parts) for c, parts in scores.items()}


def table(trained: list[Trained], out: Path, threads: int) -> list[str]:
    """Return the rows of a Markdown table: means and standard deviations over the runs of each group."""
    torch.set_num_threads(threads)
    columns = {
        "held-out captioned: accuracy": lambda s: accuracy(s["test_captioned"]),
        "cropped: accuracy": lambda s: accuracy(s["test_cropped"]),
        "cropped: AUC": lambda s: auc(s["test_cropped"]),
        "cropped fakes found": lambda s: float((s["test_cropped"]["fake"] > 0).mean()),
        "real called fake": lambda s: float((s["test_captioned"]["real"] > 0).mean()),
        "real with a caption called fake": lambda s: float((s["test_pasted"]["real"] > 0).mean()),
    }
    lines = ["| group | runs | validation | " + " | ".join(columns) + " |", "|" + "---|" * (len(columns) + 3)]
    for group in trained:
        scores = [
            {s: fake_scores(card, out / "images" / s) for s in ("test_captioned", "test_cropped", "test_pasted")}
            for card in group.cards
        ]
        cells = [spread([run.recall for run in group.runs])]
        cells += [spread([measure(s) for s in scores]) for measure in columns.values()]
        lines.append(f"| {group.group} | {len(scores)} | " + " | ".join(cells) + " |")
    return lines


def accuracy(scores: dict[str, Pixels]) -> float:
    """Return the mean over the classes of the share that is right."""
    return float(((scores["real"] <= 0).mean() + (scores["fake"] > 0).mean()) / 2)


def auc(scores: dict[str, Pixels]) -> float:
    above = scores["fake"][:, None] - scores["real"][None]
    return float(((above > 0) + 0.5 * (above == 0)).mean())


def spread(values: list[float]) -> str:
    return f"{np.mean(values):.3f} ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else f"{values[0]:.3f}"


# ---------------------------------------------------------------------- the audit


def audit(given: argparse.Namespace) -> None:
    """Audit all groups on the faces held out, caption left in: what each measure says before the caption is cropped."""
    cards = given.out / "models"
    groups = [f"--group={group.name}={cards}/{group.name}_*.toml" for group in GROUPS]
    command = ["audit", str(given.out / "images" / "test_captioned"), *groups, "--out", str(given.out / "audit")]
    command += ["--limit", str(given.audit_images), "--background", "blur"]
    command += ["--device", "cpu", "--threads", str(given.threads)]
    subprocess.run([sys.executable, "-m", "salience", *command], check=True)


if __name__ == "__main__":
    main()
