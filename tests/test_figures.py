"""Tests of common/figures: each is drawn once, and keeps its title and caption."""

from pathlib import Path

import numpy
import pandas
import pytest
import torch

from common.figures import claims, curves, dots, images, style, sweeps

TITLE = "What Q3 keeps ± what it loses, in one sentence"
CAPTION = "Of 100 test images: 0.5 ± 0.1."
DIGITS = torch.rand(10, 1, 28, 28, generator=torch.Generator().manual_seed(0))
GROUPS = {"L1": {"Q1": "Q1", "Q3": "Q3"}, "MSE": {"Q1": "Q1, MSE", "Q3": "Q3, MSE"}}


def numbers(models: list[str], measures: list[str], subsets: list[str]) -> pandas.DataFrame:
    """Return a table of numbers.csv with test values of every model, subset and measure."""
    keys = pandas.MultiIndex.from_product(
        [models, subsets, ["test"], measures], names=["model", "subset", "split", "measure"]
    )
    return pandas.DataFrame({"value": numpy.linspace(0.2, 0.9, len(keys))}, keys).reset_index()


def history(splits: list[str], subsets: list[str]) -> pandas.DataFrame:
    """Return a table of history.csv: a loss that falls and rises, and a rising accuracy."""
    keys = pandas.MultiIndex.from_product(
        [["scratch"], subsets, splits, [0, 1, 10, 100]], names=["model", "subset", "split", "step"]
    )
    count = len(keys) // 4
    loss = pandas.DataFrame({"value": [2.0, 1.0, 0.5, 0.75] * count}, keys).reset_index()
    accuracy = pandas.DataFrame({"value": [0.1, 0.6, 0.8, 0.9] * count}, keys).reset_index()
    return pandas.concat(
        [loss.assign(measure="cross_entropy"), accuracy.assign(measure="accuracy")]
    )


def sweep() -> pandas.DataFrame:
    keys = pandas.MultiIndex.from_product(
        [[1, 10, 100], ["scratch", "frozen"], ["accuracy", "mse"], [0, 1]],
        names=["x", "series", "measure", "subset"],
    )
    return pandas.DataFrame({"value": numpy.linspace(0.2, 0.9, len(keys))}, keys).reset_index()


def by_digit(path: Path) -> None:
    values = pandas.DataFrame({"Q1": [0.9] * 10, "Q3": [0.5] * 10})
    claims.plot_by_digit(path, TITLE, CAPTION, values, "deviation kept")


def separation(path: Path) -> None:
    points = numpy.random.default_rng(0).normal(size=(40, 2)), numpy.arange(40) % 10
    measures = ["latent_silhouette", "linear_probe_accuracy"]
    table = numbers(["Q1", "Q3"], measures, [""])
    claims.plot_separation(path, TITLE, CAPTION, {"a": points, "b": points}, table, measures)


def training(path: Path) -> None:
    table = history(["train", "validation", "test"], [""])
    curves.plot_training(path, TITLE, CAPTION, table, "cross_entropy", {"mean image": 1.0})


def training_accuracy(path: Path) -> None:
    curves.plot_training(path, TITLE, CAPTION, history(["train", "test"], [""]), "accuracy")


def few_shot(path: Path) -> None:
    table = history(["train", "labelled", "test"], ["report", "balanced 1", "balanced 2"])
    measures = ["cross_entropy", "accuracy"]
    curves.plot_few_shot(path, TITLE, CAPTION, table, ["scratch"], measures)


def subsets(path: Path) -> None:
    table = numbers(["scratch", "frozen"], ["accuracy"], ["report", "balanced 1", "balanced 2"])
    of_all = numbers(["frozen, all labels"], ["accuracy"], [""])
    table = pandas.concat([table, of_all])
    models = ["scratch", "frozen", "frozen, all labels"]
    dots.plot_subsets(path, TITLE, CAPTION, table, models)


def subset_groups(path: Path) -> None:
    models = ["Q1", "Q3", "Q1, MSE", "Q3, MSE"]
    table = numbers(models, ["accuracy"], ["report", "balanced 1", "balanced 2"])
    dots.plot_subset_groups(path, TITLE, CAPTION, table, GROUPS)


def panels(path: Path) -> None:
    measures = ["l1", "mse", "accuracy", "slant_r2", "size_r2"]  # five: in two rows
    table = numbers(["Q1", "Q3", "original"], measures, [""])
    dots.plot_panels(path, TITLE, CAPTION, table, ["Q1", "Q3", "not measured"], measures)


def groups(path: Path) -> None:
    measures = ["l1", "accuracy"]
    table = numbers(["Q1", "Q3", "Q1, MSE", "Q3, MSE", "original"], measures, [""])
    dots.plot_groups(path, TITLE, CAPTION, table, GROUPS, measures)


def rows(path: Path) -> None:
    drawn = [images.Row(name, DIGITS) for name in ("original", "Q1", "Q3", "PCA-12")]
    images.plot_rows(path, TITLE, CAPTION, drawn, 2, ("left", "right"))


def mistakes(path: Path) -> None:
    texts = [(f"{number}", "a 4 read as 9") for number in range(10)]
    images.plot_mistakes(path, TITLE, CAPTION, DIGITS, texts)


def dimensions(path: Path) -> None:
    sweeps.plot_sweep(path, TITLE, CAPTION, sweep(), ["accuracy", "mse"], "latents")


def label_curve(path: Path) -> None:
    table = sweep()
    reading = {"labels": 10, "accuracy": 0.5, "worth": 32.0}
    accuracies = table[table.measure == "accuracy"]
    sweeps.plot_label_curve(path, TITLE, CAPTION, accuracies, reading)


FIGURES = [by_digit, separation, training, training_accuracy, few_shot, subsets, subset_groups]
FIGURES += [panels, groups, rows, mistakes, dimensions, label_curve]


@pytest.mark.parametrize("draw", FIGURES)
def test_a_figure_is_written_with_its_title_and_caption(draw, tmp_path):
    draw(tmp_path / "figure.png")
    assert style.texts(tmp_path / "figure.png") == (TITLE, CAPTION)
