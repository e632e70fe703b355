"""Every figure, in one look: colour-blind safe (Okabe & Ito 2008), one colour for one thing, readable at 800 pixels.

The first sentence of a figure's caption is its message and drawn as its title; the report shows the whole caption.
"""

import contextlib
import io
import textwrap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy
import torch
import torch.nn.functional as F
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, PercentFormatter
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from common.run import UNITS

WIDTH = 8.0  # inches, of every figure: 1,280 pixels
PICTURE = 3.6  # inches high, above the measures of a claim
GAP = 4  # pixels of MNIST's size between images
OTHERS = "#888888"  # controls and baselines
# By how a name begins; of the models, of the splits in curves, and of where Q4's and Q5's encoders start from.
COLOURS = {"Q1": "#0072B2", "Q3 on plain Q2": "#F0A878", "Q2": "#D55E00", "Q3": "#D55E00"}
COLOURS |= {"train": "#CC79A7", "labelled": "#CC79A7", "validation": "#E69F00", "test": "#009E73"}
COLOURS |= {"PCA": OTHERS, "scratch": "#000000", "frozen": "#56B4E9", "fine-tuned": "#882255", "spread": "#999933"}
DIGIT_COLOURS = matplotlib.colormaps["tab10"].colors  # more than any palette keeps apart: points are drawn as digits
STYLE = {"axes.axisbelow": True, "axes.grid": True, "axes.spines.right": False, "axes.spines.top": False}
STYLE |= {"grid.alpha": 0.3, "image.cmap": "gray_r", "legend.frameon": False, "legend.fontsize": 9}  # gray_r: ink
STYLE |= {"savefig.dpi": 160}


def colour(name: str, other: str = OTHERS) -> str:
    """Return the colour of what is called so, the same in all figures, or ``other`` if it has none of its own."""
    return next((of for start, of in COLOURS.items() if name.startswith(start)), other)


