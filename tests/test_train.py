"""Tests of common/train.py: a short run worked by hand, and what must not change the weights."""

import math

import numpy
import pandas
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from common import train
from common.losses import classification_metrics
from common.models import Autoencoder, Decoder, Encoder, fan_in
from common.run import RunError


class Linear(nn.Module):
    """A model small enough to check by hand; it keeps whether it trained and had gradients."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)
        nn.init.normal_(self.layer.weight, generator=torch.Generator().manual_seed(1))
        nn.init.zeros_(self.layer.bias)
        self.modes = set()

    def forward(self, inputs):
        self.modes.add((self.training, torch.is_grad_enabled()))
        return self.layer(inputs)


def loss(model, inputs, labels):
    metrics = classification_metrics(model(inputs), labels)
    return metrics["cross_entropy"], metrics


def examples(count: int, seed: int) -> TensorDataset:
    """Return inputs (N, 4), and as labels which of the first three is the largest."""
    inputs = torch.randn(count, 4, generator=torch.Generator().manual_seed(seed))
    return TensorDataset(inputs, inputs[:, :3].argmax(1))


TRAIN, TEST = examples(50, 1), examples(2_100, 2)


def recipe(**changes) -> train.Recipe:
    """Return a recipe of 3 epochs of 4 steps: 16, 16, 16 and 2 examples."""
    values = {"epochs": 3, "batch_size": 16, "learning_rate": 0.05, "weight_decay": 0.0}
    return train.Recipe(**values | changes)


def fit(model: nn.Module, seed: int = 4, **changes) -> pandas.DataFrame:
    return train.fit(model, loss, TRAIN, {"test": TEST}, recipe(**changes), seed)


def test_twenty_steps_by_numpy():
    inputs, labels = TRAIN.tensors[0].double().numpy(), TRAIN.tensors[1].numpy()
    wanted = numpy.eye(3)[labels]
    weight, bias = Linear().layer.weight.detach().double().numpy(), numpy.zeros(3)
    moments = {"weight": (0.0, 0.0), "bias": (0.0, 0.0)}
    losses = []
    for step in range(1, 21):
        # The rate rises to its peak in a tenth of the steps and falls linearly. Weights train at
        # 4 times the rate, the most, as sqrt(128 / fan-in 4) is more.
        rate = 0.05 * numpy.interp(step, [1, 2, 20], [1 / 25, 1, 4e-6])
        logits = inputs @ weight.T + bias
        probabilities = numpy.exp(logits) / numpy.exp(logits).sum(1, keepdims=True)
        losses.append(-numpy.log((probabilities * wanted).sum(1)).mean())
        slope = (probabilities - wanted) / len(inputs)
        moves = {}
        for name, gradient in (("weight", slope.T @ inputs), ("bias", slope.sum(0))):
            mean = 0.9 * moments[name][0] + 0.1 * gradient
            square = 0.95 * moments[name][1] + 0.05 * gradient**2
            moments[name] = mean, square
            mean = mean / (1 - 0.9**step)
            moves[name] = mean / (numpy.sqrt(square / (1 - 0.95**step)) + 1e-8)
        weight = weight * (1 - 4 * rate * 0.1) - 4 * rate * moves["weight"]
        bias = bias * (1 - rate * 0.1) - rate * moves["bias"]

    model = Linear()
    history = fit(model, epochs=20, batch_size=50, weight_decay=0.1)
    recorded = history.query("split == 'train' and measure == 'cross_entropy'")
    assert recorded.step.tolist() == list(range(1, 21))
    assert recorded.value.tolist() == pytest.approx(losses, rel=1e-5)
    assert model.layer.weight.detach().numpy() == pytest.approx(weight, abs=1e-5)
    assert model.layer.bias.detach().numpy() == pytest.approx(bias, abs=1e-5)


@pytest.mark.parametrize("steps", [1, 10])
def test_a_run_too_short_for_a_warm_up_trains(steps):
    model = Linear()
    history = fit(model, epochs=steps, batch_size=50)
    assert history.step.max() == steps
    assert not torch.equal(model.layer.weight, Linear().layer.weight)
    assert model.layer.weight.isfinite().all()


def test_held_out_examples_are_measured_before_training_and_after_each_epoch():
    model = Linear()
    measured = fit(model).query("split == 'test'").pivot(index="step", columns="measure")["value"]
    assert measured.index.tolist() == [0, 4, 8, 12]
    assert measured.loc[0].to_dict() == train.evaluate(Linear(), loss, TEST)
    assert measured.loc[12].to_dict() == train.evaluate(model, loss, TEST)


def test_an_epoch_has_every_example_once_in_an_order_of_its_own():
    numbered = TensorDataset(torch.arange(10), torch.arange(10) + 100)
    orders = []
    for seed, epoch in ((3, 1), (3, 1), (3, 2), (4, 1)):
        batches = list(train.batches(numbered, recipe(batch_size=4), seed, epoch))
        assert [len(inputs) for inputs, _ in batches] == [4, 4, 2]
        assert all(torch.equal(targets, inputs + 100) for inputs, targets in batches)
        orders.append(torch.cat([inputs for inputs, _ in batches]).tolist())
        assert sorted(orders[-1]) == list(range(10))
    assert orders[0] == orders[1]
    assert len({tuple(order) for order in orders}) == 3


@pytest.mark.parametrize("muon_learning_rate", [0.0, 0.02])
def test_rates_by_fan_in_and_which_weights_are_muons(muon_learning_rate):
    model = Autoencoder(Encoder(), Decoder())
    layers = [layer for layer in model.modules() if fan_in(layer)]
    layers[1].weight.requires_grad_(False)
    layers[3].bias.requires_grad_(False)
    # 9, 144, 288, 1024, 128 terms in the encoder; 12, 128 and channels * 9 / 4 in the decoder.
    terms = [9, 144, 288, 1024, 128, 12, 128, 144, 72, 36]
    expected = 0.01 * numpy.sqrt(128 / numpy.array(terms))
    expected[1] = 0  # does not train
    if muon_learning_rate:
        expected[3:7] = 0.02  # the linear layers'

    rates = {}
    given = recipe(learning_rate=0.01, muon_learning_rate=muon_learning_rate)
    for optimiser in train.make_optimisers(model, given):
        for group in optimiser.param_groups:
            rates |= {id(parameter): group["lr"] for parameter in group["params"]}
    assert [rates.get(id(layer.weight), 0) for layer in layers] == pytest.approx(expected)
    assert [rates.get(id(layer.bias), 0) for layer in layers] == [0.01] * 3 + [0] + [0.01] * 6
    with pytest.raises(ValueError, match="trainable"):
        train.make_optimisers(model.requires_grad_(False), given)


def test_only_the_seed_changes_bits_whatever_is_recorded():
    recorded_at = []
    some = {"record_epochs": {0, 2}, "after_record": recorded_at.append}
    weights = []
    for seed, changes in ((4, {}), (4, {}), (4, some), (5, {})):
        torch.manual_seed(len(weights))  # the global generator must not matter
        model = Linear()
        fit(model, seed, **changes)
        weights.append(model.layer.weight)
    assert [torch.equal(weights[0], other) for other in weights[1:]] == [True, True, False]
    assert recorded_at == [0, 8]


def test_transform_is_of_training_batches_and_draws_anew_for_each():
    drawn = []

    def negate(inputs, generator):
        drawn.append(torch.rand(1, generator=generator).item())
        return -inputs

    for _ in range(2):
        history = fit(Linear(), epochs=30, transform=negate)
    last = history[history.measure == "accuracy"].groupby("split").value.last()
    assert last["train"] > 0.6 > last["test"]
    assert drawn[:120] == drawn[120:] and len(set(drawn)) == 120


@pytest.mark.parametrize("bad_step", [1, 25, 150])
def test_a_loss_that_is_not_finite_ends_the_run(bad_step):
    count = 0

    def breaking(model, inputs, labels):
        nonlocal count
        value, metrics = loss(model, inputs, labels)
        count += 1
        return (value * math.nan if count == bad_step else value), metrics

    with pytest.raises(RunError, match=rf"step {bad_step}\b"):
        train.fit(Linear(), breaking, TRAIN, {}, recipe(batch_size=1), seed=0)


def test_evaluate_weighs_by_examples_and_leaves_the_mode():
    model = Linear().train()
    # Four batches of 500 and one of 100: a mean of their means would weigh the last fivefold.
    inputs, labels = TEST.tensors[0].clone(), TEST.tensors[1].numpy()
    inputs[2_000:] *= 50
    measured = train.evaluate(model, loss, TensorDataset(inputs, TEST.tensors[1]))
    logits = inputs.double().numpy() @ model.layer.weight.detach().double().numpy().T
    losses = numpy.log(numpy.exp(logits).sum(1)) - logits[numpy.arange(2_100), labels]
    assert measured["cross_entropy"] == pytest.approx(losses.mean(), rel=1e-4)
    assert measured["accuracy"] == pytest.approx((logits.argmax(1) == labels).mean())
    assert model.modes == {(False, False)} and model.training


def test_outputs_of_apply_are_in_order_and_can_be_trained_on():
    outputs = train.apply(Linear(), TEST.tensors[0])
    assert torch.allclose(outputs, Linear()(TEST.tensors[0]), atol=1e-6)
    nn.Linear(3, 3)(outputs).sum().backward()  # refused for what inference mode made


def test_a_loss_may_be_one_tensor_and_metrics_numbers():
    def alone(model, inputs, labels):
        return loss(model, inputs, labels)[0]

    def as_numbers(model, inputs, labels):
        value, metrics = loss(model, inputs, labels)
        return value, {name: metric.item() for name, metric in metrics.items()}

    usual = fit(Linear())
    assert train.fit(Linear(), as_numbers, TRAIN, {"test": TEST}, recipe(), 4).equals(usual)
    only = train.fit(Linear(), alone, TRAIN, {"test": TEST}, recipe(), 4)
    values = usual[usual.measure == "cross_entropy"].value
    assert set(only.measure) == {"loss"} and list(only.value) == list(values)


def test_linear_layers_alone_train_by_muon():
    model = nn.Linear(4, 3, bias=False)
    before = model.weight.detach().clone()
    fit(model, muon_learning_rate=0.02)
    assert not torch.equal(model.weight, before)


def test_what_cannot_be_trained_on_is_named():
    nothing = examples(0, 1)
    with pytest.raises(ValueError, match="train: got no examples"):
        train.fit(Linear(), loss, nothing, {"test": TEST}, recipe(), 0)
    with pytest.raises(ValueError, match="test: got no examples"):
        train.fit(Linear(), loss, TRAIN, {"test": nothing}, recipe(), 0)
    with pytest.raises(ValueError, match="no examples"):
        train.evaluate(Linear(), loss, nothing)

    def of_each(model, inputs, labels):
        return nn.functional.cross_entropy(model(inputs), labels, reduction="none")

    with pytest.raises(ValueError, match="expected one number"):
        train.fit(Linear(), of_each, TRAIN, {}, recipe(), 0)
