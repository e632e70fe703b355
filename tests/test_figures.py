"""Tests of common/figures: each is drawn once, and keeps its title and caption."""

import itertools

import matplotlib.colors
import numpy
import pandas
import pytest
import torch

from common.figures import claims, curves, dots, images, style, sweeps
from tests import helpers

TITLE = "What Q3 keeps ± what it loses, in one sentence"
CAPTION = "Of 100 test images: 0.5 ± 0.1."
DIGITS = torch.rand(10, 1, 28, 28, generator=torch.Generator().manual_seed(0))
POINTS = numpy.random.default_rng(0).normal(size=(40, 2)), numpy.arange(40) % 10
LOSS_AND_ACCURACY = ["cross_entropy", "accuracy"]
MEASURES = ["l1", "accuracy", "latent_silhouette", "slant_r2", "size_r2"]  # panels in two rows
MODELS = ["Q1", "Q3", "Q1, MSE", "Q3, MSE", "original"]
SUBSETS = ["report", "balanced 1", "balanced 2"]
GROUPS = {"L1": {"Q1": "Q1", "Q3": "Q3"}, "MSE": {"Q1": "Q1, MSE", "Q3": "Q3, MSE"}}


def table(**columns: list) -> pandas.DataFrame:
    """Return rows of every combination of values, each with a value between 0.2 and 0.9."""
    rows = pandas.DataFrame(itertools.product(*columns.values()), columns=list(columns))
    return rows.assign(value=numpy.linspace(0.2, 0.9, len(rows)))


def numbers(subsets: list[str]) -> pandas.DataFrame:
    return table(model=MODELS, subset=subsets, split=["test"], measure=MEASURES)


def history(splits: list[str], subsets: list[str]) -> pandas.DataFrame:
    return table(
        model=["Q1"],
        subset=subsets,
        split=splits,
        step=[0, 1, 10, 100],
        measure=LOSS_AND_ACCURACY,
    )


TRAINING = history(["train", "test"], [""])
FEW_SHOT = history(["train", "labelled", "test"], SUBSETS)
SWEEP = table(x=[1, 10, 100], series=["Q1", "Q3"], measure=["accuracy"], subset=SUBSETS)
BY_DIGIT = pandas.DataFrame({"Q1": [0.9] * 10, "Q3": [0.5] * 10})
ROWS = [images.Row(name, DIGITS) for name in ("original", "Q1", "Q3", "PCA-12")]
READING = {"labels": 10, "accuracy": 0.5, "worth": 32.0}

FIGURES = [
    (claims.plot_by_digit, (BY_DIGIT, "deviation kept")),
    (claims.plot_separation, ({"a": POINTS, "b": POINTS}, numbers([""]), MEASURES[:2])),
    (curves.plot_training, (TRAINING, "cross_entropy", {"mean image": 0.5})),
    (curves.plot_training, (TRAINING, "accuracy")),
    (curves.plot_few_shot, (FEW_SHOT, ["Q1"], LOSS_AND_ACCURACY)),
    (dots.plot_subsets, (numbers(SUBSETS), ["Q1", "Q3"])),
    (dots.plot_subset_groups, (numbers(SUBSETS), GROUPS)),
    (dots.plot_panels, (numbers([""]), ["Q1", "Q3", "not measured"], MEASURES)),
    (dots.plot_groups, (numbers([""]), GROUPS, MEASURES[:2])),
    (images.plot_rows, (ROWS, 2, ("left", "right"))),
    (images.plot_mistakes, (DIGITS, [("4", "read as 9")] * 10)),
    (sweeps.plot_sweep, (SWEEP, ["accuracy"], "latents")),
    (sweeps.plot_label_curve, (SWEEP, READING)),
]


@pytest.mark.parametrize(("plot", "arguments"), FIGURES)
def test_a_figure_is_written_with_its_title_and_caption(plot, arguments, tmp_path):
    plot(tmp_path / "figure.png", TITLE, CAPTION, *arguments)
    assert style.texts(tmp_path / "figure.png") == (TITLE, CAPTION)


@pytest.mark.parametrize("colour", sorted({*style.COLOURS.values(), *claims.DIGIT_COLOURS}))
def test_a_colour_is_dark_enough_for_small_text_on_white(colour):
    """By WCAG 2.2: relative luminance, and a contrast of 4.5 to 1 or more."""
    linear = []
    for value in matplotlib.colors.to_rgb(colour):
        linear.append(value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4)
    luminance = numpy.dot([0.2126, 0.7152, 0.0722], linear)
    assert 1.05 / (luminance + 0.05) >= 4.5


FAILING = """
import sys
from pathlib import Path
from common import run
from common.figures import style

folder = Path(sys.argv[1])
for name, text in (("bad.png", "$\\\\frac{$"), ("good.png", "plain")):
    with run.drawing(), style.figure(folder / name, 1.0, "Title", "Caption") as figure:
        figure.subplots().set_title(text)
"""


def test_a_figure_is_drawn_whatever_the_users_settings_and_one_that_fails_is_a_line(tmp_path):
    def draw(name: str, **environment: str) -> bytes:
        folder = tmp_path / name
        folder.mkdir()
        done = helpers.finish(helpers.start("-c", FAILING, folder, **environment))
        assert done.returncode == 0, done.stderr
        assert [path.name for path in folder.iterdir()] == ["good.png"]
        assert done.stderr.splitlines()[-1].startswith("a figure was not drawn")
        return (folder / "good.png").read_bytes()

    settings = "savefig.format: pdf\nfont.size: 40\ntext.usetex: True\nbackend: no-such\n"
    (tmp_path / "matplotlibrc").write_text(settings)
    plain = draw("plain")
    assert draw("notebook", MPLBACKEND="module://matplotlib_inline.backend_inline") == plain
    assert draw("settings", MATPLOTLIBRC=str(tmp_path), MPLBACKEND="no-such") == plain
