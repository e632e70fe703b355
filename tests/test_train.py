import json
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from common import checkpoint, train
from common.data import Dataset, Split
from common.models import Autoencoder, Decoder, Encoder
from common.muon import Muon
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

    def forward(self, images):
        self.modes.append((self.training, torch.is_grad_enabled()))
        return self.layer(images)


def loss_fn(model, images, labels):
    logits = model(images)
    loss = F.cross_entropy(logits, labels)
    return loss, {"cross_entropy": loss, "accuracy": (logits.argmax(1) == labels).float().mean()}


def split(count: int, seed: int) -> Split:
    images = torch.randn(count, 4, generator=torch.Generator().manual_seed(seed))
    return Split(images, images[:, :3].argmax(1))


@pytest.fixture
def dataset() -> Dataset:
    return Dataset(split(50, 1), split(30, 2), split(2_100, 3), "fingerprint")


def test_fit_learns_and_records_every_step_and_every_epoch(dataset):
    model = Linear()
    history = train.fit(model, loss_fn, dataset.train, dataset.held_out, **SETTINGS)
    assert [record["epoch"] for record in history] == [1, 2, 3]
    assert [record["step"] for record in history] == [4, 8, 12]  # 50 images in batches of 16, 16, 16 and 2
    assert all(len(record["train"]["cross_entropy"]) == 4 for record in history)
    assert history[-1]["validation"]["cross_entropy"] < history[0]["train"]["cross_entropy"][0]
    assert history[-1]["validation"] == train.evaluate(model, loss_fn, dataset.validation)
    assert history[-1]["test"] == train.evaluate(model, loss_fn, dataset.test)
    json.dumps(history, allow_nan=False)


def test_first_recorded_loss_is_that_of_the_first_batch_before_any_step(dataset):
    seen = []

    def watching(model, images, labels):
        seen.append((images.clone(), labels.clone()))
        return loss_fn(model, images, labels)

    history = train.fit(Linear(), watching, dataset.train, dataset.held_out, **SETTINGS)
    images, labels = seen[0]
    logits = images.double().numpy() @ Linear().layer.weight.detach().double().numpy().T
    exponentials = torch.from_numpy(logits).exp()
    by_hand = -(exponentials[range(16), labels] / exponentials.sum(1)).log().mean()
    assert history[0]["train"]["cross_entropy"][0] == pytest.approx(by_hand.item(), rel=1e-5)


def test_learning_rate_rises_to_its_peak_and_ends_near_zero(dataset):
    rates = [
        record["learning_rate"]
        for record in train.fit(Linear(), loss_fn, dataset.train, dataset.held_out, **SETTINGS | {"epochs": 10})
    ]
    assert max(rates) <= 0.05
    assert rates.index(max(rates)) == 0  # the peak lies at 10 % of training, the end of the first epoch of ten
    assert rates[-1] < 1e-6


def test_wide_layers_take_smaller_steps():
    model = Autoencoder(Encoder(), Decoder())
    model.encoder.linear[0].bias.requires_grad_(False)
    rates = {}
    for group in train._optimisers(model, 0.01, 0.0, 0.0)[0].param_groups:
        rates |= {id(parameter): group["lr"] for parameter in group["params"]}
    encoder, decoder = model.encoder, model.decoder
    # fan-ins: 9, 144, 288, 1024, 128 in the encoder; 12, 128 and (channels in) * 9 / 4 = 144, 72, 36 in its mirror
    layers = [*encoder.convolutions[::2], *encoder.linear[::2], *decoder.linear[:3:2], *decoder.convolutions[::2]]
    expected = [0.03771, 0.009428, 0.006667, 0.003536, 0.01, 0.03266, 0.01, 0.009428, 0.01333, 0.01886]
    assert [rates[id(layer.weight)] for layer in layers] == pytest.approx(expected, rel=1e-3)
    assert {rates.get(id(layer.bias)) for layer in layers} == {0.01, None}
    assert id(encoder.linear[0].bias) not in rates


