import itertools
import math

import numpy
import pytest
import torch
from torch import nn

from common.models import Autoencoder, Classifier, Decoder, Encoder, Head, digest, frozen, pixels


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def some_images(count: int) -> torch.Tensor:
    return torch.rand(count, 1, 28, 28, generator=seeded())


def autoencoder(*sizes) -> Autoencoder:
    return Autoencoder(Encoder(*sizes, generator=seeded()), Decoder(*sizes, generator=seeded()))


def layers(model: nn.Module) -> list[nn.Module]:
    return [
        module
        for module in model.modules()
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear))
    ]


def traced(
    model: nn.Module, batch: torch.Tensor
) -> tuple[list[tuple[torch.Tensor, torch.Tensor]], torch.Tensor]:
    """Return the input and output of each layer that has weights, in the order they ran, and the model's output."""
    records = []

    def record(module, inputs, output):
        records.append((inputs[0].detach().clone(), output.detach().clone()))

    for layer in layers(model):
        layer.register_forward_hook(record)
    return records, model(batch).detach()


def test_parameter_counts_worked_out_by_hand():
    def count(model):
        return sum(parameter.numel() for parameter in model.parameters())

    # Encoder: 3x3 kernels plus a bias per output channel, then weights plus biases of the linear layers:
    #   1*16*9 + 16 = 160; 16*32*9 + 32 = 4,640; 32*64*9 + 64 = 18,496; 1,024*128 + 128 = 131,200; 128*12 + 12 = 1,548
    assert count(Encoder()) == 160 + 4_640 + 18_496 + 131_200 + 1_548 == 156_044
    # Decoder: the same weights, but the biases of the mirrored layers' outputs:
    #   12*128 + 128 = 1,664; 128*1,024 + 1,024 = 132,096; 64*32*9 + 32 = 18,464; 32*16*9 + 16 = 4,624; 16*9 + 1 = 145
    assert count(Decoder()) == 1_664 + 132_096 + 18_464 + 4_624 + 145 == 156_993
    # Head: 12*64 + 64 = 832; 64*10 + 10 = 650
    assert count(Head()) == 832 + 650 == 1_482
    assert (count(autoencoder()), count(Classifier(Encoder(), Head()))) == (313_037, 157_526)


@pytest.mark.parametrize("batch", [1, 7])
@pytest.mark.parametrize(
    "sizes", [(12, (16, 32, 64), 128), (1, (2, 3, 5), 4), (33, [8, 8, 8], 16)], ids=str
)
def test_composed_models_run_their_parts_in_order_at_every_size(batch, sizes):
    model, head, images = autoencoder(*sizes), Head(sizes[0]), some_images(batch)
    latents = model.encoder(images)
    shapes = latents.shape, model(images).shape, head(latents).shape
    assert shapes == ((batch, sizes[0]), (batch, 1, 28, 28), (batch, 10))
    assert torch.equal(model(images), model.decoder(latents))
    assert torch.equal(Classifier(model.encoder, head)(images), head(latents))


def test_an_image_does_not_depend_on_the_others_of_its_batch_nor_on_the_memory_format():
    model, images = autoencoder(), some_images(7)
    for part in (model, Classifier(model.encoder, Head(generator=seeded()))):
        one_by_one = torch.cat([part(image[None]) for image in images])
        assert (one_by_one.std(0) > 0).any()  # or the images would not matter at all
        assert torch.allclose(part(images), one_by_one, atol=1e-5)
        assert torch.allclose(
            part.to(memory_format=torch.channels_last)(images), one_by_one, atol=1e-5
        )


def test_decoder_mirrors_every_intermediate_shape_of_the_encoder():
    model = autoencoder()
    assert [type(layer) for layer in layers(model)] == 3 * [nn.Conv2d] + 4 * [nn.Linear] + 3 * [
        nn.ConvTranspose2d
    ]
    for layer in [*layers(model)[:3], *layers(model)[-3:]]:
        assert (layer.kernel_size, layer.stride, layer.padding) == ((3, 3), (2, 2), (1, 1))
    downwards, latents = traced(model.encoder, some_images(2))
    upwards, _ = traced(model.decoder, latents)
    down = [(2, 1, 28, 28), (2, 16, 14, 14), (2, 32, 7, 7), (2, 64, 4, 4), (2, 128), (2, 12)]
    up, flat = down[::-1], (2, 1024)  # the 64x4x4 map between convolutions and linear layers
    assert [inputs.shape for inputs, _ in downwards] == [*down[:3], flat, down[4]]
    assert [inputs.shape for inputs, _ in upwards] == up[:-1]
    assert [output.shape for _, output in downwards + upwards] == [*down[1:], up[1], flat, *up[3:]]


@pytest.mark.parametrize(
    "kind, without", [(Encoder, None), (Encoder, 3), (Decoder, None), (Decoder, 0), (Head, None)]
)
def test_relu_follows_every_layer_but_the_last_and_the_hidden_one_on_request(kind, without):
    options = {} if without is None else {"hidden_relu": False}
    batch = some_images(5) - 0.5 if kind is Encoder else torch.randn(5, 12, generator=seeded())
    records, result = traced(kind(generator=seeded(), **options), batch)
    for position, ((_, output), (following, _)) in enumerate(itertools.pairwise(records)):
        output = output.flatten(1).numpy()
        assert (output < 0).any()  # or ReLU would be invisible
        expected = output if position == without else numpy.where(output > 0, output, 0)
        numpy.testing.assert_array_equal(following.flatten(1).numpy(), expected)
    assert torch.equal(result, records[-1][1]) and (result < 0).any()


