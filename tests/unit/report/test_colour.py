from __future__ import annotations

import numpy as np
import pytest

from salience.report.colour import colourise, css_gradient, scale_of, table

# Machado, Oliveira and Fernandes 2009, severity 1: what eyes without one kind of cone see, in linear RGB
DEFICIENCIES = {
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def linear(colours: np.ndarray) -> np.ndarray:
    c = colours / 255
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def lab(rgb: np.ndarray) -> np.ndarray:
    """CIE L*a*b* of linear sRGB: another space than the scales were built in."""
    xyz = rgb @ np.array([[0.4124, 0.2126, 0.0193], [0.3576, 0.7152, 0.1192], [0.1805, 0.0722, 0.9505]])
    t = xyz / np.array([0.9505, 1.0, 1.089])
    f = np.where(t > (6 / 29) ** 3, np.cbrt(np.maximum(t, 0)), t / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], axis=1)


def test_sequential_scale_gets_lighter_all_the_way_and_evenly() -> None:
    lightness = lab(linear(table("sequential")))[:, 0]
    assert np.all(np.diff(lightness) > -0.3)  # one 8-bit step may round down
    assert lightness[0] < 2
    assert lightness[-1] > 93
    quarters = lightness[[64, 128, 192, 255]]
    assert np.all(np.diff(quarters) > 15)


def test_diverging_scale_is_neutral_at_zero_and_equally_dark_on_both_sides() -> None:
    colours = lab(linear(table("diverging")))
    middle = len(colours) // 2
    assert len(colours) % 2 == 1
    assert np.abs(colours[middle, 1:]).max() < 1
    assert colours[middle, 0] > 95
    assert np.abs(colours[:, 0] - colours[::-1, 0]).max() < 6
    assert np.all(np.diff(colours[: middle + 1, 0]) > -0.3)


@pytest.mark.parametrize("name", DEFICIENCIES)
def test_ends_of_the_diverging_scale_stay_apart_for_every_eye(name: str) -> None:
    seen = lab((linear(table("diverging")) @ np.array(DEFICIENCIES[name]).T).clip(0, 1))
    for distance in (127, 64):
        assert np.linalg.norm(seen[127 - distance] - seen[127 + distance]) > 25


def test_zero_and_the_ends_have_the_colours_of_the_table() -> None:
    diverging, sequential = table("diverging"), table("sequential")
    values = np.array([[-1.0, 0.0, 1.0, 5.0, -5.0, np.nan]])
    assert colourise(values, "diverging")[0].tolist() == diverging[[0, 127, 254, 254, 0, 127]].tolist()
    assert colourise(values, "sequential")[0].tolist() == sequential[[0, 0, 255, 255, 0, 0]].tolist()


def test_one_scale_a_sign() -> None:
    assert scale_of(True) == "diverging"
    assert scale_of(False) == "sequential"


def test_css_gradient_begins_and_ends_as_the_scale() -> None:
    low, high = ("#{:02x}{:02x}{:02x}".format(*table("sequential")[i].tolist()) for i in (0, -1))
    assert css_gradient("sequential").startswith(f"linear-gradient(90deg, {low}, ")
    assert css_gradient("sequential").endswith(f"{high})")
