"""DE-CAM: its fitness in plain loops, planted models, and what its three maps are made of."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from games import ask, drawn, found, game, pictures, scene
from sklearn.linear_model import Ridge
from torch import Tensor

from salience.engine.masks import Masks, Turned
from salience.engine.queries import Found, Scene
from salience.errors import MethodError
from salience.methods.decam import DeCam, _Code, _thin
from salience.methods.registry import parse_method
from salience.testing.models import small_classifier

SIZE = (28, 28)
QUADRANTS = {"top left": (0, 0), "top right": (0, 14), "bottom left": (14, 0), "bottom right": (14, 14)}
ENCODINGS = ("grid", "points", "blobs")
STRATEGIES = ("rand1", "best1", "jde", "shade")


def planted(corner: tuple[int, int]) -> object:
    """The probability is the mean brightness of one quadrant; white images over black tell it plainly."""
    y, x = corner
    return game(lambda p: 0.02 + 0.96 * p[:, :, y : y + 14, x : x + 14].mean((1, 2, 3)), SIZE)


def enlarged(values: np.ndarray) -> np.ndarray:
    """Blocks of the map's cells, at 28 x 28."""
    assert SIZE[0] % values.shape[0] == 0
    return values.repeat(SIZE[0] // values.shape[0], 0).repeat(SIZE[1] // values.shape[1], 1)


@pytest.mark.parametrize("corner", QUADRANTS.values(), ids=QUADRANTS.keys())
@pytest.mark.parametrize("kind", ["best", "elite", "ridge"])
@pytest.mark.parametrize("encoding", ["grid", "blobs"])
def test_the_quadrant_that_decides_is_found(encoding: str, kind: str, corner: tuple[int, int]) -> None:
    text = f"decam:encoding={encoding}:map={kind}:fill=black:budget=3201:parts=2:cells=4:strategy=jde"
    maps = found(text, planted(corner), torch.ones(2, 3, *SIZE), batch=64)[:, 0]  # type: ignore[arg-type]
    for values in maps:
        up = enlarged(values)
        y, x = np.unravel_index(up.argmax(), up.shape)
        assert (y // 14 * 14, x // 14 * 14) == corner
        inside = up[corner[0] : corner[0] + 14, corner[1] : corner[1] + 14].mean()
        assert inside > up.mean() + 0.25 * up.std()


# ---------------------------------------------------------------------- the conversation, step by step


class Answering:
    """Plays the engine's part for one search and keeps what it is asked."""

    def __init__(self, method: DeCam, with_: Scene, targets: int = 1) -> None:
        self.asked: list[Masks] = []
        self.answers: list[Tensor] = []
        search = method.search(with_)
        masks = next(search)
        try:
            while True:
                self.asked.append(masks)
                numbers = drawn(len(with_.images), masks.count, targets, seed=len(self.asked))
                self.answers.append(numbers)
                masks = search.send(numbers)
        except StopIteration as stop:
            self.found: Found = stop.value


def candidates(play: Answering) -> Tensor:
    """Every mask that was tried on the coarse grid, (G, n, h, w)."""
    out = []
    for masks in play.asked:
        assert isinstance(masks, Turned)
        groups = 2
        side = (4, 4) if hasattr(masks.inner, "smooth") else (28, 28)
        rows, every = torch.arange(groups).repeat_interleave(masks.inner.count), torch.arange(masks.inner.count)
        out.append(masks.inner.render(rows, every.repeat(groups), side).view(groups, -1, *side))
    return torch.cat(out, 1)


def fitness(raster: np.ndarray, kept: float, left: float, spread: float, rough: float) -> float:
    """p(kept) - p(left out) - spread * mean(m) - rough * TV(m), with TV the mean step down and across."""
    steps = np.abs(np.diff(raster, axis=0)).mean() + np.abs(np.diff(raster, axis=1)).mean()
    return kept - left - spread * raster.mean() - rough * steps


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("kind", ["best", "elite", "ridge"])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_maps_are_made_of_all_candidates(encoding: str, kind: str, strategy: str) -> None:
    """Of every target its own, whichever the evolution followed."""
    method = DeCam(budget=121, encoding=encoding, map=kind, strategy=strategy, cells=4, parts=2, spread=0.3, rough=0.2)  # type: ignore[arg-type]
    place = scene(pictures(2, SIZE))
    two = replace(place, targets=torch.tensor([[0, 1], [1, 0]]), lead=torch.tensor([1, 0]), scores=torch.zeros(2, 2))
    play = Answering(method, two, targets=2)
    masks, answers = candidates(play).double().numpy(), torch.cat(play.answers, 1).double().numpy()
    assert 2 * masks.shape[1] == answers.shape[1] == method.questions(SIZE) == 120
    gains = np.array(
        [
            [
                [fitness(m, answers[g, 2 * k, t], answers[g, 2 * k + 1, t], 0.3, 0.2) for t in range(2)]
                for k, m in enumerate(masks[g])
            ]
            for g in range(2)
        ]
    )
    maps = play.found.maps.double().numpy()
    assert maps.shape == (2, 2, *masks.shape[2:])
    for g in range(2):
        for t in range(2):
            order = np.argsort(-gains[g, :, t])
            if kind == "ridge":
                fitted = Ridge(alpha=1.0).fit(masks[g].reshape(len(masks[g]), -1), gains[g, :, t])
                expected = fitted.coef_.reshape(masks.shape[2:])
            else:
                expected = masks[g, order[: 1 if kind == "best" else 6]].mean(0)
            np.testing.assert_allclose(maps[g, t], expected, atol=1e-4 if kind == "ridge" else 1e-5)
    # the curve is the best fitness so far of the target that is followed
    each = 2 * play.asked[0].inner.count  # type: ignore[attr-defined]
    assert play.found.curve_of == "fitness"
    assert [k for k, _ in play.found.curve] == [each * (i + 1) for i in range(120 // each)]
    for g, lead in enumerate((1, 0)):
        curve = [float(figure[g, lead]) for _, figure in play.found.curve]
        best = np.maximum.accumulate(gains[g, :, lead])[each // 2 - 1 :: each // 2]
        np.testing.assert_allclose(curve, best, atol=1e-5)
        assert (np.diff(curve) >= 0).all()
        assert all(bool(figure[g, 1 - lead].isnan()) for _, figure in play.found.curve)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_evolution_betters_chance(strategy: str) -> None:
    """After the same number of queries the fitness is above that of as many random masks."""
    images = torch.ones(3, 3, *SIZE)
    classifier = planted((14, 0))
    text = f"decam:strategy={strategy}:fill=black:budget=1201:population=20:cells=4"
    result, _ = ask(text, classifier, images, batch=64)  # type: ignore[arg-type]
    curve = {k: v[:, 0] for k, v in result.maps[0].diagnostics.items() if k.startswith("fitness@")}
    assert list(curve)[-1] == "fitness@1200"
    numbers = torch.stack(list(curve.values()))
    assert bool((numbers.diff(dim=0) >= 0).all())
    random, _ = ask(text.replace("population=20", "population=600"), classifier, images, batch=64)  # type: ignore[arg-type]
    chance = random.maps[0].diagnostics["fitness@240"][:, 0]  # a population of 120: the first generation is chance
    assert bool((numbers[-1] > chance + 0.05).all())


def test_the_ridge_asks_no_further_query() -> None:
    classifier, images = small_classifier(), pictures(2, (16, 16))
    calls = {
        kind: ask(f"decam:map={kind}:budget=101", classifier, images)[1].calls.forward for kind in ("best", "ridge")
    }
    assert calls["best"] == calls["ridge"] == 2 * 101


@pytest.mark.parametrize(("kind", "signed"), [("best", False), ("elite", False), ("ridge", True)])
def test_weights_have_signs_and_masks_have_none(kind: str, signed: bool) -> None:
    assert parse_method(f"decam:map={kind}").method.signed is signed
    maps = found(f"decam:map={kind}:budget=81", small_classifier(), pictures(2, (16, 16)))
    assert (maps.min() < 0) is np.bool_(signed)


# ---------------------------------------------------------------------- codes and sizes


def test_genes_stand_for_masks() -> None:
    genes = drawn(2, 3, 10)
    blobs = _Code("blobs", 7, 2)
    points = _Code("points", 7, 5)
    assert (blobs.genes, points.genes, _Code("grid", 7, 5).genes) == (10, 10, 49)
    values = blobs.masks(genes).values.numpy()  # type: ignore[attr-defined]
    g = genes.view(2, 3, 2, 5).numpy()
    np.testing.assert_array_equal(values[..., :2], g[..., :2])
    np.testing.assert_allclose(values[..., 2:4], 0.03 + 0.27 * g[..., 2:4], rtol=1e-6)  # never a width of zero
    np.testing.assert_array_equal(values[..., 4], g[..., 4])
    values = points.masks(genes).values.numpy()  # type: ignore[attr-defined]
    np.testing.assert_array_equal(values[..., :2], genes.view(2, 3, 5, 2))
    assert (values[..., 2:4] == np.float32(1 / 14)).all()
    assert (values[..., 4] == 1).all()


@pytest.mark.parametrize(
    ("budget", "population", "expected"),
    [
        (17, 50, (4, 2)),
        (41, 50, (4, 5)),
        (101, 50, (10, 5)),
        (501, 50, (50, 5)),
        (1024, 50, (50, 10)),
        (1024, 8, (8, 63)),
    ],
)
def test_small_budgets_have_small_populations(budget: int, population: int, expected: tuple[int, int]) -> None:
    method = DeCam(budget=budget, population=population)
    assert method._sizes() == expected
    assert method.questions(SIZE) == 2 * expected[0] * expected[1] <= budget - 1


def test_curves_are_thinned_from_the_end() -> None:
    curve = [(i, torch.zeros(1)) for i in range(1, 31)]
    assert [k for k, _ in _thin(curve)] == [3, 6, 9, 12, 15, 18, 21, 24, 27, 30]
    assert [k for k, _ in _thin(curve[:12])] == list(range(1, 13))
    assert [k for k, _ in _thin(curve[:1])] == [1]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("decam:budget=16", "17"),
        ("decam:population=3", "4 or more"),
        ("decam:rate=1.5", "between 0 and 1"),
        ("decam:scale=0", "scale"),
        ("decam:encoding=squares", "encoding"),
        ("decam:strategy=rand2", "strategy"),
    ],
)
def test_settings_that_make_no_sense(text: str, words: str) -> None:
    with pytest.raises(MethodError, match=words):
        parse_method(text)
