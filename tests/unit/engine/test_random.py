"""The counter-based generator: what it promises of its numbers, and of whose they are."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from salience.engine.random import Stream, choose, key_words, normal, row_key, uniform, uniform_at

KEYS = [row_key(0, "noise", f"image-{i}", 0) for i in range(16)]
SHAPE = (3, 64, 64)


def test_uniform_is_uniform() -> None:
    values = uniform(KEYS, SHAPE).numpy().reshape(16, -1)
    assert values.min() >= 0
    assert values.max() < 1
    assert stats.kstest(values.ravel(), "uniform").pvalue > 1e-3
    for row in values:
        assert stats.kstest(row, "uniform").pvalue > 1e-5
    counts = np.histogram(values, bins=256, range=(0, 1))[0]
    assert stats.chisquare(counts).pvalue > 1e-3


def test_normal_is_normal() -> None:
    values = normal(KEYS, SHAPE).numpy().astype(np.float64).ravel()
    n = len(values)
    assert abs(values.mean()) < 4 / np.sqrt(n)
    assert abs(values.var() - 1) < 4 * np.sqrt(2 / n)
    assert abs(stats.skew(values)) < 4 * np.sqrt(6 / n)
    assert abs(stats.kurtosis(values)) < 4 * np.sqrt(24 / n)
    assert stats.kstest(values, "norm").pvalue > 1e-3
    assert np.isfinite(values).all()
    assert np.abs(values).max() < 5.78


def test_halves_of_box_muller_are_independent() -> None:
    values = normal(KEYS, SHAPE).numpy().reshape(16, -1)
    half = values.shape[1] // 2
    a, b = values[:, :half].ravel(), values[:, half:].ravel()
    assert abs(np.corrcoef(a, b)[0, 1]) < 4 / np.sqrt(len(a))
    assert abs(np.corrcoef(a**2, b**2)[0, 1]) < 4 / np.sqrt(len(a))


def _largest_correlation(rows: np.ndarray) -> float:
    c = np.corrcoef(rows)
    return float(np.abs(c[np.triu_indices(len(c), 1)]).max())


@pytest.mark.parametrize("kind", ["images", "draws", "seeds", "purposes", "neighbours"])
def test_rows_are_independent(kind: str) -> None:
    keys = {
        "images": [row_key(0, "noise", str(i)) for i in range(40)],
        "draws": [row_key(0, "noise", "a", d) for d in range(40)],
        "seeds": [row_key(s, "noise", "a") for s in range(40)],
        "purposes": [row_key(0, p, "a") for p in map(str, range(40))],
        # raw keys that differ in one bit only: a weak hash would show here
        "neighbours": [*range(20), *(1 << b for b in range(5, 25))],
    }[kind]
    rows = normal(keys, (8192,)).numpy()
    bound = 5 / np.sqrt(8192)
    assert _largest_correlation(rows) < bound
    assert _largest_correlation(np.abs(rows)) < bound


@pytest.mark.parametrize("lag", [1, 2, 3, 63, 64, 65, 4096])
def test_elements_of_a_row_are_independent(lag: int) -> None:
    rows = uniform(KEYS, SHAPE).numpy().reshape(16, -1) - 0.5
    a, b = rows[:, :-lag].ravel(), rows[:, lag:].ravel()
    assert abs(np.corrcoef(a, b)[0, 1]) < 4.5 / np.sqrt(len(a))


def test_no_word_repeats_more_than_chance() -> None:
    """Of 200,000 words of 24 bits, about 1,190 pairs collide; rows must not share their sequences."""
    values = uniform(KEYS[:10], (20_000,)).numpy()
    repeats = values.size - len(np.unique(values))
    assert 900 < repeats < 1500


def test_bytes_of_a_row_are_its_own() -> None:
    whole = normal(KEYS, SHAPE)
    for i in (0, 7, 15):
        assert torch.equal(normal([KEYS[i]], SHAPE)[0], whole[i])
    back = normal(KEYS[::-1], SHAPE)
    assert torch.equal(back.flip(0), whole)


def test_the_first_numbers_hold_for_any_length() -> None:
    assert torch.equal(uniform(KEYS[:2], (10,)), uniform(KEYS[:2], (1000,))[:, :10])
    assert normal(KEYS[:2], (3, 5, 7)).shape == (2, 3, 5, 7)  # an odd number of values


def test_numbers_do_not_change_between_versions() -> None:
    """What is stored under a seed stays reproducible: these values are pinned."""
    key = row_key(0, "noise", "image", 0)
    assert key == 12084885087810520949
    exact = [0.7436844110488892, 0.6426966190338135, 0.31192511320114136, 0.3979768753051758]
    assert uniform([key], (4,)).tolist() == [exact]
    normals = [-0.6259393095970154, -1.1498767137527466, 1.5267257690429688]
    assert normal([key], (3,))[0].tolist() == pytest.approx(normals, rel=1e-6)
    assert choose(row_key(0, "rivals", "image"), 5, 20) == [9, 2, 17, 14, 13]


def test_keys_tell_their_parts_apart() -> None:
    keys = {
        row_key(1, "noise", "a", 2),
        row_key(2, "noise", "a", 1),
        row_key(1, "noise", "a\x1f2", 0),
        row_key(1, "noisea", "", 2),
        row_key(12, "noise", "a", 2),
    }
    assert len(keys) == 5
    assert all(0 <= k < 2**64 for k in keys)


def test_global_generators_are_left_alone() -> None:
    before = torch.random.get_rng_state()
    normal(KEYS, (10,))
    choose(KEYS[0], 3, 10)
    assert torch.equal(before, torch.random.get_rng_state())


def test_choose_is_distinct_and_uniform() -> None:
    counts = np.zeros(30)
    first = np.zeros(30)
    pairs = np.zeros((30, 30))
    for i in range(3000):
        picked = choose(row_key(0, "rivals", str(i)), 10, 30)
        assert len(set(picked)) == 10
        assert all(0 <= p < 30 for p in picked)
        counts[picked] += 1
        first[picked[0]] += 1
        pairs[picked[0], picked[1]] += 1
    # drawing without replacement: each count varies with (1 - 10/30) of the multinomial's variance
    expected = 3000 * 10 / 30
    assert ((counts - expected) ** 2 / (expected * (1 - 10 / 30))).sum() < stats.chi2.ppf(0.999, 29)
    assert stats.chisquare(first).pvalue > 1e-3
    off = pairs[~np.eye(30, dtype=bool)]
    assert stats.chisquare(off).pvalue > 1e-3


def test_choose_everything() -> None:
    assert sorted(choose(5, 7, 7)) == list(range(7))
    assert choose(5, 0, 7) == []


# ---------------------------------------------------------------------- pieces, and streams of a group


def test_pieces_are_cuts_of_the_whole() -> None:
    words, whole = key_words(KEYS[:3], "cpu"), uniform(KEYS[:3], (1000,))
    for first, count in ((0, 1000), (0, 1), (17, 40), (999, 1)):
        found = uniform_at(words, torch.full((3,), first), count)
        assert torch.equal(found, whole[:, first : first + count])
    rows, firsts = torch.tensor([2, 0, 2]), torch.tensor([5, 900, 0])  # any mixture of keys and places
    found = uniform_at(words[rows], firsts, 7)
    for values, row, first in zip(found, rows.tolist(), firsts.tolist(), strict=True):
        assert torch.equal(values, whole[row, first : first + 7])


IDS = tuple(f"image-{i}" for i in range(16))


def stream(ids: tuple[str, ...] = IDS, seed: int = 0, purpose: str = "test") -> Stream:
    return Stream(ids, seed, purpose, "cpu")


def test_a_stream_goes_on_where_it_stopped() -> None:
    whole = uniform([row_key(0, "test", i) for i in IDS], (60,))
    numbers = stream()
    parts = [numbers.uniform(10), numbers.uniform(2, 5, 3).flatten(1), numbers.uniform(20)]
    assert torch.equal(torch.cat(parts, 1), whole)
    assert numbers.uniform(3, 0).shape == (16, 3, 0)


def test_a_stream_belongs_to_the_image_the_seed_and_the_purpose() -> None:
    def numbers(*of: object) -> list[torch.Tensor]:
        s = stream(*of)  # type: ignore[arg-type]
        return [s.uniform(5), s.normal(2, 3), s.cauchy(4)]

    whole = numbers()
    for some in ((3,), (9, 3, 0)):
        for found, expected in zip(numbers(tuple(IDS[i] for i in some)), whole, strict=True):
            assert torch.equal(found, expected[list(some)])
    for other in ((IDS, 1), (IDS, 0, "other")):
        for found, expected in zip(numbers(*other), whole, strict=True):
            assert not bool((found == expected).any())


def test_a_stream_s_normals_are_normal_and_independent_of_what_follows() -> None:
    numbers = stream()
    values, more = numbers.normal(100, 64), numbers.normal(100, 64)
    flat = values.double().numpy().ravel()
    assert stats.kstest(flat, "norm").pvalue > 1e-3
    assert abs(flat.var() - 1) < 4 * np.sqrt(2 / flat.size)
    for other in (more.double().numpy().ravel(), np.roll(flat, 1), np.roll(flat, 64)):
        assert abs(np.corrcoef(flat, other)[0, 1]) < 4.5 / np.sqrt(flat.size)
        assert abs(np.corrcoef(flat**2, other**2)[0, 1]) < 4.5 / np.sqrt(flat.size)


def test_a_stream_s_cauchys_are_cauchy_and_never_infinite() -> None:
    values = stream().cauchy(4000).double().numpy().ravel()
    assert stats.kstest(values, "cauchy").pvalue > 1e-3
    numbers = stream(("a",))
    ends = torch.tensor([[0.0, 2.0**-24, 0.5 - 2.0**-24, 0.5, 1 - 2.0**-23, 1 - 2.0**-24]])
    numbers.uniform = lambda *shape: ends  # type: ignore[method-assign]
    found = numbers.cauchy(6)[0].double()
    assert bool((found[:3] < 0).all())
    assert bool((found[3:] > 0).all())
    torch.testing.assert_close(found, -found.flip(0), rtol=1e-6, atol=1e-9)  # as much on either side of zero
    assert 1e7 < float(found.abs().max()) < 1.4e7
