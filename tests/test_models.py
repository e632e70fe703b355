import math

import numpy
import pytest
import torch
from torch import nn

from common.models import Autoencoder, Classifier, Decoder, Encoder, Head, digest, frozen, pixels

WEIGHTED = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def some_images(count: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 1, 28, 28, generator=seeded(seed))


def some_latents(count: int, latent_dim: int = 12, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, latent_dim, generator=seeded(seed))


def autoencoder(latent_dim: int = 12, channels=(16, 32, 64), hidden: int = 128, seed: int = 0) -> Autoencoder:
    generator = seeded(seed)
    encoder = Encoder(latent_dim, channels, hidden, generator=generator)
    return Autoencoder(encoder, Decoder(latent_dim, channels, hidden, generator=generator))


def layers(model: nn.Module, kinds=WEIGHTED) -> list[nn.Module]:
    return [module for module in model.modules() if isinstance(module, kinds)]


def traced(model: nn.Module, batch: torch.Tensor) -> tuple[list[tuple[torch.Tensor, torch.Tensor]], torch.Tensor]:
    """Return the input and output of each layer that has weights, in the order they ran, and the model's output."""
    records = []

    def record(module, inputs, output):
        records.append((inputs[0].detach().clone(), output.detach().clone()))

    hooks = [layer.register_forward_hook(record) for layer in layers(model)]
    result = model(batch).detach()
    for hook in hooks:
        hook.remove()
    return records, result


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_parameter_counts_worked_out_by_hand():
    # Encoder: 3x3 kernels plus a bias per output channel, then weights plus biases of the linear layers:
    #   1*16*9 + 16 = 160; 16*32*9 + 32 = 4,640; 32*64*9 + 64 = 18,496; 1,024*128 + 128 = 131,200; 128*12 + 12 = 1,548
    assert count(Encoder()) == 160 + 4_640 + 18_496 + 131_200 + 1_548 == 156_044
    # Decoder: the same weights, but the biases of the mirrored layers' outputs:
    #   12*128 + 128 = 1,664; 128*1,024 + 1,024 = 132,096; 64*32*9 + 32 = 18,464; 32*16*9 + 16 = 4,624; 16*9 + 1 = 145
    assert count(Decoder()) == 1_664 + 132_096 + 18_464 + 4_624 + 145 == 156_993
    # Head: 12*64 + 64 = 832; 64*10 + 10 = 650
    assert count(Head()) == 832 + 650 == 1_482
    assert count(autoencoder()) == 313_037
    assert count(Classifier(Encoder(), Head())) == 157_526


def test_parameter_count_of_other_sizes_worked_out_by_hand():
    # 2*9 + 2 = 20; 2*3*9 + 3 = 57; 3*4*9 + 4 = 112; 64*6 + 6 = 390; 6*5 + 5 = 35
    assert count(Encoder(5, (2, 3, 4), 6)) == 20 + 57 + 112 + 390 + 35
    # 5*6 + 6 = 36; 6*64 + 64 = 448; 4*3*9 + 3 = 111; 3*2*9 + 2 = 56; 2*9 + 1 = 19
    assert count(Decoder(5, (2, 3, 4), 6)) == 36 + 448 + 111 + 56 + 19
    # 5*7 + 7 = 42; 7*10 + 10 = 80
    assert count(Head(5, 7)) == 42 + 80


@pytest.mark.parametrize("batch", [1, 7])
@pytest.mark.parametrize(
    ("latent_dim", "channels", "hidden"), [(12, (16, 32, 64), 128), (1, (2, 3, 5), 4), (33, [8, 8, 8], 16)]
)
def test_shapes_for_odd_batches_and_other_sizes(batch, latent_dim, channels, hidden):
    model = autoencoder(latent_dim, channels, hidden)
    images = some_images(batch)
    latents = model.encoder(images)
    assert latents.shape == (batch, latent_dim)
    assert model.decoder(latents).shape == (batch, 1, 28, 28)
    assert model(images).shape == (batch, 1, 28, 28)
    head = Head(latent_dim, generator=seeded())
    assert head(latents).shape == (batch, 10)
    assert Classifier(model.encoder, head)(images).shape == (batch, 10)