def test_same_seed_same_bits_other_seed_others(dataset):
    runs = []
    for seed in (4, 4, 5):
        torch.manual_seed(seed * 100 + len(runs))  # the global generator must not matter
        model = Linear()
        runs.append(
            (
                train.fit(model, loss_fn, dataset.train, dataset.held_out, **SETTINGS | {"seed": seed}),
                model.layer.weight,
            )
        )
    assert runs[0][0] == runs[1][0] and torch.equal(runs[0][1], runs[1][1])
    assert runs[0][0] != runs[2][0]


def test_evaluating_changes_nothing_in_training(dataset, monkeypatch):
    with_evaluation, without = Linear(), Linear()
    train.fit(with_evaluation, loss_fn, dataset.train, dataset.held_out, **SETTINGS)
    monkeypatch.setattr(train, "evaluate", lambda model, loss_fn, split: {})
    train.fit(without, loss_fn, dataset.train, dataset.held_out, **SETTINGS)
    assert torch.equal(with_evaluation.layer.weight, without.layer.weight)


def test_muon_takes_the_weights_between_first_and_last_layer_and_adamw_the_others():
    model = Autoencoder(Encoder(), Decoder())
    model.encoder.convolutions[2].weight.requires_grad_(False)
    adamw, muon = train._optimisers(model, 0.01, 0.02, 0.0)
    encoder, decoder = model.encoder, model.decoder
    layers = [encoder.convolutions[4], *encoder.linear[::2], *decoder.linear[:3:2], *decoder.convolutions[:4:2]]
    assert [id(weight) for weight in muon.param_groups[0]["params"]] == [id(layer.weight) for layer in layers]
    others = sum(len(group["params"]) for group in adamw.param_groups)
    assert others + len(layers) + 1 == len(list(model.parameters()))


def test_muon_steps_are_nearly_orthogonal_and_point_where_the_gradient_does():
    generator = torch.Generator().manual_seed(0)
    for shape in ((20, 50), (50, 20), (16, 8, 3, 3)):
        weight = nn.Parameter(torch.zeros(shape))
        weight.grad = torch.randn(shape, generator=generator)
        Muon([weight], lr=0.5).step()
        u, _, v = torch.linalg.svd(weight.grad.flatten(1), full_matrices=False)
        rows, columns = weight.flatten(1).shape
        step = -weight.detach().flatten(1) / 0.5 / max(1, rows / columns) ** 0.5
        along = torch.diagonal(u.T @ step @ v.T)  # of each singular direction of the gradient
        assert along.min() > 0.6 and along.max() < 1.3
        assert (step - u @ torch.diag(along) @ v).abs().max() < 1e-3


def test_only_what_requires_gradients_is_trained(dataset):
    model = Linear()
    before = model.layer.weight.detach().clone()
    model.layer.weight.requires_grad_(False)
    train.fit(model, loss_fn, dataset.train, dataset.held_out, **SETTINGS | {"weight_decay": 0.5})
    assert torch.equal(model.layer.weight, before)
    assert model.layer.bias.abs().min() > 0
    model.layer.bias.requires_grad_(False)
    with pytest.raises(ValueError, match="trainable"):
        train.fit(model, loss_fn, dataset.train, dataset.held_out, **SETTINGS)


def test_transform_changes_training_batches_only(dataset):
    # trained on negated images, the model is wrong on the untouched ones
    settings = SETTINGS | {"epochs": 30}
    history = train.fit(
        Linear(), loss_fn, dataset.train, dataset.held_out, **settings, transform=lambda images, generator: -images
    )
    assert history[-1]["train"]["accuracy"][0] > 0.6 > history[-1]["validation"]["accuracy"]


