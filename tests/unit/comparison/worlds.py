"""Simulated tables of two models: attributions by image and concept, with what is planted in them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Floats = np.ndarray


@dataclass(frozen=True)
class World:
    """Sums of maps (I, k) of two models, the explained class of each image, and who is right."""

    a: Floats
    b: Floats
    classes: list[str]
    quadrants: list[str]

    @property
    def shares(self) -> dict[str, Floats]:
        return {"a": share(self.a), "b": share(self.b)}

    @property
    def totals(self) -> dict[str, Floats]:
        return {"a": self.a, "b": self.b}


def share(totals: Floats) -> Floats:
    return totals / np.abs(totals).sum(axis=1, keepdims=True)


def world(seed: int = 0, images: int = 240, concepts: int = 8, classes: int = 4, noise: float = 1.0) -> World:
    """Two models that differ by noise; images have some of the concepts."""
    rng = np.random.default_rng(seed)
    of = np.arange(images) % classes
    profile = rng.normal(0, 0.5, (classes, concepts))[of]
    present = rng.random((images, concepts)) < 0.7
    present[:, 0] = True
    scene = rng.normal(0, 0.6, (images, concepts))
    a, b = ((profile + scene + noise * rng.normal(size=scene.shape)) * present for _ in range(2))
    names = ("both-right", "only-reference", "only-model", "both-wrong")
    return World(a, b, [f"c{c}" for c in of], [names[i] for i in rng.choice(4, images, p=[0.5, 0.2, 0.2, 0.1])])


def swapped_at_random(seed: int) -> World:
    """A world in which the two models differ, but which is which is drawn for each image: nothing is to be found."""
    rng = np.random.default_rng(seed)
    made = world(seed, images=200, concepts=10)
    other = 1.5 * made.b + 0.4 * rng.normal(size=(4, 10))[np.arange(200) % 4]
    swap = rng.random((200, 1)) < 0.5
    return World(np.where(swap, other, made.a), np.where(swap, made.a, other), made.classes, made.quadrants)


def watermark(seed: int = 0, images: int = 800) -> World:
    """A mark (concept 0) that only the second model goes by: it speaks for one class, and so against the three others.

    It is on 90 % of the images of that class and on 30 % of the others, so that what it does for the explained class
    is about nothing on average over all images.
    """
    rng = np.random.default_rng(seed)
    made = world(seed, images)
    first = np.array([c == "c0" for c in made.classes])
    mark = rng.random(images) < np.where(first, 0.9, 0.3)
    made.a[:, 0], made.b[:, 0] = rng.normal(0, 0.1, (2, images)) * mark
    made.b[:, 0] += 2 * mark * np.where(first, 1.0, -1.0)
    return made
