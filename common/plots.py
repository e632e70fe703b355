"""Every figure, in one look: colour-blind safe (Okabe & Ito 2008). Its title is also its caption in the report."""

import contextlib
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, PercentFormatter
from numpy.typing import NDArray
from torch import Tensor

from common.run import UNITS

SPLIT_COLOURS = {"train": "#0072B2", "labelled": "#0072B2", "validation": "#E69F00", "test": "#009E73"}
SERIES_COLOURS = ["#0072B2", "#D55E00", "#999999", "#CC79A7"]
BAR_COLOURS = {"Q1": "#0072B2", "Q3": "#D55E00", "Q3 on plain Q2": "#E69F00", "random encoder": "#999999"}
BAR_COLOURS |= {"digit's mean image": "#56B4E9", "PCA": "#CC79A7"}
# Ten digits need ten colours, more than any colour-blind safe palette keeps apart: points are plotted as digits too.
DIGIT_COLOURS = matplotlib.colormaps["tab10"].colors
STYLE = {"axes.axisbelow": True, "axes.grid": True, "axes.spines.right": False, "axes.spines.top": False}
STYLE |= {"grid.alpha": 0.3, "image.cmap": "gray_r", "legend.frameon": False, "savefig.dpi": 150}  # gray_r: ink


@contextlib.contextmanager
def _figure(path: Path, width: float, height: float, title: str) -> Iterator[Figure]:
    """Yield a figure of that size in inches, and write it with its title to ``path`` when the block ends."""
    with matplotlib.rc_context(STYLE):
        figure = Figure((width, height), layout="constrained")
        figure.suptitle(textwrap.fill(title, round(12 * width)), fontsize=11)
        yield figure
        figure.savefig(path)


