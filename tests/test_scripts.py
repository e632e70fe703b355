import dataclasses
import hashlib
import json

import pytest
import torch

import q1_autoencoder
import q2_classifier
from common import checkpoint, data, run, train
from common.augment import STRONG_WARP
from common.losses import reconstruction_loss
from tests import synthetic

FIGURES = {
    q1_autoencoder: {"latents.png", "loss.png", "reconstructions.png"},
    q2_classifier: {"accuracy.png", "confusion.png", "loss.png", "mistakes.png"},
}
RESULT_FILES = {".lock", "config.json", "metrics.jsonl", "model.pt", "summary.json"}


@pytest.fixture(autouse=True)
def small(monkeypatch):
    synthetic.make_small(monkeypatch)


@pytest.fixture(params=FIGURES, ids=lambda script: script.__name__)
def script(request):
    return request.param


def tiny(script, data_dir, output_dir, **changes):
    settings = {"epochs": 2, "batch_size": 100, "device": "cpu"} | changes
    return script.Config(data_dir=data_dir, output_dir=output_dir, **settings)


def test_script_keeps_its_promises(script, data_dir, tmp_path, capsys):
    summary = script.main(tiny(script, data_dir, tmp_path / "outputs"))
    folder = tmp_path / "outputs" / script.__name__
    assert {path.name for path in folder.iterdir()} == RESULT_FILES | FIGURES[script]
    assert {path.name for path in tmp_path.iterdir()} == {"data", "outputs"}
    assert json.loads((folder / "summary.json").read_text()) == summary
    assert summary["checkpoint_sha256"] == hashlib.sha256((folder / "model.pt").read_bytes()).hexdigest()
    assert summary["seconds"] > 0
    for numbers in (summary["metrics"], summary["baselines"]):
        for name, number in numbers.items():
            assert set(number) == {"mean", "std", "n", "unit", "split"}
            assert number["std"] is None and number["n"] == 1
            assert f"{number['split']}/" in name and number["unit"]

    config = json.loads((folder / "config.json").read_text())
    assert config["options"]["epochs"] == 2 and config["options"]["seed"] == 0
    assert config["data_sha256"] == data.load("mnist", data_dir).fingerprint
    assert config["versions"]["torch"] == torch.__version__
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == [21, 42]  # 2,100 images in batches of 100

    last_lines = capsys.readouterr().out.splitlines()[-2:]
    assert str(folder) in last_lines[1]
    assert "test" in last_lines[0]


def test_same_seed_same_bits_wherever_it_writes(script, data_dir, tmp_path):
    written = []
    for name in ("first", "second"):
        torch.manual_seed(len(written))  # the global generator must not matter
        script.main(tiny(script, data_dir, tmp_path / name, seed=7))
        folder = tmp_path / name / script.__name__
        written.append([(folder / file).read_bytes() for file in ("metrics.jsonl", "model.pt")])
    assert written[0] == written[1]


def test_another_seed_gives_other_initial_weights(script):
    pair = [script.build(script.Config(seed=seed)).state_dict() for seed in (7, 8)]
    assert all(not torch.equal(pair[0][name], pair[1][name]) for name in pair[0] if name.endswith("weight"))


def test_q1_quotes_what_its_checkpoint_gives_and_errors_worked_by_hand(data_dir, tmp_path):
    summary = q1_autoencoder.main(tiny(q1_autoencoder, data_dir, tmp_path))
    dataset = data.load("mnist", data_dir)
    images = dataset.test.images
    model = checkpoint.load(tmp_path / "q1_autoencoder" / "model.pt").model
    with torch.inference_mode():
        difference = 1 / (1 + (-model(images)).exp()) - images
    metrics, baselines = summary["metrics"], summary["baselines"]
    assert metrics["test/mse"]["mean"] == pytest.approx((difference**2).mean().item(), rel=1e-4)
    assert metrics["test/l1"]["mean"] == pytest.approx(difference.abs().mean().item(), rel=1e-4)
    blank = images - dataset.train.images.mean(0)
    assert baselines["mean_image/test/mse"]["mean"] == pytest.approx((blank**2).mean().item(), rel=1e-4)
    # PCA by hand: the projection on the leading right singular vectors of the centred training images
    centred = (dataset.train.images - dataset.train.images.mean(0)).flatten(1)
    leading = torch.linalg.svd(centred, full_matrices=False).Vh[:12]
    residual = blank.flatten(1) - blank.flatten(1) @ leading.T @ leading
    assert baselines["pca_12/test/mse"]["mean"] == pytest.approx((residual**2).mean().item(), rel=1e-2)


