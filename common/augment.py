"""Augmentation on the device: each image of a batch gets an affine and an elastic warp of its own."""

import math
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def warp(
    images: Tensor, generator: torch.Generator, *, rotation: float = 7.0, scale: float = 0.07, shear: float = 0.07,
    shift: float = 1.0, elastic: float = 0.7,
) -> Tensor:  # fmt: skip
    """Return warped copies of square ``images`` (B, 1, S, S); what comes in from outside is 0.

    Per image and uniform within +/- the value: ``rotation`` in degrees, ``scale`` of each sampling axis as a fraction,
    ``shear`` as a slope, ``shift`` of each axis in pixels. On top, smooth displacements (after Simard et al. 2003), a
    5x5 grid with ``elastic`` pixels of standard deviation, interpolated. ``generator`` is on the images' device.
    """
    batch, _, height, width = images.shape
    pixel = torch.tensor([2 / width, 2 / height], device=images.device)  # one pixel on affine_grid's [-1, 1] axes

    def uniform(*shape: int) -> Tensor:
        return torch.rand(batch, *shape, generator=generator, device=images.device) * 2 - 1

    angle = uniform() * math.radians(rotation)
    rotate = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], dim=1).view(batch, 2, 2)
    stretch = torch.diag_embed(1 + scale * uniform(2))
    stretch[:, 0, 1] = shear * uniform()
    theta = torch.cat([rotate @ stretch, (shift * pixel * uniform(2))[:, :, None]], dim=2)  # (B, 2, 3)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)  # (B, H, W, 2): where each pixel comes from
    nodes = torch.randn(batch, 2, 5, 5, generator=generator, device=images.device) * elastic
    field = F.interpolate(nodes, (height, width), mode="bicubic", align_corners=True)  # (B, 2, H, W)
    return F.grid_sample(images, grid + field.permute(0, 2, 3, 1) * pixel, align_corners=False)


STRONG_WARP = partial(warp, rotation=15.0, scale=0.2, shear=0.3, shift=2.0, elastic=1.5)


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
