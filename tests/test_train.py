import itertools
import math

import numpy
import pytest
import torch
from torch import nn

from common import train
from common.data import Dataset, Split
from common.losses import classification_scores, minimised, reconstruction_errors
from common.models import Autoencoder, Decoder, Encoder
from common.run import RunError

SETTINGS = {"epochs": 3, "batch_size": 16, "learning_rate": 0.05, "weight_decay": 0.0, "seed": 4}


class Linear(nn.Module):
    """A model small enough to check by hand."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)
        nn.init.normal_(self.layer.weight, generator=torch.Generator().manual_seed(1))
        nn.init.zeros_(self.layer.bias)
        self.modes = []

    def forward(self, inputs):
        self.modes.append((self.training, torch.is_grad_enabled()))
        return self.layer(inputs)


def loss_fn(model, inputs, labels):
    scores = classification_scores(model(inputs), labels)
    return scores["cross_entropy"], scores


def split(count: int, seed: int) -> Split:
    inputs = torch.randn(count, 4, generator=torch.Generator().manual_seed(seed))
    return Split(inputs, inputs[:, :3].argmax(1))


DATASET = Dataset(split(50, 1), split(30, 2), split(2_100, 3), "fingerprint")


def fit(model: nn.Module, loss=loss_fn, trained_on: Split = DATASET.train, **changes) -> list[dict]:
    return train.fit(model, loss, trained_on, DATASET.held_out, **SETTINGS | changes)


def by_numpy(model: Linear, examples: Split) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Return logits and cross-entropy of every example, by a model without biases."""
    logits = examples.inputs.double().numpy() @ model.layer.weight.detach().double().numpy().T
    chosen = logits[numpy.arange(len(examples)), examples.targets.numpy()]
    return logits, numpy.log(numpy.exp(logits).sum(1)) - chosen


def test_fit_learns_and_records_every_step_and_every_epoch_and_prints_nothing(capsys):
    model, batches = Linear(), []

    def watching(model, inputs, labels):
        batches.append(Split(inputs.clone(), labels.clone()))
        return loss_fn(model, inputs, labels)

    history = fit(model, watching)
    assert [(row["epoch"], row["step"]) for row in history] == [
        (1, 4),
        (2, 8),
        (3, 12),
    ]  # batches of 16, 16, 16, 2
    assert all(
        len(record["train"][name]) == 4
        for record in history
        for name in ("cross_entropy", "accuracy")
    )
    by_hand = by_numpy(Linear(), batches[0])[1].mean()  # of the first batch before any step
    assert history[0]["train"]["cross_entropy"][0] == pytest.approx(by_hand, rel=1e-5)
    assert history[-1]["validation"]["cross_entropy"] < by_hand
    for name, held_out in DATASET.held_out.items():
        assert history[-1][name] == train.evaluate(model, loss_fn, held_out)
    assert capsys.readouterr() == ("", "")  # no progress bar where there is no terminal


