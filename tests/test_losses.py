"""Tests of common/losses.py: worked by hand, and out of the all-black start."""

import pytest
import torch
import torch.nn.functional as F

from common import losses, train
from common.data import Dataset, Split
from common.models import Autoencoder, Decoder, Encoder, pixels
from common.run import RunError
from tests import helpers


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("name", ["l1", "mse", "bce"])
@pytest.mark.parametrize(("share", "is_past_mean_image"), [(0.02, True), (-0.05, False)])
def test_the_loss_is_minimised_once_the_mean_image_is_beaten(name, share, is_past_mean_image):
    images = (torch.rand(20, 1, 28, 28, generator=seeded()) < 0.3).double()
    # From the mean image a share of the way to the images, or away from them.
    p = torch.lerp(images.mean(0), images, share).clamp(1e-4, 1 - 1e-4)
    logits = torch.logit(p).requires_grad_()
    loss, metrics = losses.reconstruction_loss(logits, images, name)
    loss.backward()

    difference = p - images
    by_hand = {
        "l1": difference.abs(),
        "mse": difference.square(),
        "bce": -(1 - difference.abs()).log(),  # of pixels that are 0 or 1
    }
    gradients = {
        "l1": difference.sign() * p * (1 - p),
        "mse": 2 * difference * p * (1 - p),
        "bce": difference,
    }
    minimised = name if is_past_mean_image else "bce"
    assert set(metrics) == {"l1", "mse", name}
    for measure, value in metrics.items():
        assert value.item() == pytest.approx(by_hand[measure].mean().item())
    assert loss.item() == pytest.approx(by_hand[minimised].mean().item())
    assert torch.allclose(logits.grad, gradients[minimised] / images.numel(), atol=1e-9)


def test_binary_cross_entropy_is_pytorchs():
    logits = torch.cat([torch.randn(500, generator=seeded()), torch.tensor([-90.0, 90.0])])
    images = torch.rand(502, generator=seeded(1))
    ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    loss = losses.binary_cross_entropy(ours, images)
    expected = F.binary_cross_entropy_with_logits(theirs, images)
    (loss + expected).backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert torch.allclose(ours.grad, theirs.grad, atol=1e-7)


def l1_alone(model, images, targets):
    drawn = pixels(model(images))
    return F.l1_loss(drawn, targets), {"mse": F.mse_loss(drawn, targets)}


def l1_of_ours(model, images, targets):
    return losses.reconstruction_loss(model(images), targets, "l1")


@pytest.mark.parametrize(("loss", "leaves"), [(l1_alone, False), (l1_of_ours, True)])
def test_l1_leaves_the_all_black_start(loss, leaves):
    images = torch.from_numpy(helpers.digits(200, seed=0)[0])[:, None] / 255
    digits = Split(images, torch.zeros(200)).to_reconstruct()
    model = Autoencoder(Encoder(generator=seeded()), Decoder(generator=seeded(1)))
    torch.nn.init.constant_(model.decoder.convolutions[-1].bias, -15.0)  # all black
    recipe = train.Recipe(8, 25, learning_rate=1e-2, weight_decay=0.05, record_epochs=())
    train.fit(model, loss, digits, {}, recipe, seed=0)
    mse_of_mean_image = images.var(0, correction=0).mean()
    assert (train.evaluate(model, loss, digits)["mse"] < mse_of_mean_image) == leaves


def test_collapse_is_refused():
    black_and_white = torch.stack([torch.zeros(1, 28, 28), torch.ones(1, 28, 28)])
    split = Split(black_and_white, torch.zeros(2))  # the mean image errs by 1/2, squared
    dataset = Dataset(split, split, split, sha256="")
    losses.refuse_collapse(0.249, dataset)
    for mse in (0.25, 0.3, float("nan")):
        with pytest.raises(RunError):
            losses.refuse_collapse(mse, dataset)
