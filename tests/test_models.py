"""Tests of common/models.py: sizes, layers and initial weights worked by hand."""

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


def some_images(count: int) -> torch.Tensor:
    return torch.rand(count, 1, 28, 28, generator=seeded())


def layers_of(model: nn.Module) -> list[nn.Module]:
    """Return the layers that have weights, in their order."""
    return [layer for layer in model.modules() if fan_in(layer)]


def test_parameter_counts():
    def count(model: nn.Module) -> int:
        return sum(parameter.numel() for parameter in model.parameters())

    # Kernels plus a bias for each output channel, then weights plus biases:
    #   1*16*9 + 16, 16*32*9 + 32, 32*64*9 + 64, 1,024*128 + 128, 128*12 + 12
    assert count(Encoder()) == 160 + 4_640 + 18_496 + 131_200 + 1_548
    # The same weights the other way round, with biases of the mirrored layers' outputs:
    #   12*128 + 128, 128*1,024 + 1,024, 64*32*9 + 32, 32*16*9 + 16, 16*9 + 1
    assert count(Decoder()) == 1_664 + 132_096 + 18_464 + 4_624 + 145
    assert count(Head()) == (12 * 64 + 64) + (64 * 10 + 10)


def test_encoder_and_head_layer_by_layer():
    model = Classifier(Encoder(generator=seeded()), Head(generator=seeded()))
    images = some_images(5)
    layers = layers_of(model)
    convolutions, linears = layers[:3], layers[3:]

    maps = images
    for layer in convolutions:
        maps = F.conv2d(maps, layer.weight, layer.bias, stride=2, padding=1).clamp(min=0)
    first, second, third, last = linears
    hidden = (maps.flatten(1) @ first.weight.T + first.bias).clamp(min=0)
    latents = hidden @ second.weight.T + second.bias
    logits = (latents @ third.weight.T + third.bias).clamp(min=0) @ last.weight.T + last.bias

    assert (latents < 0).any()  # or a ReLU behind them could not be seen
    assert torch.allclose(model.encoder(images), latents, atol=1e-5)
    assert torch.allclose(model(images), logits, atol=1e-5)


def test_decoder_layer_by_layer():
    decoder = Decoder(generator=seeded())
    latents = torch.randn(5, 12, generator=seeded())
    first, second, *transposed = layers_of(decoder)

    hidden = (latents @ first.weight.T + first.bias).clamp(min=0)
    maps = (hidden @ second.weight.T + second.bias).clamp(min=0).view(5, 64, 4, 4)
    for layer, side in zip(transposed, (7, 14, 28), strict=True):
        # The gradient of the convolution that it mirrors, with respect to that one's input.
        size = (5, layer.out_channels, side, side)
        before_bias = nn.grad.conv2d_input(size, layer.weight, maps, stride=2, padding=1)
        maps = before_bias + layer.bias[:, None, None]
        if side < 28:
            maps = maps.clamp(min=0)

    assert torch.allclose(decoder(latents), maps, atol=1e-5)
    assert (maps < 0).any()


def test_neither_the_rest_of_the_batch_nor_the_memory_format_matters():
    model = Autoencoder(Encoder(generator=seeded()), Decoder(generator=seeded()))
    images = some_images(7)
    one_by_one = torch.cat([model(image[None]) for image in images])
    assert (one_by_one.std(0) > 0).any()  # or the images would not matter at all
    assert torch.allclose(model(images), one_by_one, atol=1e-5)
    model.to(memory_format=torch.channels_last)
    assert torch.allclose(model(images), one_by_one, atol=1e-5)


@pytest.mark.parametrize(
    ("model", "shape"),
    [(Encoder, (1, 28, 28)), (Encoder, (4, 1, 32, 32)), (Decoder, (4, 11)), (Head, (12,))],
)
def test_another_shape_is_refused(model, shape):
    with pytest.raises(ValueError, match="expected"):
        model()(torch.zeros(shape))


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
    model = Classifier(encoder, nn.Sequential(nn.Linear(4, 10), nn.Dropout()))
    assert freeze(encoder) is encoder
    before = fingerprint(encoder), fingerprint(model.head)

    # All parameters, with weight decay: whoever builds the optimiser must not matter.
    optimiser = torch.optim.AdamW(model.train().parameters(), 0.1, weight_decay=0.1)
    for _ in range(2):
        model(some_images(3)).square().mean().backward()
        optimiser.step()

    assert model.head.training
    assert not any(module.training for module in encoder.modules())
    assert fingerprint(encoder) == before[0]
    assert fingerprint(model.head) != before[1]


def test_fingerprint_by_hashlib():
    bias, weight = numpy.float32([1, 2]), numpy.float32([[3, 4, 5]])
    written = b"bias (2,) torch.float32\n" + bias.tobytes()
    written += b"weight (1, 3) torch.float32\n" + weight.tobytes()
    tensors = {"weight": torch.from_numpy(weight), "bias": torch.from_numpy(bias)}
    assert fingerprint(tensors) == hashlib.sha256(written).hexdigest()

    encoder = Encoder(generator=seeded())
    before = fingerprint(encoder)
    assert before == fingerprint(freeze(Encoder(generator=seeded())))
    assert before == fingerprint(encoder.to(memory_format=torch.channels_last))
    assert before != fingerprint(Encoder(generator=seeded(1)))
    encoder.linear[1].bias.data[5] = -0.0  # one bit
    assert before != fingerprint(encoder)
