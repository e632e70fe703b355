"""studies/pretexts.py: a small run, and the loss of two views by hand."""

from pathlib import Path

import numpy
import pandas
import pytest
import torch
from torch import nn

from common import checkpoint, run
from common.models import Encoder, fingerprint
from studies import pretexts


def test_every_encoder_is_compared_in_every_use(pretrained: Path):
    folder = pretrained / "studies/pretexts"
    numbers = pandas.read_csv(folder / "numbers.csv", keep_default_na=False)
    accuracy = numbers[(numbers.split == "test") & (numbers.measure == "accuracy")]
    # What Q4, Q5 and studies/augmentation.py have trained is read, not trained again.
    assert set(accuracy.model) == {
        "nothing, frozen",
        *(f"undo warps, {use}" for use in pretexts.USES),
        *(f"two views, {use}" for use in pretexts.USES),
    }

    latents = numbers[numbers.model.isin(pretexts.PRETEXTS)]
    assert set(latents.model) == set(pretexts.PRETEXTS)
    shares = latents[latents.measure == "augmentation_share"].value
    assert len(shares) == 4 and shares.between(0, 1.1).all()

    # Both encoders can be read by other studies, and a frozen one is the pretext's own.
    views = checkpoint.load(folder / "two_views.safetensors").encoder
    assert fingerprint(views) != fingerprint(
        checkpoint.load(folder / "undo_warps.safetensors").encoder
    )
    frozen = checkpoint.load(folder / "two_views_frozen_balanced_1.safetensors")
    assert fingerprint(frozen.encoder) == fingerprint(views)


class Lookup(nn.Module):
    """Give the latents that it was made with, whatever the images."""

    def __init__(self, latents: torch.Tensor):
        super().__init__()
        self.latents = latents

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.latents


def test_the_loss_of_two_views_by_hand():
    # Four images, two latents: variance one in each direction, no correlation, mean 0.
    corners = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    agreed = Lookup(torch.cat([corners, corners]))
    assert pretexts.views_loss(agreed, None, None, 1.0)[0] == 0

    # In one point: perfect agreement, and both variances are off by one.
    collapsed = Lookup(torch.zeros(8, 2))
    assert pretexts.views_loss(collapsed, None, None, 1.0)[0] == 2

    # Views that disagree in the first latent by 2: variances stay.
    turned = Lookup(torch.cat([corners, corners * torch.tensor([-1.0, 1.0])]))
    loss, metrics = pretexts.views_loss(turned, None, None, 0.5)
    assert metrics["disagreement"] == 4 and metrics["anisotropy"] == 0 and loss == 4


def test_the_loss_of_two_views_is_the_spectral_contrastive_loss():
    """Up to the mean and a constant, as its docstring says: checked in numpy."""
    generator = torch.Generator().manual_seed(0)
    first = torch.randn(50, 3, generator=generator)
    second = first + 0.3 * torch.randn(50, 3, generator=generator)
    centre = torch.cat([first, second]).mean(0)
    first, second = first - centre, second - centre
    loss, _ = pretexts.views_loss(Lookup(torch.cat([first, second])), None, None, 1.0)

    a, b = first.double().numpy(), second.double().numpy()
    both = numpy.concatenate([a, b])
    pulled = -2 * (a * b).sum(1).mean()
    pushed = ((both @ both.T) ** 2).mean()
    assert loss.item() == pytest.approx(pulled + pushed + 3, rel=1e-4)


def test_two_views_are_different_copies_of_the_same_images():
    images = torch.zeros(5, 1, 28, 28)
    images[torch.arange(5), 0, 8 + 2 * torch.arange(5), 8:20] = 1  # a bar, each lower
    views = pretexts.two_views(images, run.generator(0, "test"))
    assert views.shape == (10, 1, 28, 28)
    assert not torch.equal(views[:5], views[5:])
    rows = torch.arange(28.0)
    heights = (views.sum((1, 3)) * rows).sum(1) / views.sum((1, 2, 3))
    assert (heights[:5].diff() > 0).sum() >= 3 and (heights[5:].diff() > 0).sum() >= 3


def test_share_of_the_variance_that_augmentation_makes():
    images = torch.rand(400, 1, 28, 28, generator=torch.Generator().manual_seed(1))

    class Noise(nn.Module):
        def forward(self, views: torch.Tensor) -> torch.Tensor:
            return torch.randn(len(views), 3, generator=torch.Generator().manual_seed(len(views)))

    assert pretexts.augmentation_share(Noise(), images, 0) > 0.85
    share = pretexts.augmentation_share(Encoder(4, run.generator(0, "encoder")), images, 0)
    assert 0 < share < 1