@pytest.mark.parametrize("loss", ["mse", "bce", "l1"])
def test_q1_learns_with_every_loss(loss, data_dir, tmp_path):
    config = tiny(q1_autoencoder, data_dir, tmp_path, loss=loss, epochs=4)
    summary = q1_autoencoder.main(config)
    assert summary["metrics"]["test/mse"]["mean"] < 0.7 * summary["baselines"]["mean_image/test/mse"]["mean"]


def test_collapsed_q1_fails_with_a_sentence_and_keeps_the_earlier_result(data_dir, tmp_path):
    q1_autoencoder.main(tiny(q1_autoencoder, data_dir, tmp_path))
    folder = tmp_path / "q1_autoencoder"
    before = (folder / "model.pt").read_bytes()
    with pytest.raises(run.RunError, match=r"collapsed: validation MSE .* is no better than the mean image's"):
        q1_autoencoder.main(tiny(q1_autoencoder, data_dir, tmp_path, learning_rate=1e-9))
    assert (folder / "model.pt").read_bytes() == before


@pytest.mark.parametrize("minimise", ["mse", "l1"])
def test_a_loss_that_can_collapse_is_minimised_only_far_from_all_black(minimise):
    images = torch.zeros(4, 1, 28, 28)
    images[:, :, 10:18] = 1.0
    good = torch.where(images > 0.5, 3.0, -3.0)
    black = torch.full_like(images, -9.0)
    for logits, expected in ((good, minimise), (black, "bce")):
        loss, metrics = reconstruction_loss(lambda _, logits=logits: logits, images, images, minimise)
        assert torch.equal(loss, metrics[expected])
    assert metrics["l1"].item() == pytest.approx(images.mean().item(), abs=1e-3)


def test_q2_quotes_what_its_checkpoint_gives_and_baselines_know_the_bars(data_dir, tmp_path):
    summary = q2_classifier.main(tiny(q2_classifier, data_dir, tmp_path))
    dataset = data.load("mnist", data_dir)
    model = checkpoint.load(tmp_path / "q2_classifier" / "model.pt").model
    with torch.inference_mode():
        correct = (model(dataset.test.images).argmax(1) == dataset.test.labels).double().mean().item()
    assert summary["metrics"]["test/accuracy"]["mean"] == pytest.approx(correct, abs=1e-6)
    assert summary["baselines"]["knn/test/accuracy"]["mean"] > 0.95  # the bar's row is the label
    assert summary["baselines"]["logistic_regression/test/accuracy"]["mean"] > 0.95


def test_augmentation_is_an_option(data_dir, tmp_path):
    weights = []
    for augment in (True, False):
        q2_classifier.main(tiny(q2_classifier, data_dir, tmp_path, epochs=1, augment=augment))
        weights.append(checkpoint.load(tmp_path / "q2_classifier" / "model.pt").model.state_dict())
    assert any(not torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_the_undoing_variant_is_shown_warped_images_and_asked_for_the_unwarped_in_a_folder_of_its_own(
    data_dir, tmp_path, monkeypatch
):
    def seen(model, loss_fn, examples, evaluated, **settings):
        raise KeyboardInterrupt(examples, evaluated, settings)

    monkeypatch.setattr(train, "fit", seen)
    dataset = data.load("mnist", data_dir)
    for undo, name in ((True, "q1_autoencoder-undo"), (False, "q1_autoencoder")):
        with pytest.raises(KeyboardInterrupt) as error:
            q1_autoencoder.main(tiny(q1_autoencoder, data_dir, tmp_path / name, undo=undo, undo_epochs=5))
        examples, evaluated, settings = error.value.args
        assert [path.name for path in (tmp_path / name).iterdir()] == [name]
        assert settings["transform"] is (STRONG_WARP if undo else None) and settings["epochs"] == (5 if undo else 2)
        assert torch.equal(examples.images, dataset.train.images)
        assert torch.equal(examples.labels, dataset.train.images), "what is to come out is never warped"
        assert torch.equal(evaluated["validation"].labels, dataset.validation.images)


def test_hidden_relu_is_an_option(script):
    for hidden_relu in (True, False):
        encoder = script.build(script.Config(hidden_relu=hidden_relu)).encoder
        assert isinstance(encoder.linear[1], torch.nn.ReLU) == hidden_relu


def test_other_sizes_and_options_reach_the_model(script, data_dir, tmp_path):
    script.main(tiny(script, data_dir, tmp_path, epochs=3, latent_dim=3))
    model = checkpoint.load(tmp_path / script.__name__ / "model.pt").model
    assert model.encoder.arguments["latent_dim"] == 3


def test_both_scripts_start_from_the_same_encoder():
    pair = [script.build(script.Config(seed=5)).encoder.state_dict() for script in FIGURES]
    assert all(torch.equal(pair[0][name], pair[1][name]) for name in pair[0])


def test_every_option_has_a_default_and_frozen_configs_cannot_drift(script):
    config = script.Config()
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.epochs = 3
