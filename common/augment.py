"""Augmentation on the device: each image of a batch gets a warp, and strokes, of its own. For
studies/ and for the classifier that reads reconstructions.
"""

import dataclasses
import functools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NODES = 5  # along each axis, of the elastic displacements


@dataclasses.dataclass(frozen=True)
class Warp:
    """Warp square images (B, 1, S, S), each by its own random amounts; what comes in from outside
    is 0.

    Amounts are uniform within +/- the value. On top come smooth displacements (after Simard et al.
    2003): normal on a grid of 5x5 nodes, interpolated. The generator must be on the images' device.
    """

    rotation: float = 7.0  # degrees
    scale: float = 0.07  # of each axis, a fraction
    shear: float = 0.07  # a slope
    shift: float = 1.0  # of each axis, pixels
    elastic: float = 0.7  # standard deviation of a node's displacement, pixels

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        batch, side = len(images), images.shape[-1]
        pixel = 2 / side  # on the axes of grid_sample, which go from -1 to 1

        def uniform(*shape: int) -> Tensor:
            return torch.rand(batch, *shape, generator=generator, device=images.device) * 2 - 1

        angle = uniform() * math.radians(self.rotation)
        rows = [angle.cos(), -angle.sin(), angle.sin(), angle.cos()]
        rotate = torch.stack(rows, dim=1).view(batch, 2, 2)
        stretch = torch.diag_embed(1 + self.scale * uniform(2))
        stretch[:, 0, 1] = self.shear * uniform()
        moves = self.shift * pixel * uniform(2)
        nodes = torch.randn(batch, 2, NODES**2, generator=generator, device=images.device)
        nodes = nodes * self.elastic * pixel

        # Where each pixel comes from is linear in all these numbers: one product in the place of
        # two interpolations.
        amounts = torch.cat([rotate @ stretch, moves[:, :, None], nodes], dim=2)  # (B, 2, 3 + 25)
        grid = (amounts @ _fields(side, images.device)).view(batch, 2, side, side)
        return F.grid_sample(images, grid.permute(0, 2, 3, 1), align_corners=False)


@functools.cache
def _fields(side: int, device: torch.device) -> Tensor:
    """Return the fields (3 + 25, S * S) that a warp is a sum of: x, y, 1 and a bicubic bump for
    each node.
    """
    with torch.inference_mode(False):  # it is kept for later callers
        # (1, S, S, 2)
        identity = F.affine_grid(torch.eye(2, 3)[None], [1, 1, side, side], align_corners=False)
        bumps = torch.eye(NODES**2).view(-1, 1, NODES, NODES)
        bumps = F.interpolate(bumps, (side, side), mode="bicubic", align_corners=True)
        fields = torch.cat([identity[0].permute(2, 0, 1), torch.ones(1, side, side), bumps[:, 0]])
        return fields.flatten(1).to(device)


WARP = Warp()
STRONG_WARP = Warp(rotation=15.0, scale=0.2, shear=0.3, shift=2.0, elastic=1.5)


def thicken(
    images: Tensor, generator: torch.Generator, thicker: float = 0.7, thinner: float = 0.4
) -> Tensor:
    """Return copies of images (B, 1, S, S) with other strokes.

    Half of them are blended with the highest value of the 3x3 pixels around, by a weight uniform up
    to ``thicker``, the other half with the lowest, up to ``thinner``; outside is 0.
    """
    amounts = torch.rand(len(images), 1, 1, 1, generator=generator, device=images.device) * 2 - 1
    padded = F.pad(images, (1, 1, 1, 1))
    highest = _over_3x3(padded, torch.maximum)
    lowest = _over_3x3(padded, torch.minimum)
    thickened = amounts.relu() * thicker * (highest - images)
    thinned = (-amounts).relu() * thinner * (lowest - images)
    return images + thickened + thinned


def _over_3x3(padded: Tensor, function) -> Tensor:
    """Combine 3x3 pixels, one axis after the other: on a CPU five times as fast as max_pool2d."""
    for axis in (2, 3):
        length = padded.shape[axis] - 2
        before, here, after = (padded.narrow(axis, start, length) for start in range(3))
        padded = function(function(before, here), after)
    return padded


def warp_and_thicken(images: Tensor, generator: torch.Generator) -> Tensor:
    """Strong warp plus thicker or thinner strokes: the augmentation with few labels and of
    pretexts.
    """
    return thicken(STRONG_WARP(images, generator), generator)


class Averaged(nn.Module):
    """Average a classifier's probabilities over images (B, 1, 28, 28) and fixed warped copies; log
    of it, (B, K).
    """

    def __init__(self, classifier: nn.Module, copies: int):
        super().__init__()
        self.classifier = classifier
        self.copies = copies
        self.train(classifier.training)

    def forward(self, images: Tensor) -> Tensor:
        generator = torch.Generator(images.device).manual_seed(0)
        probabilities = self.classifier(images).softmax(1)
        for _ in range(self.copies):
            probabilities = probabilities + self.classifier(WARP(images, generator)).softmax(1)
        return (probabilities / (1 + self.copies)).log()