def _title(caption: str) -> list[str]:
    """Return a caption's first sentence, which is a figure's title, in lines of about equal lengths."""
    title = caption.partition(". ")[0]
    return textwrap.wrap(title, len(title) // (1 + len(title) // 84) + 8, break_on_hyphens=False)


@contextlib.contextmanager
def _figure(path: Path, height: float, caption: str) -> Iterator[Figure]:
    """Yield a figure of that height in inches, and write it to ``path``, in a palette of its own, as the block ends."""
    with matplotlib.rc_context(STYLE):
        figure = Figure((WIDTH, height), layout="constrained")
        figure.suptitle("\n".join(_title(caption)), fontsize=12)
        yield figure
        drawn = io.BytesIO()
        figure.savefig(drawn)
    image = Image.open(drawn).convert("RGB")
    counts, colours = zip(*image.getcolors(image.width * image.height), strict=True)
    some = numpy.repeat(numpy.uint8(colours), numpy.sqrt(counts).astype(int), axis=0)  # rare colours count too
    palette = Image.fromarray(some[None]).quantize(256)
    image = image.quantize(palette=palette, dither=Image.Dither.NONE)
    paper = 3 * image.getpixel((0, 0))
    image.putpalette([*image.getpalette()[:paper], 255, 255, 255, *image.getpalette()[paper + 3 :]])
    image.save(path, optimize=True)


def plot_curves(
    path: Path, caption: str, history: list[dict], metric: str, levels: dict[str, float] | None = None
) -> None:
    """Plot ``metric`` over the iterations of ``train.fit``: every step, its moving average, validation and test, and
    ``levels`` to compare them with, as lines across.
    """
    percent = metric == "accuracy"
    steps = numpy.concatenate([record["train"][metric] for record in history])
    width = max(1, round(0.02 * len(steps)))
    smooth = numpy.convolve(steps, numpy.ones(width) / width, mode="valid")
    ends = [record["step"] for record in history]
    with _figure(path, 4.4, caption) as figure:
        axes = figure.subplots()
        raw = {"color": colour("train"), "alpha": 0.3, "linewidth": 0.6, "label": "train, every iteration"}
        axes.plot(range(1, len(steps) + 1), steps, **raw)
        centres = numpy.arange(len(smooth)) + (width + 1) / 2
        axes.plot(centres, smooth, color=colour("train"), label=f"train, mean of {width} iterations")
        for split, look in (("validation", {"fillstyle": "none", "markersize": 9}), ("test", {"markersize": 4})):
            values = [record[split][metric] for record in history]
            shown = f"{values[-1]:.2%}" if percent else f"{values[-1]:.4f}"
            axes.plot(ends, values, "o:", color=colour(split), label=f"{split}, at the end {shown}", **look)
        for name, level in (levels or {}).items():
            axes.axhline(level, color=colour(name), linestyle="--", linewidth=1)
            look = {"xycoords": ("axes fraction", "data"), "va": "center", "color": colour(name)}
            axes.annotate(f"{name}\n{level:.4f}", (1.01, level), **look)
        axes.set(xlabel="training iteration", ylabel=_unit(metric), xlim=(0, len(steps) * 1.01))
        later = smooth[len(smooth) // 20 :]  # the first steps would take up most of the axis
        if percent:
            axes.set_ylim(max(0.0, float(later.min()) - 0.02), 1.002)
            axes.yaxis.set_major_formatter(PercentFormatter(1))
        else:
            _log_axis(axes)
        _legend_below(figure, axes, columns=2)


def plot_few_shot_curves(path: Path, caption: str, panels: dict[str, dict[str, Any]], *metrics: str) -> None:
    """Plot ``metrics`` over training iterations, from before the first on, on labelled and on test images, a panel for
    each metric and variant, from variant -> subset -> outcome of ``few_shot``. A line is the mean of the balanced
    subsets, a band their range; `first`, which is not balanced, is a line of its own.
    """
    shown = [(metric, name) for metric in metrics for name in panels]
    rows = -(-len(shown) // 2)
    with _figure(path, 2.7 * rows + 1.3, caption) as figure:
        grid = figure.subplots(rows, min(2, len(shown)), squeeze=False, sharey="row")
        for (metric, name), axes in zip(shown, grid.flat, strict=True):
            _few_shot_panel(axes, panels[name], metric)
            axes.set_title(name, fontsize=10)
            if axes in grid[:, 0]:
                axes.set_ylabel(_unit(metric))
        for axes in grid[-1]:
            axes.set_xlabel("training iteration")
        _legend_below(figure, grid[0, 0], columns=2)


def _few_shot_panel(axes: Axes, by_subset: dict[str, Any], metric: str) -> None:
    histories = {subset: outcome.history for subset, outcome in by_subset.items()}
    first, metrics = histories.pop("first", None), next(iter(by_subset.values())).metrics
    first_test_images = next(f"{name} images" for name in metrics if name.endswith(" test"))
    steps = [record["step"] for record in next(iter(histories.values()))]
    for split, name in (("labelled", "labelled images"), ("test", first_test_images)):
        curves = numpy.array([[record[split][metric] for record in history] for history in histories.values()])
        axes.plot(steps, curves.mean(0), color=colour(split), linewidth=2, label=name)
        axes.fill_between(steps, curves.min(0), curves.max(0), color=colour(split), alpha=0.2, linewidth=0)
        if first:
            axes.plot(steps, [record[split][metric] for record in first], ":", color=colour(split))
    axes.plot([], [], "k-", linewidth=2, label="balanced subsets: mean and range")
    if first:
        axes.plot([], [], "k:", label="subset of the first images (unbalanced)")
    axes.set_xscale("symlog", linthresh=steps[1])  # logarithmic, but for the first step from 0
    axes.set_xlim(left=0)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    if metric == "accuracy":
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    else:  # ``curves`` are the test images'
        lowest = numpy.median(numpy.array(steps)[curves.argmin(1)])
        value = numpy.interp(lowest, steps, curves.mean(0))
        axes.plot(lowest, value, "kv", markersize=8, label="lowest loss on test images (median of balanced subsets)")
        look = {"ha": "center", "path_effects": [patheffects.withStroke(linewidth=2, foreground="white")]}
        axes.annotate(f"{lowest:,.0f}", (lowest, value), (0, 8), textcoords="offset points", **look)
        _log_axis(axes)


def plot_label_curve(
    path: Path, caption: str, shots: Sequence[int], series: dict[str, list[list[float]]],
    read: tuple[int, float, float],
) -> None:  # fmt: skip
    """Plot accuracies, by shots and subset, against labelled images per digit: the mean a line, the range a band; and
    ``read``, at which accuracy from how many to how many images to look, as ``few_shot.worth`` has it.
    """
    with _figure(path, 4.6, caption) as figure:
        axes = figure.subplots()
        for (name, by_shots), marker in zip(series.items(), "os^D", strict=False):
            accuracies = numpy.array(by_shots)
            axes.plot(shots, accuracies.mean(1), color=colour(name), marker=marker, label=name)
            axes.fill_between(shots, accuracies.min(1), accuracies.max(1), color=colour(name), alpha=0.2, linewidth=0)
        axes.set(xscale="log", xlabel="labelled images per digit", ylabel="accuracy on test images")
        axes.set_xticks(shots, map(str, shots))
        axes.minorticks_off()
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        few, accuracy, equal = read
        if 0 < equal < numpy.inf:
            low = axes.get_ylim()[0]
            axes.plot([few, equal, equal], [accuracy, accuracy, low], "k--", linewidth=1)
            axes.annotate(f" {equal:.0f}", (equal, low), (0, 6), textcoords="offset points")
            axes.set_ylim(bottom=low)
        axes.legend(loc="lower right")


def plot_dots(path: Path, caption: str, outcomes: dict[str, dict[str, Any]], *rows: str) -> None:
    """Plot a row for each named variant of ``few_shot``'s outcomes: a dot per balanced subset, `first` hollow."""
    with _figure(path, 0.36 * len(rows) + 1.6, caption) as figure:
        axes = figure.subplots()
        for height, name in enumerate(rows):
            accuracies = {subset: of.metrics["test"]["accuracy"] for subset, of in outcomes[name].items()}
            first, values = accuracies.pop("first", None), list(accuracies.values())
            if first is not None:
                axes.plot(first, height, "D", fillstyle="none", color=colour(name), zorder=3)
            axes.plot(values, [height] * len(values), "o", color=colour(name), alpha=0.6)
            mean = numpy.mean(values)
            text, beside = f"{mean:.2%}", ("axes fraction", "data")
            if len(values) > 1:
                axes.plot([mean, mean], [height - 0.3, height + 0.3], color="black", linewidth=1.5)
                text += f" ± {100 * numpy.std(values, ddof=1):.2f}"
            else:
                text += " (one subset)"
            axes.annotate(text, (1.01, height), xycoords=beside, va="center", fontsize=10)
        for marker, look, name in (("o", "full", "balanced subset"), ("|", "full", "their mean"),
                                   ("D", "none", "subset of the first images (unbalanced)")):  # fmt: skip
            axes.plot([], [], marker, fillstyle=look, color="black", markersize=8, label=name)
        axes.set_yticks(range(len(rows)), rows)
        axes.invert_yaxis()
        axes.set_xlabel("accuracy on test images")
        axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        _legend_below(figure, axes, columns=3)


def plot_images(
    path: Path, caption: str, groups: dict[str, dict[str, Tensor]],
    readings: dict[str, dict[str, NDArray]] | None = None, labels: dict[str, dict[str, NDArray]] | None = None,
) -> None:  # fmt: skip
    """Plot groups side by side, of the same rows each: title -> row's name -> images (C, 1, 28, 28) in [0, 1].
    A row's ``readings``, a digit (C,) for each image, stand below it; those that are not its ``labels`` are framed.
    """
    names, height = list(next(iter(groups.values()))), 28 + GAP + (10 if readings else 0)
    counts = [len(next(iter(rows.values()))) for rows in groups.values()]
    margin = 0.085 * max(len(line) for name in names for line in name.split("\n")) + 0.2
    inches = (WIDTH - margin - 0.4 * len(counts) + 0.3) / sum(counts) / (28 + GAP)  # a pixel
    titles = 0.3 * any(groups) + 0.2 * (1 + len(_title(caption)))
    with _figure(path, inches * height * len(names) + titles, caption) as figure:
        figure.get_layout_engine().set(wspace=0.05)
        grid = figure.subplots(1, len(groups), squeeze=False, width_ratios=counts)[0]
        for axes, (title, rows), count in zip(grid, groups.items(), counts, strict=True):
            padded = F.pad(torch.cat(list(rows.values())).float(), (0, GAP, 0, height - 28))
            canvas = padded.view(len(rows), count, height, 28 + GAP).transpose(1, 2).flatten(0, 1).flatten(1)
            axes.imshow(canvas.numpy(), vmin=0, vmax=1, interpolation="nearest")
            axes.set(xticks=[], yticks=[])
            axes.set_title(title, color=colour(title, "black"))
            axes.grid(False)
            axes.spines[:].set_visible(False)
            for row, name in enumerate(names):
                for column, digit in enumerate((readings or {}).get(title, {}).get(name, ())):
                    wrong = bool(labels) and digit != labels[title][name][column]
                    look = {"ha": "center", "va": "center", "fontsize": 9, "weight": "bold" if wrong else "normal"}
                    x, y = column * (28 + GAP), row * height
                    axes.text(x + 13.5, y + 28 + 5, str(digit), color="black" if wrong else OTHERS, **look)
                    if wrong:
                        axes.add_patch(Rectangle((x - 1, y - 1), 29, 29, fill=False, linewidth=1.5, clip_on=False))
        grid[0].set_yticks(height * numpy.arange(len(names)) + 13.5, names)
        grid[0].tick_params(length=0)
        for text, name in zip(grid[0].get_yticklabels(), names, strict=True):
            text.set_color(colour(name, "black"))


def plot_claim(
    path: Path, caption: str, measures: dict[str, dict[str, float]], panels: dict[str, list[str]],
    picture: Callable[[SubFigure], None] | None = None,
) -> None:  # fmt: skip
    """Plot ``panels`` (measure -> its words, ...) of ``measures`` (model -> measure -> value), a row per model, the
    originals a dashed line; two whose words differ after a colon share one. Above, if given, what ``picture`` draws.
    """
    shown: dict[str, dict[str, str]] = {}
    for measure, (words, *_) in panels.items():
        title, _, name = words.partition(": ")
        shown.setdefault(title, {})[measure] = name
    models = [model for model in measures if model != "original" and not panels.keys().isdisjoint(measures[model])]
    height = 0.3 * len(models) + 1.0
    with _figure(path, height + 0.5 + (PICTURE if picture else 0), caption) as figure:
        below = figure
        if picture:
            above, below = figure.subfigures(2, 1, height_ratios=(PICTURE, height))
            picture(above)
        grid = below.subplots(1, len(shown), squeeze=False, sharey=True)[0]
        for axes, (title, names) in zip(grid, shown.items(), strict=True):
            axes.set_title(textwrap.fill(title, 100 // len(shown)), fontsize=10)
            _rows(axes, {model: measures[model] for model in models}, names)
            if (of_originals := measures["original"].get(next(iter(names)))) is not None:
                axes.axvline(of_originals, color="black", linestyle="--", linewidth=1)
        grid[0].set_yticks(range(len(models)), models)
        grid[0].set_ylim(len(models) - 0.4, -0.6)
        for text, name in zip(grid[0].get_yticklabels(), models, strict=True):
            text.set(color=colour(name), weight="bold" if colour(name) != OTHERS else "normal")


def _rows(axes: Axes, measures: dict[str, dict[str, float]], names: dict[str, str]) -> None:
    """Plot a dot and its value for every model and measure; the second measure's are hollow, its values below."""
    for (measure, name), style, side in zip(names.items(), ("full", "none"), (9, -10), strict=False):
        for height, (model, values) in enumerate(measures.items()):
            if measure in values:
                axes.plot(values[measure], height, "o", fillstyle=style, color=colour(model), markersize=7)
                value = round(values[measure], 3) + 0.0  # not -0
                beside = {"ha": "center", "va": "center", "fontsize": 9, "textcoords": "offset points"}
                beside["bbox"] = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}
                axes.annotate(f"{value:.3f}", (value, height), (0, side), **beside)
        if name:
            axes.plot([], [], "o", fillstyle=style, color="black", label=name)
            axes.legend()
    axes.set_xmargin(0.15)


def by_digit(figure: SubFigure, reconstructions: dict[str, NDArray], labels: NDArray) -> None:
    """Plot how much of the standard deviation within each digit reconstructions (name -> (N, 1, 28, 28)) keep."""
    axes, digits = figure.subplots(), range(10)
    norms = {name: numpy.array([numpy.linalg.norm(images[labels == digit].std(0)) for digit in digits])
             for name, images in reconstructions.items()}  # fmt: skip
    originals = norms.pop("original")
    axes.axhline(1, color="black", linestyle="--", linewidth=1, label="originals")
    for name, norm in norms.items():
        axes.plot(digits, norm / originals, "o", color=colour(name), markersize=8, label=name)
    axes.set(xlabel="digit", xticks=digits, ylim=(0, None))
    axes.set_ylabel("share kept of the standard\ndeviation within the digit")
    figure.legend(loc="outside lower center", ncols=len(reconstructions))


def scatter(figure: SubFigure, projections: dict[str, NDArray], labels: NDArray) -> None:
    """Plot 2-D projections (name -> (N, 2)) side by side, each image as a small digit in its digit's colour."""
    outline = patheffects.withStroke(linewidth=3, foreground="white")
    look = {"fontsize": 18, "weight": "bold", "ha": "center", "va": "center", "path_effects": [outline]}
    for axes, (name, points) in zip(figure.subplots(1, len(projections)), projections.items(), strict=True):
        for digit, of_digit in enumerate(DIGIT_COLOURS):
            members = points[labels == digit]
            axes.scatter(*members.T, marker=f"${digit}$", color=of_digit, s=16, linewidths=0.2, alpha=0.8)
            axes.text(*numpy.median(members, axis=0), str(digit), color=of_digit, **look)
        axes.set(xticks=[], yticks=[])
        axes.set_title(name, color=colour(name), weight="bold")
        axes.spines[:].set_visible(True)


def plot_confusion(path: Path, caption: str, counts: NDArray) -> None:
    """Plot counts (K, K), rows the true class, columns the predicted one, mistakes coloured by their share of a row."""
    mistakes = 100 * (counts / counts.sum(axis=1, keepdims=True))
    numpy.fill_diagonal(mistakes, numpy.nan)
    dark = mistakes > 0.6 * numpy.nanmax(mistakes)
    colours = numpy.select([numpy.eye(len(counts), dtype=bool), dark], [OTHERS, "white"], "black")
    with _figure(path, 5.4, caption) as figure:
        axes = figure.subplots()
        coloured = axes.imshow(mistakes, cmap="Oranges", vmin=0)
        for true, predicted in numpy.argwhere(counts):
            text, ink = f"{counts[true, predicted]:,}", colours[true, predicted]
            axes.text(predicted, true, text, ha="center", va="center", fontsize=10, color=ink)
        axes.grid(False)
        axes.set(xlabel="predicted digit", ylabel="true digit", xticks=range(len(counts)), yticks=range(len(counts)))
        figure.colorbar(coloured, label="mistakes, % of the true digit's images")


def plot_mistakes(path: Path, caption: str, images: Tensor, labels: Tensor, predicted: Tensor, sure: Tensor) -> None:
    """Plot images (N, 1, 28, 28) eight in a row, with labels, predictions and their probabilities (N,), on the CPU."""
    rows = max(1, -(-len(images) // 8))
    with _figure(path, 1.35 * rows + 0.5, caption) as figure:
        shown, left_over = numpy.split(figure.subplots(rows, 8, squeeze=False).ravel(), [len(images)])
        for axes, image, label, prediction, confidence in zip(shown, images, labels, predicted, sure, strict=True):
            axes.imshow(image[0].numpy(), vmin=0, vmax=1)
            axes.set(xticks=[], yticks=[])
            axes.set_xlabel(f"{confidence:.1%} sure", fontsize=9, labelpad=2)
            axes.set_title(f"{int(label)} read as {int(prediction)}", fontsize=10)
            axes.spines[:].set_visible(False)
        for axes in left_over:
            axes.set_axis_off()


def _unit(metric: str) -> str:
    return UNITS[metric].removesuffix(" (fraction)")  # shown in per cent


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
