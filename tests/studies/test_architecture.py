"""studies/architecture.py: a small run, and the networks that it compares."""

import numpy
import pandas
import pytest
import torch

from studies.architecture import (
    build_q1,
    build_variant,
    latent_correlation,
    no_linear_layer,
    one_linear_layer,
    two_linear_layers,
    two_linear_layers_without_relu,
)
from tests import helpers


def test_trains_every_network(tmp_path, data_dir):
    done = helpers.run_module(
        "studies.architecture",
        *("--dataset", "own", "--data-dir", data_dir, "--output-dir", tmp_path),
        *("--epochs", 3, "--batch-size", 50, "--reader-epochs", 1),
        *("--channels", 4, "--latents", 3, 12),
    )
    assert done.returncode == 0, done.stderr

    folder = tmp_path / "studies" / "architecture"
    numbers = pandas.read_csv(folder / "numbers.csv")
    scores = numbers.pivot(index="model", columns="measure", values="value")
    assert (folder / "layers.png").exists()
    assert (folder / "latents.png").exists()

    layers = scores.weights.dropna()
    assert set(layers.index) == {
        "two linear layers",
        "two, no ReLU",
        "one linear layer",
        "no linear layer",
        "4 channels",
        "Q1, 3 latents",
    }
    assert layers["two linear layers"] == layers["two, no ReLU"]
    assert set(scores.deviation_kept.dropna().index) == {
        *("Q1, 3 latents", "Q3, 3 latents", "PCA, 3 latents"),
        *("Q1, 12 latents", "Q3, 12 latents", "PCA, 12 latents"),
    }
    # With 12 latents Q1 is not trained a second time.
    assert scores.l1["Q1, 12 latents"] == pytest.approx(scores.l1["two linear layers"], rel=1e-5)


def test_two_linear_layers_are_q1s():
    variant = build_variant(16, two_linear_layers(64), seed=5)
    q1 = build_q1(12, seed=5)
    pairs = zip(variant.parameters(), q1.parameters(), strict=True)
    assert all(torch.equal(ours, theirs) for ours, theirs in pairs)
    images = torch.rand(2, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    assert torch.equal(variant(images), q1(images))


@pytest.mark.parametrize(
    "layers",
    [two_linear_layers, two_linear_layers_without_relu, one_linear_layer, no_linear_layer],
)
def test_every_network_has_12_latents(layers):
    model = build_variant(4, layers(16), seed=0)
    images = torch.rand(3, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    assert model.encoder(images).shape == (3, 12)
    assert model(images).shape == (3, 1, 28, 28)


def test_without_a_linear_layer_a_latent_sees_a_part_of_the_image():
    encoder = build_variant(4, no_linear_layer(16), seed=0).encoder
    image = torch.rand(1, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    changed = image.clone()
    changed[..., -1, -1] += 1  # the last pixel
    moved = (encoder(image) != encoder(changed)).view(3, 2, 2)
    assert moved[:, 1, 1].any()
    assert not moved[:, 0, 0].any()


def test_latent_correlation():
    codes = numpy.random.default_rng(0).normal(size=(1_000, 3))
    codes[:, 1] = -2 * codes[:, 0]  # correlation -1
    codes = numpy.column_stack([codes, numpy.ones(1_000)])  # the last one does not vary
    with_third = abs(numpy.corrcoef(codes[:, 0], codes[:, 2])[0, 1])
    assert latent_correlation(codes) == pytest.approx((1 + 2 * with_third) / 3)