def test_an_image_does_not_depend_on_the_others_of_its_batch():
    model = autoencoder()
    classifier = Classifier(model.encoder, Head(generator=seeded()))
    images = some_images(7)
    for part in (model, classifier):
        one_by_one = torch.cat([part(image[None]) for image in images])
        assert torch.allclose(part(images), one_by_one, atol=1e-5)
        assert (one_by_one.std(0) > 0).any()  # or the images would not matter at all


def test_composed_models_run_their_parts_in_order():
    model, images = autoencoder(), some_images(3)
    assert torch.equal(model(images), model.decoder(model.encoder(images)))
    head = Head(generator=seeded())
    assert torch.equal(Classifier(model.encoder, head)(images), head(model.encoder(images)))


def test_channels_last_changes_no_result():
    images, model = some_images(3), autoencoder()
    expected = model(images)
    assert torch.allclose(model.to(memory_format=torch.channels_last)(images), expected, atol=1e-5)


def test_convolutions_are_three_by_three_with_stride_two_and_padding_one():
    model = autoencoder()
    assert [type(layer) for layer in layers(model.encoder)] == [nn.Conv2d] * 3 + [nn.Linear] * 2
    assert [type(layer) for layer in layers(model.decoder)] == [nn.Linear] * 2 + [nn.ConvTranspose2d] * 3
    for convolution in layers(model, (nn.Conv2d, nn.ConvTranspose2d)):
        assert convolution.kernel_size == (3, 3)
        assert convolution.stride == (2, 2)
        assert convolution.padding == (1, 1)


def test_decoder_mirrors_every_intermediate_shape_of_the_encoder():
    model = autoencoder()
    downwards, latents = traced(model.encoder, some_images(2))
    upwards, _ = traced(model.decoder, latents)
    down = [(2, 1, 28, 28), (2, 16, 14, 14), (2, 32, 7, 7), (2, 64, 4, 4), (2, 128), (2, 12)]
    flat = (2, 1024)  # the 64x4x4 map between convolutions and linear layers
    assert [inputs.shape for inputs, _ in downwards] == [*down[:3], flat, down[4]]
    assert [output.shape for _, output in downwards] == down[1:]
    up = list(reversed(down))
    assert [inputs.shape for inputs, _ in upwards] == up[:-1]
    assert [output.shape for _, output in upwards] == [up[1], flat, *up[3:]]


@pytest.mark.parametrize("hidden_relu", [True, False])
def test_encoder_has_relu_on_each_convolution_and_between_the_linear_layers_if_asked_to(hidden_relu):
    records, latents = traced(Encoder(hidden_relu=hidden_relu, generator=seeded()), some_images(5) - 0.5)
    for position, (_, output) in enumerate(records[:-1]):
        following = records[position + 1][0].flatten(1).numpy()
        output = output.flatten(1).numpy()
        assert (output < 0).any()  # or ReLU would be invisible
        expected = numpy.where(output > 0, output, 0) if position < 3 + hidden_relu else output
        numpy.testing.assert_array_equal(following, expected)
    assert torch.equal(latents, records[-1][1])
    assert (latents < 0).any()


@pytest.mark.parametrize("hidden_relu", [True, False])
def test_decoder_has_relu_on_the_same_feature_maps(hidden_relu):
    records, logits = traced(Decoder(hidden_relu=hidden_relu, generator=seeded()), some_latents(5))
    for position, (_, output) in enumerate(records[:-1]):
        following = records[position + 1][0].flatten(1).numpy()
        output = output.flatten(1).numpy()
        assert (output < 0).any()
        expected = numpy.where(output > 0, output, 0) if position > 0 or hidden_relu else output
        numpy.testing.assert_array_equal(following, expected)
    assert torch.equal(logits, records[-1][1])
    assert (logits < 0).any()


