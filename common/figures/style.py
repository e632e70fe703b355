"""One look for every figure: colour-blind safe (after Okabe & Ito 2008), one colour for one thing,
800 pixels or more.
"""

import contextlib
import io
import os
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

# A script that a notebook starts inherits its backend, which matplotlib may not find here.
if "IPython" not in sys.modules:
    os.environ.pop("MPLBACKEND", None)

import matplotlib
import numpy
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from PIL import Image
from PIL.PngImagePlugin import PngInfo

WIDTH = 8.0  # inches, of every figure: 1,040 pixels
TITLE_COLUMNS = 84  # characters
MARKS: list[str] = []  # words before every title; see run.mark_figures
BASELINE = "#666666"  # baselines and controls
COLOURS = {
    # models
    "Q1": "#0072B2",
    "Q2": "#B54F00",
    "Q3": "#B54F00",  # the decoder on Q2's encoder
    # splits
    "train": "#A8538B",
    "labelled": "#A8538B",
    "test": "#00805E",
    # where the encoder of a few-shot classifier starts from
    "scratch": "#000000",
    "frozen": "#0B7A8A",
    "fine-tuned": "#882255",
    "frozen, all labels": "#0B7A8A",
    "scratch, augmented": "#5B6C8F",
    "frozen, augmented": "#0B7A8A",
    "fine-tuned, augmented": "#B0503F",
}
STYLE = {
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "grid.alpha": 0.3,
    "image.cmap": "gray_r",  # ink on paper
    "legend.frameon": False,
    "legend.fontsize": 9,
    "savefig.dpi": 130,
}


def colour(name: str, otherwise: str = BASELINE) -> str:
    """Return the colour of a model, split or start, the same in all figures."""
    return COLOURS.get(name, otherwise)


@contextlib.contextmanager
def figure(path: Path, height: float, title: str, caption: str) -> Iterator[Figure]:
    """Yield a figure of a height in inches, and write it to ``path`` as the block ends.

    Title and caption are also kept in the file, as PNG text: ``texts`` reads them.
    """
    title = ": ".join([*MARKS, title])
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # whatever the user's settings
        matplotlib.rcParams.update(STYLE)
        drawn = Figure((WIDTH, height), layout="constrained")
        line_count = 1 + len(title) // TITLE_COLUMNS
        width = len(title) // line_count + 8  # lines of about equal length
        lines = textwrap.wrap(title, width, break_on_hyphens=False)
        drawn.suptitle("\n".join(lines), fontsize=12)
        yield drawn
        buffer = io.BytesIO()
        drawn.savefig(buffer, format="png")

    information = PngInfo()
    information.add_itxt("Title", title)
    information.add_itxt("Description", caption)
    quantised(Image.open(buffer).convert("RGB")).save(path, optimize=True, pnginfo=information)


def texts(path: Path) -> tuple[str, str]:
    """Return title and caption of a figure."""
    with Image.open(path) as image:
        image.load()
        return image.info.get("Title", ""), image.info.get("Description", "")


def quantised(image: Image.Image) -> Image.Image:
    """Return an image of 256 colours of its own, a third of the size; white stays white."""
    counts, colours = zip(*image.getcolors(image.width * image.height), strict=True)
    repeats = numpy.sqrt(counts).astype(int)  # rare colours count too
    sample = numpy.repeat(numpy.uint8(colours), repeats, axis=0)
    palette = Image.fromarray(sample[None]).quantize(256)
    image = image.quantize(palette=palette, dither=Image.Dither.NONE)
    paper = 3 * image.getpixel((0, 0))
    image.putpalette([*image.getpalette()[:paper], 255, 255, 255, *image.getpalette()[paper + 3 :]])
    return image


def legend_below(drawn: Figure, axes: Axes, columns: int) -> None:
    """Put the axes' legend under the figure."""
    handles, labels = axes.get_legend_handles_labels()
    legend = drawn.legend(handles, labels, loc="outside lower center", ncols=columns)
    for line in legend.get_lines():  # so short, a thin one is hardly seen
        line.set_linewidth(max(1.5, line.get_linewidth()))


def percent_axis(axis: matplotlib.axis.Axis) -> None:
    """Write an axis of fractions as percentages."""
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.4g}%"))


def log_axis(axes: Axes) -> None:
    """Make the y axis logarithmic, with plain decimals at 1, 2, 3 and 5 of each power of ten, or if
    many at 1 alone.
    """

    def plain(value: float, _: int) -> str:
        low, high = axes.get_ylim()
        digits = "1235" if high < 1_000 * low else "1"
        if f"{value:.0e}"[0] not in digits:
            return ""
        return f"{value:.10f}".rstrip("0").rstrip(".")

    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(plain))
    axes.yaxis.set_minor_formatter(FuncFormatter(plain))
