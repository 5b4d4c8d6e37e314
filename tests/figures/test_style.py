"""Colours that stay apart in grey print and for colour-blind readers."""

import itertools

import numpy as np
import pytest

from fapool.figures.style import COLOURS, OWNER_COLOURS, blank, short
from fapool.phases import Category

# Machado, Oliveira and Fernandes (2009), severity 1.0, on linear RGB.
BLINDNESS = {
    "none": np.eye(3),
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
               [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
               [-0.011820, 0.042940, 0.968881]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602],
               [0.004733, 0.691367, 0.303900]],
}  # fmt: skip
TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def linear(colour: str) -> np.ndarray:
    channels = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)


def lab(rgb: np.ndarray) -> np.ndarray:
    """CIE L*a*b* under D65."""
    ratio = TO_XYZ @ np.clip(rgb, 0, 1) / np.array([0.9505, 1.0, 1.089])
    f = np.where(ratio > 0.008856, np.cbrt(ratio), 7.787 * ratio + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def test_every_category_has_one_colour():
    assert set(COLOURS) == {category.value for category in Category}


def test_categories_differ_in_lightness():
    lightness = sorted(lab(linear(colour))[0] for colour in COLOURS.values())
    assert np.diff(lightness).min() >= 13


@pytest.mark.parametrize("kind", BLINDNESS)
@pytest.mark.parametrize("colours", [COLOURS, OWNER_COLOURS])
def test_colours_stay_apart_for_every_eye(kind, colours):
    seen = {name: lab(BLINDNESS[kind] @ linear(colour)) for name, colour in colours.items()}
    apart = {(a, b): np.linalg.norm(seen[a] - seen[b]) for a, b in itertools.combinations(seen, 2)}
    assert min(apart.values()) >= 13, apart


def test_figures_do_not_touch_pyplots_list():
    from matplotlib import pyplot as plt

    before = plt.get_fignums()
    blank(height_in=2, columns=3)
    assert plt.get_fignums() == before


@pytest.mark.parametrize(
    ("value", "text"), [(0.01234567, "0.01235"), (999.96, "1000"), (22382.13, "22,382"), (0, "0")]
)
def test_numbers_beside_bars_are_short(value, text):
    assert short(value) == text