def test_transform_draws_other_numbers_in_every_batch_and_the_same_in_every_run(dataset):
    drawn = []

    def draw(images, generator):
        drawn.append(torch.rand(1, generator=generator).item())
        return images

    train.fit(Linear(), loss_fn, dataset.train, dataset.held_out, **SETTINGS, transform=draw)
    train.fit(Linear(), loss_fn, dataset.train, dataset.held_out, **SETTINGS, transform=draw)
    assert len(set(drawn[:12])) == 12
    assert drawn[:12] == drawn[12:]


@pytest.mark.parametrize("bad_step", [1, 3, 6])
def test_non_finite_loss_stops_with_epoch_step_and_rate(dataset, bad_step):
    calls = []

    def breaking(model, images, labels):
        loss, metrics = loss_fn(model, images, labels)
        if model.training:
            calls.append(loss)
            if len(calls) == bad_step:
                loss = loss * math.nan
        return loss, metrics

    epoch = 1 if bad_step <= 4 else 2
    with pytest.raises(RunError, match=rf"nan in epoch {epoch}, step {bad_step}, at learning rate .*--learning-rate"):
        train.fit(Linear(), breaking, dataset.train, dataset.held_out, **SETTINGS)


def test_evaluate_weighs_by_images_in_evaluation_mode_without_gradients(dataset):
    model = Linear()
    model.train()
    # 2,100 images fall into four batches of 500 and one of 100: a mean of batch means would weigh the last fivefold
    shifted = Split(dataset.test.images.clone(), dataset.test.labels)
    shifted.images[2_000:] *= 50
    measured = train.evaluate(model, loss_fn, shifted)
    logits = shifted.images.numpy() @ model.layer.weight.detach().numpy().T
    correct = (logits.argmax(1) == shifted.labels.numpy()).sum()
    assert measured["accuracy"] == pytest.approx(correct / 2_100, abs=1e-6)
    per_image = F.cross_entropy(torch.from_numpy(logits).double(), shifted.labels, reduction="none")
    assert measured["cross_entropy"] == pytest.approx(per_image.mean().item(), rel=1e-4)
    assert set(model.modes) == {(False, False)}
    assert model.training, "the mode is left as it was"


def test_interrupted_run_goes_on_to_the_same_bits(dataset, tmp_path):
    whole = Linear()
    expected = train.fit(whole, loss_fn, dataset.train, dataset.held_out, **SETTINGS)
    calls = []

    def killed(model, images, labels):
        calls.append(model.training)
        if sum(calls) == 7:  # in the second epoch
            raise KeyboardInterrupt
        return loss_fn(model, images, labels)

    keeping = SETTINGS | {"snapshot": tmp_path / "snapshot.pt"}
    with pytest.raises(KeyboardInterrupt):
        train.fit(Linear(), killed, dataset.train, dataset.held_out, **keeping)
    assert len(checkpoint.read(keeping["snapshot"])[0]["history"]) == 1
    resumed = Linear()

    def counted(*arguments):
        calls.append(arguments[0].training)
        return loss_fn(*arguments)

    calls.clear()
    history = train.fit(resumed, counted, dataset.train, dataset.held_out, **keeping)
    assert sum(calls) == 8, "four steps in each of the two epochs that were left"
    assert history == expected
    assert torch.equal(resumed.layer.weight, whole.layer.weight)


def test_damaged_snapshot_is_said_and_started_over(dataset, tmp_path, capsys):
    path = tmp_path / "snapshot.pt"
    path.write_bytes(b"cut short")
    history = train.fit(Linear(), loss_fn, dataset.train, dataset.held_out, **SETTINGS, snapshot=path)
    assert history == train.fit(Linear(), loss_fn, dataset.train, dataset.held_out, **SETTINGS)
    assert str(path) in capsys.readouterr().out


def test_progress_bar_is_quiet_when_not_on_a_terminal(dataset, capsys):
    train.fit(Linear(), loss_fn, dataset.train, dataset.held_out, **SETTINGS)
    assert capsys.readouterr() == ("", "")