def test_pixels_are_the_sigmoid_of_the_logits():
    by_hand = torch.tensor([0.0, 1 / (1 + math.e**3), 0.5, 1 / (1 + math.e**-0.5), 1.0])
    assert torch.allclose(pixels(torch.tensor([-1e4, -3.0, 0.0, 0.5, 1e4])), by_hand, atol=1e-7)


@pytest.mark.parametrize(
    "model, shape, dtype, expected",
    [
        (Encoder, (4, 1, 28, 28), torch.uint8, "(B, 1, 28, 28)"),
        (Encoder, (1, 28, 28), torch.float32, "(B, 1, 28, 28)"),  # one image without a batch
        (Encoder, (4, 1, 32, 32), torch.float32, "(B, 1, 28, 28)"),
        (Decoder, (4, 11), torch.float32, "(B, 12)"),
        (Decoder, (12,), torch.float32, "(B, 12)"),
        (Head, (4, 12), torch.float64, "(B, 12)"),
    ],
)
def test_a_wrong_batch_is_one_line_with_got_and_expected(model, shape, dtype, expected):
    with pytest.raises(ValueError) as error:
        model()(torch.zeros(shape, dtype=dtype))
    assert str(error.value).startswith(
        f"{model.__name__}: got {shape} {dtype}, expected {expected} torch.float32"
    )
    assert "\n" not in str(error.value)


# Standard deviation sqrt(gain / fan-in), gain 2 where ReLU follows. A transposed convolution of stride 2 sums a quarter
# of its 9 kernel positions at each output pixel: fan-in 64 * 9/4 = 144, 32 * 9/4 = 72, 16 * 9/4 = 36.
EXPECTED_STD = {
    Encoder: [0.47140, 0.11785, 0.08333, 0.04419, 0.08839],  # 2/9, 2/144, 2/288, 2/1024, 1/128
    Decoder: [0.40825, 0.12500, 0.11785, 0.16667, 0.16667],  # 2/12, 2/128, 2/144, 2/72, 1/36
    Head: [0.40825, 0.12500],  # 2/12, 1/64
}


@pytest.mark.parametrize("kind", EXPECTED_STD)
def test_weights_have_the_standard_deviation_worked_out_by_hand_and_biases_are_zero(kind):
    generator = seeded()
    models = [
        layers(kind(generator=generator)) for _ in range(15)
    ]  # the smallest layer has 144 weights: too few
    for copies, expected in zip(zip(*models, strict=True), EXPECTED_STD[kind], strict=True):
        weights = torch.stack([layer.weight.detach() for layer in copies])
        assert (
            weights.std().item() == pytest.approx(expected, rel=0.05)
            and abs(weights.mean()) < 0.1 * expected
        )
        assert all((layer.bias == 0).all() for layer in copies)


@pytest.mark.parametrize("kind", EXPECTED_STD)
def test_weights_depend_on_the_generator_alone_or_without_one_on_the_global_seed(kind):
    def built(global_seed, generator=None):
        torch.manual_seed(global_seed)
        return digest(kind(generator=generator))

    with torch.random.fork_rng(devices=[]):
        assert built(1, seeded(5)) == built(2, seeded(5)) != built(1, seeded(6))
        assert built(1) == built(1) != built(2)


def test_frozen_evaluation_mode_survives_train_of_itself_and_of_its_parent():
    encoder = nn.Sequential(nn.Dropout(), nn.BatchNorm1d(4))
    assert frozen(encoder) is encoder
    model = Classifier(encoder, nn.Sequential(nn.Dropout()))
    for trained in (model, encoder):
        assert trained.train() is trained
        assert not any(module.training for module in encoder.modules()) and model.head[0].training
    assert not any(module.training for module in model.eval().modules())


def test_a_frozen_part_keeps_its_digest_while_the_rest_trains():
    model = autoencoder(4, (2, 3, 4), 5)
    encoder = model.encoder = nn.Sequential(model.encoder, nn.BatchNorm1d(4))
    before = digest(encoder)
    model(some_images(3))
    assert digest(frozen(encoder)) != before  # in training mode the running statistics moved
    encoder_before, decoder_before = digest(encoder), digest(model.decoder)
    # All parameters on purpose, with weight decay: freezing must not depend on who builds the optimiser.
    optimiser = torch.optim.AdamW(model.train().parameters(), 0.1, weight_decay=0.1)
    for _ in range(2):
        model(some_images(3)).square().mean().backward()
        optimiser.step()
    assert not encoder(some_images(1)).requires_grad
    assert digest(encoder) == encoder_before and digest(model.decoder) != decoder_before


def test_digest_changes_with_one_bit_and_back_and_with_nothing_else():
    encoder = Encoder(generator=seeded())
    before = digest(encoder)
    assert len(before) == 64
    for parameter in encoder.parameters():
        bits = parameter.detach().flatten()[-1:].view(torch.int32)
        bits ^= 1
        assert digest(encoder) != before
        bits ^= 1
        assert digest(encoder) == before
    reverse = dict(reversed(encoder.state_dict().items()))
    for same in (
        encoder.state_dict(),
        reverse,
        encoder.to(memory_format=torch.channels_last),
        frozen(encoder),
    ):
        assert digest(same) == before


def test_digest_separates_names_shapes_types_and_negative_zero():
    zeros = torch.zeros(2, 3)
    others = [{"weight": zeros.T}, {"bias": zeros}, {"weight": zeros.int()}, {"weight": -zeros}]
    assert len({digest(weights) for weights in [{"weight": zeros}, *others]}) == 5
