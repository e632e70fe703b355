"""Rows of images."""

import dataclasses
from pathlib import Path

import numpy
import torch
from torch import Tensor

from common.figures import style

GAP = 4  # pixels of MNIST's size between images
GROUP_GAP = 10  # between groups of rows


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of images (C, 1, 28, 28) in [0, 1] and what it is called."""

    name: str
    images: Tensor


def plot_rows(
    path: Path,
    title: str,
    caption: str,
    rows: list[Row],
    rows_per_group: int = 0,
    column_titles: tuple[str, ...] = ("",),
) -> None:
    """Plot rows of equally many images.

    A wider gap follows every ``rows_per_group`` rows, if that is given, and separates as many equal
    groups of columns as there are ``column_titles``.
    """
    rows_per_group = rows_per_group or len(rows)
    strips, centres = [], []
    height = 0
    for number, row in enumerate(rows):
        if number and number % rows_per_group == 0:
            strips.append(torch.zeros(GROUP_GAP, strips[0].shape[1]))
            height += GROUP_GAP
        strips.append(draw_row(row, len(column_titles)))
        centres.append(height + strips[-1].shape[0] / 2)
        height += strips[-1].shape[0]
    canvas = torch.cat(strips)

    longest = max(len(line) for row in rows for line in row.name.split("\n"))
    inches_per_pixel = (style.WIDTH - 0.085 * longest - 0.3) / canvas.shape[1]
    title_inches = 0.5 + 0.25 * any(column_titles)
    with style.figure(path, height * inches_per_pixel + title_inches, title, caption) as figure:
        axes = figure.subplots()
        axes.set_anchor("E")  # what is left over goes to the names
        axes.imshow(canvas.numpy(), vmin=0, vmax=1, interpolation="nearest")
        axes.set_xticks([])
        axes.set_yticks(centres, [row.name for row in rows])
        axes.tick_params(length=0)
        axes.grid(False)
        axes.spines[:].set_visible(False)
        for label, row in zip(axes.get_yticklabels(), rows, strict=True):
            label.set_color(style.colour(row.name, "black"))
        width = canvas.shape[1] / len(column_titles)
        for number, text in enumerate(column_titles):
            axes.text((number + 0.5) * width, -3, text, ha="center", va="bottom", fontsize=10)


def draw_row(row: Row, groups: int) -> Tensor:
    """Return a row's images side by side (height, width), in equal groups with a gap between."""
    from torchvision.utils import make_grid  # a quarter of the seconds that --help would take

    parts = []
    for images in row.images.detach().cpu().float().chunk(groups):
        if parts:
            parts.append(torch.zeros(parts[0].shape[0], GROUP_GAP))
        grid = make_grid(images, nrow=len(images), padding=GAP // 2)
        parts.append(grid[0])  # the three channels are equal
    return torch.cat(parts, dim=1)


def plot_mistakes(
    path: Path, title: str, caption: str, images: Tensor, texts: list[tuple[str, str]]
) -> None:
    """Plot images (N, 1, 28, 28) eight in a row, each with a text above and one below."""
    columns = 8
    row_count = max(1, -(-len(images) // columns))
    with style.figure(path, 1.45 * row_count + 0.5, title, caption) as figure:
        grid = numpy.array(figure.subplots(row_count, columns, squeeze=False)).ravel()
        for axes in grid:
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
        for axes, image, (above, below) in zip(grid, images.cpu().numpy(), texts, strict=False):
            axes.imshow(image[0], vmin=0, vmax=1)
            axes.set_title(above, fontsize=11)
            axes.set_xlabel(below, fontsize=10, labelpad=2)