def test_head_has_one_relu_between_its_two_layers():
    records, logits = traced(Head(generator=seeded()), some_latents(5))
    (_, hidden), (following, output) = records
    numpy.testing.assert_array_equal(following.numpy(), numpy.where(hidden.numpy() > 0, hidden.numpy(), 0))
    assert (hidden < 0).any()
    assert torch.equal(logits, output)
    assert (logits < 0).any()


def test_pixels_are_the_sigmoid_of_the_logits():
    logits = torch.tensor([[-1e4, -3.0, 0.0, 0.5, 1e4]])
    by_hand = [[0.0, 1 / (1 + math.e**3), 0.5, 1 / (1 + math.e**-0.5), 1.0]]
    assert torch.allclose(pixels(logits), torch.tensor(by_hand), atol=1e-7)
    drawn = pixels(100 * autoencoder()(some_images(2)))
    assert drawn.shape == (2, 1, 28, 28)
    assert drawn.min() >= 0
    assert drawn.max() <= 1


@pytest.mark.parametrize(
    ("name", "batch", "got"),
    [
        ("Encoder", torch.zeros(4, 1, 28, 28, dtype=torch.uint8), "(4, 1, 28, 28) torch.uint8"),
        ("Encoder", torch.zeros(4, 1, 28, 28, dtype=torch.float64), "(4, 1, 28, 28) torch.float64"),
        ("Encoder", torch.zeros(4, 28, 28), "(4, 28, 28) torch.float32"),
        ("Encoder", torch.zeros(1, 28, 28), "(1, 28, 28) torch.float32"),
        ("Encoder", torch.zeros(4, 1, 32, 32), "(4, 1, 32, 32) torch.float32"),
        ("Encoder", torch.zeros(4, 3, 28, 28), "(4, 3, 28, 28) torch.float32"),
        ("Encoder", torch.zeros(4, 784), "(4, 784) torch.float32"),
        ("Decoder", torch.zeros(4, 11), "(4, 11) torch.float32"),
        ("Decoder", torch.zeros(12), "(12,) torch.float32"),
        ("Decoder", torch.zeros(4, 12, 1), "(4, 12, 1) torch.float32"),
        ("Decoder", torch.zeros(4, 12, dtype=torch.float64), "(4, 12) torch.float64"),
        ("Head", torch.zeros(4, 13), "(4, 13) torch.float32"),
        ("Head", torch.zeros(4, 12, dtype=torch.int64), "(4, 12) torch.int64"),
    ],
)
def test_a_wrong_batch_is_one_line_with_got_and_expected(name, batch, got):
    model = {"Encoder": Encoder, "Decoder": Decoder, "Head": Head}[name]()
    expected = "(B, 1, 28, 28) torch.float32" if name == "Encoder" else "(B, 12) torch.float32"
    with pytest.raises(ValueError) as error:
        model(batch)
    message = str(error.value)
    assert message.startswith(f"{name}: got {got}, expected {expected}")
    assert "\n" not in message


def test_a_wrong_batch_is_refused_by_the_composed_models_too():
    with pytest.raises(ValueError, match="Encoder: got"):
        autoencoder()(torch.zeros(2, 28, 28))
    with pytest.raises(ValueError, match=r"Head: got \(2, 12\).*expected \(B, 5\)"):
        Classifier(Encoder(12), Head(5))(some_images(2))


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
    models = [kind(generator=generator) for _ in range(15)]  # the smallest layer has 144 weights, too few for 5 %
    for position, expected in enumerate(EXPECTED_STD[kind]):
        drawn = [layers(model)[position] for model in models]
        weights = torch.stack([layer.weight.detach() for layer in drawn])
        assert weights.std().item() == pytest.approx(expected, rel=0.05)
        assert weights.mean().abs().item() < 0.1 * expected
        assert all((layer.bias == 0).all() for layer in drawn)