def plot_curves(path: Path, history: list[dict], metric: str, title: str) -> None:
    """Plot ``metric`` over the iterations of ``train.fit``: every step, its moving average, validation and test."""
    percent = metric == "accuracy"
    steps = numpy.concatenate([record["train"][metric] for record in history])
    width = max(1, round(0.02 * len(steps)))
    smooth = numpy.convolve(steps, numpy.ones(width) / width, mode="valid")
    ends = [record["step"] for record in history]
    with _figure(path, 7, 4, title) as figure:
        axes = figure.subplots()
        raw = {"color": SPLIT_COLOURS["train"], "alpha": 0.25, "linewidth": 0.7, "label": "train, every iteration"}
        axes.plot(range(1, len(steps) + 1), steps, **raw)
        if width > 1:
            centres = numpy.arange(len(smooth)) + (width + 1) / 2
            axes.plot(centres, smooth, color=SPLIT_COLOURS["train"], label=f"train, mean of {width} iterations")
        for split, marker in (("validation", "o"), ("test", "^")):
            values = [record[split][metric] for record in history]
            shown = f"{values[-1]:.2%}" if percent else f"{values[-1]:.4f}"
            axes.plot(ends, values, marker, color=SPLIT_COLOURS[split], label=f"{split}, last {shown}", markersize=5)
        axes.set(xlabel="training iteration", ylabel=UNITS[metric], xlim=(0, len(steps) * 1.01))
        later = smooth[len(smooth) // 20 :]  # the first steps would take up most of the axis
        if percent:
            axes.set_ylim(max(0.0, float(later.min()) - 0.02), 1.002)
            axes.yaxis.set_major_formatter(PercentFormatter(1))
        else:
            _log_axis(axes)
        axes.legend(loc="lower right" if percent else "upper right")


def plot_few_shot_curves(path: Path, panels: dict[str, dict[str, Any]], metric: str, title: str) -> None:
    """Plot ``metric`` over training iterations, from before the first on, on labelled and on test images, a panel for
    each variant, on one scale as in ``plot_curves``, from variant -> subset -> outcome of ``few_shot``. The first
    balanced subset is thick, the lowest of its test losses marked, and the panel's title says its last values and their
    gap; `first`, which is not balanced, is left out.
    """
    percent, columns = metric == "accuracy", min(2, len(panels))
    rows = -(-len(panels) // columns)
    with _figure(path, max(7.0, 4.6 * columns), 3 * rows + 1.0, title) as figure:
        grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
        for (name, by_subset), axes in zip(panels.items(), grid.flat, strict=True):
            histories = [outcome.history for subset, outcome in by_subset.items() if subset != "first"]
            for number, history in reversed(list(enumerate(histories))):  # the thick one last, on top
                look = {"linewidth": 0.8, "alpha": 0.5} if number else {"linewidth": 2.2}
                steps, which = [record["step"] for record in history], "other subsets" if number else "subset 1"
                for split in ("labelled", "test"):
                    values = [record[split][metric] for record in history]
                    axes.plot(steps, values, color=SPLIT_COLOURS[split], label=f"{split} images, {which}", **look)
            train, test = (histories[0][-1][split][metric] for split in ("labelled", "test"))
            if percent:
                numbers = f"labelled {train:.1%}, test {test:.1%}: over-fitting by {100 * (train - test):.1f} points"
                axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
            else:
                numbers = f"labelled {train:.3g}, test {test:.3g}: {test / train:.1f} times as much"
                lowest = min(histories[0], key=lambda record: record["test"][metric])
                step, value = lowest["step"], lowest["test"][metric]
                axes.plot(step, value, "kv", label="lowest on test images, subset 1")
                numbers += f"\nlowest on test images {value:.3g}, at iteration {step}"
                _log_axis(axes)
            axes.set_title(f"{name}\n{numbers}", fontsize=9)
            axes.set_xscale("symlog", linthresh=histories[0][1]["step"])  # logarithmic, but for the first step from 0
            axes.set_xlim(left=0)
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        figure.supylabel(UNITS[metric], fontsize=10)
        for axes in grid[-1]:
            axes.set_xlabel("training iteration")
        _legend_below(figure, grid[0, 0], columns=2)


def plot_label_curve(path: Path, shots: Sequence[int], series: dict[str, list[list[float]]], title: str) -> None:
    """Plot accuracies, by shots and subset, against labelled images per digit: the mean a line, the range a band."""
    with _figure(path, 7, 4.6, title) as figure:
        axes = figure.subplots()
        for (name, by_shots), colour, marker in zip(series.items(), SERIES_COLOURS, "os^D", strict=False):
            accuracies = numpy.array(by_shots)
            axes.plot(shots, accuracies.mean(1), color=colour, marker=marker, label=name)
            axes.fill_between(shots, accuracies.min(1), accuracies.max(1), color=colour, alpha=0.2, linewidth=0)
        axes.set(xscale="log", xlabel="labelled images per digit", ylabel="accuracy on test images")
        axes.set_xticks(shots, map(str, shots))
        axes.minorticks_off()
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.legend(loc="lower right")


def plot_dots(path: Path, rows: dict[str, dict[str, Any]], title: str) -> None:
    """Plot a row per variant, from ``few_shot``'s outcomes: a dot per balanced subset, their mean, `first` hollow."""
    with _figure(path, 7.5, 0.42 * len(rows) + 1.6, title) as figure:
        axes = figure.subplots()
        for height, by_subset in enumerate(rows.values()):
            accuracies = {subset: outcome.metrics["test"]["accuracy"] for subset, outcome in by_subset.items()}
            look = {"fillstyle": "none", "color": SERIES_COLOURS[1], "label": "first training images, as many"}
            if "first" in accuracies:
                axes.plot(accuracies.pop("first"), height, "D", **look)
            values = list(accuracies.values())
            axes.plot(values, [height] * len(values), "o", color=SERIES_COLOURS[0], alpha=0.6, label="balanced subset")
            mean = numpy.mean(values)
            text, beside = f"{mean:.2%}", ("axes fraction", "data")
            if len(values) > 1:
                axes.plot([mean, mean], [height - 0.3, height + 0.3], color="black", linewidth=1.5, label="their mean")
                text += f" ± {100 * numpy.std(values, ddof=1):.2f}"
            axes.annotate(text, (1.01, height), xycoords=beside, va="center", fontsize=9)
        axes.set_yticks(range(len(rows)), rows)
        axes.invert_yaxis()
        axes.set_xlabel("accuracy on test images")
        axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        _legend_below(figure, axes, columns=3)


def plot_reconstructions(path: Path, blocks: list[dict[str, Tensor]], labels: Tensor, title: str) -> None:
    """Plot blocks of rows: name -> images (C, 1, 28, 28) in [0, 1] on the CPU, the originals, then reconstructions."""
    rows = [(name, images, next(iter(block.values()))) for block in blocks for name, images in block.items()]
    with _figure(path, 0.95 * len(labels) + 0.9, 1.1 * len(rows) + 0.5, title) as figure:
        grid = figure.subplots(len(rows), len(labels), squeeze=False)
        for axes, label in zip(grid[0], labels, strict=True):
            axes.set_title(f"{int(label)}")
        for line, (name, images, originals) in zip(grid, rows, strict=True):
            line[0].set_ylabel(name)
            for axes, image, original in zip(line, images, originals, strict=True):
                _image(axes, image, below="" if images is originals else f"L1 {(image - original).abs().mean():.3f}")


def plot_latents(path: Path, projections: dict[str, NDArray], labels: NDArray, title: str) -> None:
    """Plot 2-D projections (name -> (N, 2)) side by side, each image as a small digit in its digit's colour."""
    with _figure(path, 5.2 * len(projections), 5.2, title) as figure:
        grid = figure.subplots(1, len(projections), squeeze=False)[0]
        outline = patheffects.withStroke(linewidth=3, foreground="white")
        look = {"fontsize": 20, "weight": "bold", "ha": "center", "va": "center", "path_effects": [outline]}
        for axes, (name, points) in zip(grid, projections.items(), strict=True):
            for digit, colour in enumerate(DIGIT_COLOURS):
                members = points[labels == digit]
                axes.scatter(*members.T, marker=f"${digit}$", color=colour, s=22, linewidths=0.2, alpha=0.8)
                axes.text(*numpy.median(members, axis=0), str(digit), color=colour, **look)
            axes.set(title=name, xticks=[], yticks=[])
            axes.spines[:].set_visible(True)


def plot_confusion(path: Path, counts: NDArray, title: str) -> None:
    """Plot counts (K, K), rows the true class, columns the predicted one, mistakes coloured by their share of a row."""
    mistakes = 100 * (counts / counts.sum(axis=1, keepdims=True))
    numpy.fill_diagonal(mistakes, numpy.nan)
    dark = mistakes > 0.6 * numpy.nanmax(mistakes)
    colours = numpy.select([numpy.eye(len(counts), dtype=bool), dark], ["#0072B2", "white"], "black")
    with _figure(path, 6.4, 5.4, title) as figure:
        axes = figure.subplots()
        coloured = axes.imshow(mistakes, cmap="Oranges", vmin=0)
        for true, predicted in numpy.argwhere(counts):
            text, colour = f"{counts[true, predicted]:,}", colours[true, predicted]
            axes.text(predicted, true, text, ha="center", va="center", fontsize=8, color=colour)
        axes.grid(False)
        axes.set(xlabel="predicted digit", ylabel="true digit", xticks=range(len(counts)), yticks=range(len(counts)))
        figure.colorbar(coloured, label="mistakes, % of the true digit's images")


def plot_mistakes(path: Path, images: Tensor, labels: Tensor, predicted: Tensor, sure: Tensor, title: str) -> None:
    """Plot images (N, 1, 28, 28) eight in a row, with labels, predictions and their probabilities (N,), on the CPU."""
    rows = max(1, -(-len(images) // 8))
    with _figure(path, 9.2, 1.6 * rows + 0.5, title) as figure:
        shown, left_over = numpy.split(figure.subplots(rows, 8, squeeze=False).ravel(), [len(images)])
        for axes, image, label, prediction, confidence in zip(shown, images, labels, predicted, sure, strict=True):
            _image(axes, image, below=f"{confidence:.1%} sure")
            axes.set_title(f"{int(label)} read as {int(prediction)}", fontsize=9)
        for axes in left_over:
            axes.set_axis_off()


def plot_bars(path: Path, panels: dict[str, dict[str, float]], title: str, reference: str) -> None:
    """Plot a panel per measure (its title -> name -> value): a bar per name, ``reference`` as a dashed line."""
    with _figure(path, max(7.2, 2.4 * len(panels)), 3.2, title) as figure:
        grid, handles = figure.subplots(1, len(panels), squeeze=False)[0], {}
        for (name, series), axes in zip(panels.items(), grid, strict=True):
            values = {model: value for model, value in series.items() if model != reference}
            if reference in series:
                handles[reference] = axes.axhline(series[reference], color="black", linestyle="--", linewidth=0.8)
            colours = [BAR_COLOURS.get(model, BAR_COLOURS["PCA"]) for model in values]
            bars = axes.bar(range(len(values)), values.values(), color=colours)
            on_white = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}  # or the dashed line strikes it through
            labels = [f"{value:.3g}" if abs(value) > 1e-9 else "0" for value in values.values()]  # rounding is no value
            axes.bar_label(bars, labels, fontsize=8, padding=2, bbox=on_white)
            axes.set(xticks=[], ymargin=0.15)
            axes.set_title(name, fontsize=9)
            axes.tick_params(labelsize=8)
            handles |= dict(zip(values, bars.patches, strict=True))
        figure.legend(handles.values(), handles, loc="outside lower center", ncols=4)


def _legend_below(figure: Figure, axes: Axes, columns: int) -> None:
    """Put the axes' legend under the figure, a label that occurs several times once."""
    by_label = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    figure.legend(by_label.values(), by_label, loc="outside lower center", ncols=columns)


def _log_axis(axes: Axes) -> None:
    """Make the y axis logarithmic, with plain decimals at 1, 2, 3 and 5 of each power of ten, or if many at 1 alone."""

    def plain(value: float, _: int) -> str:
        low, high = axes.get_ylim()
        return f"{value:g}" if f"{value:.0e}"[0] in ("1235" if high < 1_000 * low else "1") else ""

    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(plain))
    axes.yaxis.set_minor_formatter(FuncFormatter(plain))


def _image(axes: Axes, image: Tensor, below: str) -> None:
    axes.imshow(image[0].numpy(), vmin=0, vmax=1)
    axes.set(xticks=[], yticks=[])
    axes.set_xlabel(below, fontsize=8, labelpad=2)
    axes.spines[:].set(visible=True, color="#BBBBBB", linewidth=0.5)