@pytest.mark.parametrize(
    "steps, epochs", [(1, 1), (2, 2), (9, 1), (10, 1), (10, 2), (10, 10), (11, 1)]
)
def test_a_run_of_few_steps_trains(steps, epochs):
    torch.manual_seed(0)
    model = Autoencoder(nn.Linear(4, 5), nn.Sequential(nn.Linear(5, 5), nn.Linear(5, 3)))
    before = [parameter.detach().clone() for parameter in model.parameters()]
    history = fit(
        model,
        loss_fn,
        split(2 * steps // epochs, 5),
        epochs=epochs,
        batch_size=2,
        matrix_learning_rate=0.02,
    )
    losses = [loss for record in history for loss in record["train"]["cross_entropy"]]
    assert history[-1]["step"] == len(losses) == steps and numpy.isfinite(losses).all()
    assert all((new != old).any() for new, old in zip(model.parameters(), before, strict=True))


def test_learning_rate_rises_for_a_tenth_of_the_steps_and_falls_linearly_to_nearly_zero():
    # 4 steps in each of 10 epochs: the peak is the fourth, and what is recorded are the rates of steps 4, 8, ... 40
    rates = [record["learning_rate"] for record in fit(Linear(), epochs=10)]
    assert rates == pytest.approx([0.05 * (10 - epoch) / 9 for epoch in range(1, 11)], abs=1e-6)


def test_wide_layers_take_smaller_steps_and_muon_takes_the_weights_of_linear_layers():
    encoder, decoder = Encoder(), Decoder()
    layers = [
        *encoder.convolutions[::2],
        *encoder.linear[::2],
        *decoder.linear[:3:2],
        *decoder.convolutions[::2],
    ]
    layers[1].weight.requires_grad, layers[3].bias.requires_grad = False, False
    # fan-ins: 9, 144, 288, 1024, 128 in the encoder; 12, 128 and (channels in) * 9 / 4 = 144, 72, 36 in its mirror
    expected = [0.03771, 0, 0.006667, 0.003536, 0.01, 0.03266, 0.01, 0.009428, 0.01333, 0.01886]
    for matrix_rate in (0.0, 0.02):
        adamw, *muon = train._optimisers(Autoencoder(encoder, decoder), 0.01, matrix_rate, 0.0)
        rates = {
            id(weight): group["lr"] for group in adamw.param_groups for weight in group["params"]
        }
        weights = [rates.pop(id(layer.weight), 0) for layer in layers]
        biases = [rates.pop(id(layer.bias), 0) for layer in layers]
        assert biases == [0.01] * 3 + [0] + [0.01] * 6 and not rates
        assert weights == pytest.approx(
            [*expected[:3], *[0] * 4, *expected[7:]] if muon else expected, rel=1e-3
        )
    assert (
        train._optimisers(Linear(), 0.01, 0.0, 0.0)[0].param_groups[0]["lr"] == 0.04
    )  # at most 4 times; fan-in 4
    assert [*map(id, muon[0].param_groups[0]["params"])] == [
        id(layer.weight) for layer in layers[3:7]
    ]
    alone = train._optimisers(decoder, 0.01, 0.02, 0.0)[
        1
    ]  # as in Q3, whose decoder has the optimisers of Q1's
    assert [*map(id, alone.param_groups[0]["params"])] == [
        id(layer.weight) for layer in layers[5:7]
    ]


def test_watch_sees_each_iteration_after_its_step_and_changes_no_bits():
    watched, alone, seen, weights = Linear(), Linear(), [], []

    def watch(iteration):
        seen.append(iteration)
        weights.append(watched.layer.weight.detach().clone())
        train.apply(watched, DATASET.test.inputs)

    assert fit(watched, watch=watch) == fit(alone)
    assert seen == [*range(1, 13)]
    assert torch.equal(watched.layer.weight, alone.layer.weight) and torch.equal(
        weights[-1], alone.layer.weight
    )
    steps = [Linear().layer.weight, *weights]
    assert all(not torch.equal(before, after) for before, after in itertools.pairwise(steps))


def test_looks_are_from_before_training_on_and_change_nothing_in_it():
    models = [Linear() for _ in range(2)]
    every, some = (
        fit(model, epochs=5, looks=looks)
        for model, looks in zip(models, (None, {0, 2}), strict=True)
    )
    assert [record["epoch"] for record in every] == [1, 2, 3, 4, 5] and [
        record["epoch"] for record in some
    ] == [
        0,
        2,
        5,
    ]
    assert torch.equal(*(model.layer.weight for model in models))
    assert some[1:] == [every[1], every[4]]
    assert some[0]["step"] == 0 and some[0]["test"] == train.evaluate(
        Linear(), loss_fn, DATASET.test
    )


def test_same_seed_same_bits_other_seed_others_whatever_is_evaluated():
    weights = []
    for seed, held_out in ((4, {}), (4, {}), (5, {}), (4, DATASET.held_out)):
        torch.manual_seed(len(weights))  # the global generator must not matter
        model = Linear()
        train.fit(model, loss_fn, DATASET.train, held_out, **SETTINGS | {"seed": seed})
        weights.append(model.layer.weight)
    assert [torch.equal(weights[0], other) for other in weights[1:]] == [True, False, True]


def test_only_what_requires_gradients_is_trained():
    model, before = Linear(), Linear().layer.weight
    model.layer.weight.requires_grad_(False)
    fit(model, weight_decay=0.5)
    assert torch.equal(model.layer.weight, before) and model.layer.bias.abs().min() > 0
    with pytest.raises(ValueError, match="trainable"):
        fit(model.requires_grad_(False))


def test_transform_changes_training_batches_only_and_never_repeats_itself_but_in_another_run():
    numbers = []

    def negated(inputs, generator):
        numbers.append(torch.rand(1, generator=generator).item())
        return -inputs

    for _ in range(2):
        history = fit(Linear(), epochs=30, transform=negated)
    assert history[-1]["train"]["accuracy"][0] > 0.6 > history[-1]["validation"]["accuracy"]
    assert numbers[:120] == numbers[120:] and len(set(numbers)) == 120


@pytest.mark.parametrize(
    "bad_step, epoch, rate", [(1, 1, "0.002"), (25, 1, "0.046"), (73, 2, "0.029")]
)
def test_a_non_finite_loss_stops_with_epoch_step_and_rate_and_another_rate_to_try(
    bad_step, epoch, rate
):
    steps = []

    def breaking(model, inputs, labels):
        loss, metrics = loss_fn(model, inputs, labels)
        steps.append(model.training)
        return (loss * math.nan if sum(steps) == bad_step else loss), metrics

    # the rate rises to 0.05 at step 15 of 150; a third of that is to be tried
    with pytest.raises(
        RunError, match=rf"nan in epoch {epoch}, step {bad_step}, .* rate {rate};.*-rate 0.017"
    ):
        fit(Linear(), breaking, batch_size=1)


def test_evaluate_weighs_by_examples_in_evaluation_mode_without_gradients():
    model, shifted = Linear().train(), Split(DATASET.test.inputs.clone(), DATASET.test.targets)
    # 2,100 examples fall into four batches of 500 and one of 100: a mean of batch means would weigh the last fivefold
    shifted.inputs[2_000:] *= 50
    measured = train.evaluate(model, loss_fn, shifted)
    logits, losses = by_numpy(model, shifted)
    correct = logits.argmax(1) == shifted.targets.numpy()
    assert measured == pytest.approx(
        {"accuracy": correct.mean(), "cross_entropy": losses.mean()}, rel=1e-4
    )
    assert set(model.modes) == {(False, False)} and model.training  # the mode is left as it was


def test_a_decoder_trains_on_latents_in_order_and_on_their_images():
    encoded = train.encode(Linear(), DATASET).test
    assert torch.allclose(encoded.inputs, Linear()(DATASET.test.inputs), atol=1e-6)
    assert torch.equal(encoded.targets, DATASET.test.inputs)
    nn.Linear(3, 3)(encoded.inputs).sum().backward()  # refused for what was made in inference mode


@pytest.mark.parametrize("name", ["l1", "mse", "bce"])
@pytest.mark.parametrize(
    "share, beats_the_mean_image", [(0.3, True), (0.02, True), (-0.05, False), (None, False)]
)
def test_the_chosen_loss_is_minimised_as_soon_as_the_mean_image_is_beaten(
    name, share, beats_the_mean_image
):
    images = (torch.rand(20, 1, 28, 28, generator=torch.Generator().manual_seed(0)) < 0.3).double()
    # all black, or from the mean image a share of the way to the images: as blurred as Q3's, over half of black's L1
    p = (0 * images if share is None else torch.lerp(images.mean(0), images, share)).clamp(
        1e-4, 1 - 1e-4
    )
    logits = torch.logit(p).requires_grad_()
    errors = reconstruction_errors(logits, images)
    assert errors["l1"] > images.mean() / 2
    (loss := minimised(errors, images, name)).backward()
    expected, difference = name if beats_the_mean_image else "bce", p - images
    by_hand = {
        "l1": difference.abs(),
        "mse": difference.square(),
        "bce": -(1 - difference.abs()).log(),
    }  # x: 0 or 1
    assert all(
        errors[key].item() == pytest.approx(pixels.mean().item()) for key, pixels in by_hand.items()
    )
    assert loss.item() == errors[expected].item()
    gradients = {
        "l1": difference.sign() * p * (1 - p),
        "mse": 2 * difference * p * (1 - p),
        "bce": difference,
    }
    assert torch.allclose(logits.grad, gradients[expected] / images.numel(), atol=1e-9)


def test_a_small_batch_sets_no_lower_bar_for_the_chosen_loss_but_a_single_image_has_no_mean_to_beat():
    images = torch.stack(
        [torch.zeros(1, 28, 28), torch.ones(1, 28, 28)]
    )  # another image's mean errs by 1/2 squared, ...
    errors = {"mse": torch.tensor(0.4), "bce": torch.tensor(9.0)}  # and the two images' own by 1/4
    assert minimised(errors, images, "mse") == 0.4
    assert minimised(errors, images[:1], "mse") == 9.0