@pytest.mark.parametrize("kind", EXPECTED_STD)
def test_initial_pre_activations_keep_a_variance_of_order_one(kind):
    inputs = torch.randn(32, 1, 28, 28, generator=seeded(1)) if kind is Encoder else some_latents(32)
    variances = []
    for seed in range(3):
        records, _ = traced(kind(generator=seeded(seed)), inputs)
        variances.append([output.var().item() for _, output in records])
    for variance in numpy.mean(variances, axis=0):  # 2 where ReLU follows, 1 elsewhere, a little less from borders
        assert 0.5 < variance < 3


@pytest.mark.parametrize("kind", EXPECTED_STD)
def test_weights_depend_on_the_generator_alone(kind):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        one = digest(kind(generator=seeded(5)))
        torch.manual_seed(2)
        assert digest(kind(generator=seeded(5))) == one
        assert digest(kind(generator=seeded(6))) != one


def test_without_a_generator_weights_follow_the_global_seed():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        one = digest(Head())
        assert digest(Head()) != one
        torch.manual_seed(1)
        assert digest(Head()) == one


def test_frozen_returns_the_module_without_gradients_in_evaluation_mode():
    encoder = Encoder(generator=seeded())
    assert frozen(encoder) is encoder
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    assert not any(module.training for module in encoder.modules())
    assert not encoder(some_images(1)).requires_grad


def test_frozen_evaluation_mode_survives_train_of_itself_and_of_its_parent():
    model = Classifier(frozen(nn.Sequential(nn.Dropout(), nn.BatchNorm1d(4))), nn.Sequential(nn.Dropout()))
    assert model.train() is model
    assert not any(module.training for module in model.encoder.modules())
    assert all(module.training for module in model.head.modules())
    assert model.encoder.train() is model.encoder
    assert not any(module.training for module in model.encoder.modules())
    model.eval()
    assert not any(module.training for module in model.modules())


def test_a_frozen_encoder_keeps_its_digest_while_the_rest_trains():
    model = autoencoder(4, (2, 3, 4), 5)
    frozen(model.encoder)
    encoder_before, decoder_before = digest(model.encoder), digest(model.decoder)
    model.train()
    # All parameters on purpose, with weight decay: freezing must not depend on who builds the optimiser.
    optimiser = torch.optim.AdamW(model.parameters(), 0.1, weight_decay=0.1)
    for _ in range(2):
        model(some_images(3)).square().mean().backward()
        optimiser.step()
    assert digest(model.encoder) == encoder_before
    assert digest(model.decoder) != decoder_before


def test_frozen_keeps_running_statistics_and_digest_would_see_them_change():
    part = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    model = nn.Sequential(part, nn.Linear(3, 1))
    before = digest(part)
    model.train()
    with torch.no_grad():
        model(torch.randn(5, 3, generator=seeded()))
    moved = digest(part)
    assert moved != before  # only the buffers differ
    frozen(part)
    model.train()
    model(torch.randn(5, 3, generator=seeded(1)))
    assert digest(part) == moved


def test_digest_changes_with_one_bit_and_back():
    encoder = Encoder(generator=seeded())
    before = digest(encoder)
    assert len(before) == 64
    int(before, 16)
    for parameter in encoder.parameters():
        bits = parameter.detach().flatten()[-1:].view(torch.int32)
        bits ^= 1
        assert digest(encoder) != before
        bits ^= 1
        assert digest(encoder) == before


def test_digest_tells_names_shapes_and_negative_zero_apart():
    one, other = nn.Linear(2, 3, bias=False), nn.Linear(3, 2, bias=False)
    nn.init.zeros_(one.weight)
    nn.init.zeros_(other.weight)
    assert digest(one) != digest(other)
    assert digest(nn.Sequential(one)) != digest(one)
    before = digest(one)
    one.weight.data.neg_()
    assert digest(one) != before


def test_digest_does_not_depend_on_memory_format_or_mode():
    encoder = Encoder(generator=seeded())
    before = digest(encoder)
    assert digest(encoder.to(memory_format=torch.channels_last)) == before
    assert digest(frozen(encoder)) == before
