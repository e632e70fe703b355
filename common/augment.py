"""Augmentation on the device: each image of a batch gets a warp, and strokes, of its own."""

import functools
import math
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NODES = 5  # along each axis, of the elastic displacements


def warp(
    images: Tensor, generator: torch.Generator, *, rotation: float = 7.0, scale: float = 0.07, shear: float = 0.07,
    shift: float = 1.0, elastic: float = 0.7,
) -> Tensor:  # fmt: skip
    """Return warped copies of square ``images`` (B, 1, S, S); what comes in from outside is 0.

    Per image and uniform within +/- the value: ``rotation`` in degrees, ``scale`` of each sampling axis as a fraction,
    ``shear`` as a slope, ``shift`` of each axis in pixels. On top, smooth displacements (after Simard et al. 2003), a
    5x5 grid with ``elastic`` pixels of standard deviation, interpolated. ``generator`` is on the images' device.
    """
    batch, side = len(images), images.shape[-1]
    pixel = 2 / side  # on the axes of grid_sample, from -1 to 1

    def uniform(*shape: int) -> Tensor:
        return torch.rand(batch, *shape, generator=generator, device=images.device) * 2 - 1

    angle = uniform() * math.radians(rotation)
    rotate = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], dim=1).view(batch, 2, 2)
    stretch = torch.diag_embed(1 + scale * uniform(2))
    stretch[:, 0, 1] = shear * uniform()
    moves = shift * pixel * uniform(2)
    nodes = torch.randn(batch, 2, NODES**2, generator=generator, device=images.device) * elastic * pixel
    # Where each pixel comes from is linear in all these numbers: one product in the place of two interpolations.
    amounts = torch.cat([rotate @ stretch, moves[:, :, None], nodes], dim=2)  # (B, 2, 3 + 25)
    grid = (amounts @ _fields(side, images.device)).view(batch, 2, side, side)
    return F.grid_sample(images, grid.permute(0, 2, 3, 1), align_corners=False)


@functools.cache
def _fields(side: int, device: torch.device) -> Tensor:
    """Return the fields (3 + 25, S * S) that a warp is a sum of: x, y, 1 and a bicubic bump for each node."""
    with torch.inference_mode(False):  # is kept for later callers
        identity = F.affine_grid(torch.eye(2, 3)[None], [1, 1, side, side], align_corners=False)  # (1, S, S, 2)
        bumps = torch.eye(NODES**2).view(-1, 1, NODES, NODES)
        bumps = F.interpolate(bumps, (side, side), mode="bicubic", align_corners=True)
        return torch.cat([identity[0].permute(2, 0, 1), torch.ones(1, side, side), bumps[:, 0]]).flatten(1).to(device)


STRONG_WARP = partial(warp, rotation=15.0, scale=0.2, shear=0.3, shift=2.0, elastic=1.5)


def thicken(images: Tensor, generator: torch.Generator, *, thicker: float = 0.7, thinner: float = 0.4) -> Tensor:
    """Return copies of ``images`` (B, 1, S, S) with other strokes: half of them blended with the highest value of the
    3x3 pixels around, by a weight uniform up to ``thicker``, half with the lowest, up to ``thinner``; outside is 0.
    ``generator`` is on the images' device.
    """
    amounts = torch.rand(len(images), 1, 1, 1, generator=generator, device=images.device) * 2 - 1
    high = low = F.pad(images, (1, 1, 1, 1))
    for axis in (2, 3):  # one axis after the other: on a CPU five times as fast as max_pool2d
        before, here, after = (high.narrow(axis, start, images.shape[axis]) for start in range(3))
        high = before.maximum(here).maximum(after)
        before, here, after = (low.narrow(axis, start, images.shape[axis]) for start in range(3))
        low = before.minimum(here).minimum(after)
    return images + amounts.relu() * thicker * (high - images) + (-amounts).relu() * thinner * (low - images)


def warp_and_thicken(images: Tensor, generator: torch.Generator) -> Tensor:
    """Return copies of ``images`` (B, 1, S, S), warped strongly and with other strokes, as few images are shown."""
    return thicken(STRONG_WARP(images, generator), generator)


class Averaged(nn.Module):
    """Average a classifier's answers to images (B, 1, 28, 28) and ``copies`` fixed warps: log-probabilities (B, K)."""

    def __init__(self, classifier: nn.Module, copies: int):
        super().__init__()
        self.classifier, self.copies = classifier, copies
        self.train(classifier.training)

    def forward(self, images: Tensor) -> Tensor:
        generator = torch.Generator(images.device).manual_seed(0)
        shown = [images, *(warp(images, generator) for _ in range(self.copies))]
        return torch.stack([self.classifier(warped).softmax(1) for warped in shown]).mean(0).log()
