"""Tests of common/models.py: layers, initial weights and fingerprints worked by hand."""

import hashlib

import numpy
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from common.models import (
    Autoencoder,
    Classifier,
    Decoder,
    Encoder,
    Head,
    fan_in,
    fingerprint,
    freeze,
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


IMAGES = torch.rand(5, 1, 28, 28, generator=seeded())


def layers_of(model: nn.Module) -> list[nn.Module]:
    """Return the layers that have weights, in their order."""
    return [layer for layer in model.modules() if fan_in(layer)]


def test_parameter_counts():
    def count(model: nn.Module) -> int:
        return sum(parameter.numel() for parameter in model.parameters())

    # Kernels plus a bias for each output channel, then weights plus biases:
    #   1*16*9 + 16, 16*32*9 + 32, 32*64*9 + 64, 1,024*128 + 128, 128*12 + 12
    assert count(Encoder()) == 160 + 4_640 + 18_496 + 131_200 + 1_548
    # The same weights the other way round, with biases of the mirrored layers' outputs.
    assert count(Decoder()) == 1_664 + 132_096 + 18_464 + 4_624 + 145
    assert count(Head()) == (12 * 64 + 64) + (64 * 10 + 10)


def test_classifier_layer_by_layer():
    model = Classifier(Encoder(generator=seeded()), Head(generator=seeded()))
    layers = layers_of(model)
    maps = IMAGES
    for layer in layers[:3]:
        maps = F.conv2d(maps, layer.weight, layer.bias, stride=2, padding=1).clamp(min=0)
    first, second, third, last = layers[3:]
    hidden = (maps.flatten(1) @ first.weight.T + first.bias).clamp(min=0)
    latents = hidden @ second.weight.T + second.bias
    assert (latents < 0).any()  # or a ReLU behind them could not be seen
    logits = (latents @ third.weight.T + third.bias).clamp(min=0) @ last.weight.T + last.bias
    assert torch.allclose(model(IMAGES), logits, atol=1e-5)
    model.to(memory_format=torch.channels_last)
    assert torch.allclose(model(IMAGES), logits, atol=1e-5)


def test_autoencoder_layer_by_layer():
    model = Autoencoder(Encoder(generator=seeded()), Decoder(generator=seeded()))
    first, second, *transposed = layers_of(model.decoder)
    hidden = (model.encoder(IMAGES) @ first.weight.T + first.bias).clamp(min=0)
    maps = (hidden @ second.weight.T + second.bias).clamp(min=0).view(5, 64, 4, 4)
    for layer, side in zip(transposed, (7, 14, 28), strict=True):
        # The gradient of the convolution that it mirrors, with respect to that one's input.
        size = (5, layer.out_channels, side, side)
        unbiased = nn.grad.conv2d_input(size, layer.weight, maps, stride=2, padding=1)
        maps = unbiased + layer.bias[:, None, None]
        if side < 28:
            maps = maps.clamp(min=0)
    assert (maps < 0).any()
    assert torch.allclose(model(IMAGES), maps, atol=1e-5)


# Variance gain / fan-in, gain 2 where a ReLU follows. With stride 2 a transposed convolution sums a
# quarter of its 9 kernel positions at each output pixel: its fan-in is channels * 9 / 4.
EXPECTED_VARIANCE = {
    Encoder: [2 / 9, 2 / 144, 2 / 288, 2 / 1024, 1 / 128],
    Decoder: [2 / 12, 2 / 128, 2 / 144, 2 / 72, 1 / 36],
    Head: [2 / 12, 1 / 64],
}


@pytest.mark.parametrize("kind", EXPECTED_VARIANCE)
def test_initial_weights(kind):
    generator = seeded()
    copies = [layers_of(kind(generator=generator)) for _ in range(15)]  # a layer may be small
    for number, variance in enumerate(EXPECTED_VARIANCE[kind]):
        weights = torch.stack([layers[number].weight.detach() for layers in copies])
        assert weights.std().item() == pytest.approx(variance**0.5, rel=0.05)
        assert weights.mean().abs() < 0.1 * variance**0.5
        assert all((layers[number].bias == 0).all() for layers in copies)


def test_what_is_frozen_stays_so_in_a_model_that_trains():
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(784, 4), nn.Dropout(), nn.BatchNorm1d(4))
    model = Classifier(freeze(encoder), nn.Sequential(nn.Linear(4, 10), nn.Dropout()))
    before = fingerprint(encoder), fingerprint(model.head)
    # All parameters, with weight decay: whoever builds the optimiser must not matter.
    optimiser = torch.optim.AdamW(model.train().parameters(), 0.1, weight_decay=0.1)
    for _ in range(2):
        model(IMAGES).square().mean().backward()
        optimiser.step()
    assert model.head.training and not encoder[2].training
    assert fingerprint(encoder) == before[0]
    assert fingerprint(model.head) != before[1]


def test_fingerprint_by_hashlib():
    bias, weight = numpy.float32([1, 2]), numpy.float32([[3, 4, 5]])
    written = b"bias (2,) torch.float32\n" + bias.tobytes()
    written += b"weight (1, 3) torch.float32\n" + weight.tobytes()
    tensors = {"weight": torch.from_numpy(weight), "bias": torch.from_numpy(bias)}
    assert fingerprint(tensors) == hashlib.sha256(written).hexdigest()


def test_equal_seeds_equal_bits():
    encoder = Encoder(generator=seeded())
    before = fingerprint(encoder)
    assert before == fingerprint(Encoder(generator=seeded()).to(memory_format=torch.channels_last))
    assert before != fingerprint(Encoder(generator=seeded(1)))
    encoder.linear[1].bias.data[5] = -0.0  # one bit
    assert before != fingerprint(encoder)


def test_dtypes_are_pytorchs_matter():
    model = Autoencoder(Encoder(4), Decoder(4))
    images = torch.rand(2, 1, 28, 28)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert model(images).dtype == torch.bfloat16
    assert model.double()(images.double()).dtype == torch.float64
