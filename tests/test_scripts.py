"""Q1, Q2 and Q3 through their main, on synthetic digits."""

import collections
import json

import pytest
import torch

import q1_autoencoder
import q2_classifier
import q3_frozen_decoder
from common import checkpoint, data, examples, plots, reader, representation, results, run, train
from common.augment import STRONG_WARP
from common.models import digest
from tests import synthetic

SCRIPTS = (q1_autoencoder, q2_classifier, q3_frozen_decoder)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    synthetic.make_small(monkeypatch)


@pytest.fixture(params=SCRIPTS, ids=lambda script: script.__name__)
def script(request):
    return request.param


@pytest.fixture
def tiny(data_dir, tmp_path):
    """Return a config of a script with the least budget, and where it reads from there is an untrained Q1 and Q2."""
    for name, upstream in (
        ("q1_autoencoder", q1_autoencoder),
        ("q2_classifier", q2_classifier),
        ("q2_plain", q2_classifier),
    ):
        synthetic.leave_untrained(upstream, name, tmp_path / "outputs", data_dir, batch_size=32, seed=len(name))

    def config(script, **changes):
        settings = {"epochs": 2, "device": "cpu", "data_dir": data_dir, "output_dir": tmp_path / "outputs"}
        settings |= {} if script is q3_frozen_decoder else {"batch_size": 100}
        return script.Config(**settings | changes)

    return config


def values(summary: dict) -> dict:
    return {(entry["model"], entry["measure"], entry["split"]): entry["mean"] for entry in summary["numbers"]}


def settings_of(script, config, monkeypatch) -> tuple:
    """Return what a script hands to its first train.fit."""

    def seen(*arguments, **settings):
        raise InterruptedError(arguments, settings)

    monkeypatch.setattr(train, "fit", seen)
    with pytest.raises(InterruptedError) as error:
        script.main(config)
    return error.value.args


def test_a_script_leaves_one_whole_folder_with_every_file_it_promises(script, tiny, tmp_path, capsys):
    summary = script.main(tiny(script))
    folder = tmp_path / "outputs" / script.__name__
    files = {"config.json", "metrics.jsonl", "model.safetensors", "summary.json", *summary["figures"]}
    files |= {examples.NAME} if script is q1_autoencoder else set()
    assert {path.name for path in folder.iterdir()} == files
    assert {path.name for path in tmp_path.iterdir()} == {"data", "outputs"}
    assert not list((tmp_path / "outputs").glob(".*"))
    assert json.loads((folder / "summary.json").read_text()) == summary
    assert summary["question"].startswith(script.__name__[:2].upper() + ": ") and summary["seconds"] > 0
    assert all(text.endswith(".png") and len(title) > 20 for text, title in summary["figures"].items())
    assert any(entry["headline"] for entry in summary["numbers"])
    assert len(values(summary)) == len(summary["numbers"]), "two numbers with one name"
    written = results.read_config(folder)
    assert (
        written["options"]["epochs"] == 2
        and written["data_sha256"] == data.load("mnist", tmp_path / "data").fingerprint
    )
    *answer, last = capsys.readouterr().out.splitlines()
    assert answer == summary["answer"] and last == f"figures and numbers: {folder}"


def test_the_same_seed_gives_the_same_bits_wherever_it_writes(script, tiny, tmp_path, monkeypatch):
    for plot in ("plot_images", "plot_claim", "plot_mistakes"):  # slow, and no part of this
        monkeypatch.setattr(plots, plot, lambda *_, **__: None)
    measures = {name: collections.defaultdict(lambda: 0.1) for name in ("Q1", "Q3")}
    monkeypatch.setattr(representation, "measure", lambda *_: measures)
    written = []
    for number in range(2):
        torch.manual_seed(number)  # the global generator must not matter
        script.main(tiny(script))
        folder = tmp_path / "outputs" / script.__name__
        written.append([(folder / "metrics.jsonl").read_bytes()])
        written[-1] += [path.read_bytes() for path in sorted(folder.glob("*.safetensors"))]
    assert written[0] == written[1]


def test_another_seed_gives_other_initial_weights_and_q2_starts_from_q1s_encoder():
    q1, other = (q1_autoencoder.build(q1_autoencoder.Config(seed=seed)).state_dict() for seed in (7, 8))
    assert all(not torch.equal(q1[name], other[name]) for name in q1 if name.endswith("weight"))
    q2 = q2_classifier.build(q2_classifier.Config(seed=7)).encoder.state_dict()
    assert all(torch.equal(q2[name], q1[f"encoder.{name}"]) for name in q2)


def test_q1_quotes_what_its_checkpoint_gives_and_errors_worked_by_hand(tiny, tmp_path):
    numbers = values(q1_autoencoder.main(tiny(q1_autoencoder)))
    dataset = data.load("mnist", tmp_path / "data")
    images = dataset.test.inputs
    model = checkpoint.load(tmp_path / "outputs" / "q1_autoencoder" / "model.safetensors").model
    with torch.inference_mode():
        difference = 1 / (1 + (-model(images)).exp()) - images
    assert numbers["Q1", "mse", "test"] == pytest.approx((difference**2).mean().item(), rel=1e-4)
    assert numbers["Q1", "l1", "test"] == pytest.approx(difference.abs().mean().item(), rel=1e-4)
    blank = images - dataset.train.inputs.mean(0)
    assert numbers["mean image", "mse", "test"] == pytest.approx((blank**2).mean().item(), rel=1e-4)
    # PCA by hand: the projection on the leading right singular vectors of the centred training images
    centred = (dataset.train.inputs - dataset.train.inputs.mean(0)).flatten(1)
    leading = torch.linalg.svd(centred, full_matrices=False).Vh[:12]
    residual = blank.flatten(1) - blank.flatten(1) @ leading.T @ leading
    assert numbers["PCA-12", "mse", "test"] == pytest.approx((residual**2).mean().item(), rel=1e-2)
    assert numbers["PCA-12", "l1", "test"] == pytest.approx(residual.abs().mean().item(), rel=1e-2)


@pytest.mark.parametrize("loss", ["mse", "bce", "l1"])
def test_q1_learns_with_every_loss(loss, tiny):
    numbers = values(q1_autoencoder.main(tiny(q1_autoencoder, loss=loss, epochs=4)))
    assert numbers["Q1", "mse", "test"] < 0.7 * numbers["mean image", "mse", "test"]


def test_the_loss_asked_for_reaches_q3_from_q1(tiny, tmp_path, data_dir, monkeypatch):
    seen = []
    monkeypatch.setattr(q3_frozen_decoder, "minimised", lambda errors, images, name: seen.append(name) or errors[name])
    synthetic.leave_untrained(q1_autoencoder, "q1_autoencoder", tmp_path / "outputs", data_dir, loss="mse")
    arguments, _ = settings_of(q3_frozen_decoder, tiny(q3_frozen_decoder), monkeypatch)
    decoder, loss_fn, latents, _ = arguments
    loss, errors = loss_fn(decoder, latents.inputs[:10], latents.targets[:10])
    assert seen == ["mse"] and torch.equal(loss, errors["mse"])


def test_a_collapse_fails_with_a_sentence_and_keeps_the_earlier_result(tiny, tmp_path):
    before = results.read_config(tmp_path / "outputs" / "q1_autoencoder")
    config = tiny(q1_autoencoder, learning_rate=1e-9, matrix_learning_rate=0.0)
    with pytest.raises(run.RunError, match=r"collapsed: validation MSE .* is no better than the mean image's"):
        q1_autoencoder.main(config)
    assert results.read_config(tmp_path / "outputs" / "q1_autoencoder") == before


def test_q2_quotes_what_its_checkpoint_gives_and_baselines_know_the_bars(tiny, tmp_path):
    numbers = values(q2_classifier.main(tiny(q2_classifier)))
    test = data.load("mnist", tmp_path / "data").test
    model = checkpoint.load(tmp_path / "outputs" / "q2_classifier" / "model.safetensors").model
    with torch.inference_mode():
        correct = (model(test.inputs).argmax(1) == test.targets).double().mean().item()
    assert numbers["Q2", "accuracy", "test"] == pytest.approx(correct, abs=1e-6)
    for name in ("3 nearest neighbours on pixels", "logistic regression on pixels"):
        assert numbers[name, "accuracy", "test"] > 0.95, "the bar's row is the label"


def test_the_variant_that_undoes_warps_is_shown_warped_images_and_asked_for_the_unwarped(tiny, data_dir, monkeypatch):
    train_split = data.load("mnist", data_dir).train
    for undo in (True, False):
        arguments, settings = settings_of(q1_autoencoder, tiny(q1_autoencoder, undo=undo, epochs=None), monkeypatch)
        assert settings["transform"] is (STRONG_WARP if undo else None) and settings["epochs"] == (4 if undo else 8)
        for tensor in (arguments[2].inputs, arguments[2].targets):
            assert torch.equal(tensor, train_split.inputs), "what is to come out is never warped"


@pytest.mark.parametrize(("plain", "smoothing"), [(False, 0.1), (True, 0.0)])
def test_the_plain_classifier_is_a_control_without_warps_and_smoothing(plain, smoothing, tiny, monkeypatch):
    arguments, settings = settings_of(q2_classifier, tiny(q2_classifier, plain=plain), monkeypatch)
    assert (settings["transform"] is None) == plain
    logits, labels = torch.tensor([[2.0, 0.0, -1.0]]), torch.tensor([0])
    loss, scores = arguments[1](lambda _: logits, torch.zeros(1), labels)
    nats = -logits.log_softmax(1)[0]
    assert scores["cross_entropy"].item() == pytest.approx(nats[0].item()), "the metric is not smoothed"
    assert loss.item() == pytest.approx(((1 - smoothing) * nats[0] + smoothing / 3 * nats.sum()).item())
    assert any(path.name.startswith(".q2_plain-") for path in tiny(q2_classifier).output_dir.glob(".*")) == plain


def test_q3_freezes_q2s_encoder_and_measures_it_with_a_reader_of_no_runs_seed(tiny, tmp_path, monkeypatch):
    seeds, train_reader = [], reader.train_reader
    monkeypatch.setattr(reader, "train_reader", lambda *of, seed: seeds.append(seed) or train_reader(*of, seed=seed))
    numbers = values(q3_frozen_decoder.main(tiny(q3_frozen_decoder, seed=5)))
    q2, q3 = (
        checkpoint.load(tmp_path / "outputs" / name / "model.safetensors").model
        for name in ("q2_classifier", "q3_frozen_decoder")
    )
    assert digest(q2.encoder) == digest(q3.encoder)
    assert seeds == [representation.READER_SEED]
    names = {"original", "Q1", "Q3", "Q3 on plain Q2", "random encoder", "PCA-12", "digit's mean image"}
    for measure in ("mse", "within_digit_variance_explained", "reading_accuracy"):
        assert {name for name, of, split in numbers if (of, split) == (measure, "test")} == names
    assert (
        numbers["original", "mse", "test"] == 0 and numbers["original", "within_digit_variance_explained", "test"] == 1
    )
    assert numbers["digit's mean image", "within_digit_variance_explained", "test"] == pytest.approx(0, abs=1e-9)
    for _, measures in q3_frozen_decoder.CLAIMS.values():
        for measure in measures:
            assert {(model, measure, "test") for model in ("Q1", *q3_frozen_decoder.JUDGED)} <= set(numbers)


def test_q3_trains_a_decoder_with_q1s_recipe(tiny, monkeypatch):
    arguments, settings = settings_of(q3_frozen_decoder, tiny(q3_frozen_decoder, epochs=None), monkeypatch)
    recipe = ("batch_size", "learning_rate", "weight_decay", "matrix_learning_rate")
    q1 = q1_autoencoder.Config(batch_size=32)
    assert {name: settings[name] for name in recipe} == {name: getattr(q1, name) for name in recipe}
    assert settings["epochs"] == 1, "as many as Q1's, which its checkpoint says"
    assert type(arguments[0]).__name__ == "Decoder"
    model = q3_frozen_decoder.build(q3_frozen_decoder.Config(), q1_autoencoder.build(q1).encoder).train()
    assert {weight.requires_grad for weight in model.encoder.parameters()} == {False} and not model.encoder.training


def test_q3_refuses_an_encoder_that_changed_though_frozen(tiny, monkeypatch):
    fit, encoders = train.fit, []
    build = q3_frozen_decoder.build
    monkeypatch.setattr(q3_frozen_decoder, "build", lambda *of: encoders.append(build(*of)) or encoders[-1])

    def careless(*arguments, **settings):
        encoders[0].encoder.linear[0].bias.data += 1
        return fit(*arguments, **settings)

    monkeypatch.setattr(train, "fit", careless)
    with pytest.raises(run.RunError, match="frozen encoder changed"):
        q3_frozen_decoder.main(tiny(q3_frozen_decoder, epochs=1))


def test_q3_shows_what_q1_drew_at_the_same_iterations(tiny, tmp_path, monkeypatch):
    frames = {10: torch.full((examples.DIGITS_SHOWN, 1, 28, 28), 0.25)}
    synthetic.leave_untrained(q1_autoencoder, "q1_autoencoder", tmp_path / "outputs", tmp_path / "data", batch_size=32)
    shown = {}
    monkeypatch.setattr(plots, "plot_images", lambda path, caption, groups, *_: shown.setdefault(path.name, groups))
    monkeypatch.setattr(examples, "load", lambda path: frames if path.parent.name == "q1_autoencoder" else None)
    q3_frozen_decoder.main(tiny(q3_frozen_decoder))
    training = shown["training.png"]
    assert [*training["Q1"]] == [*training["Q3"]] == ["original", "iteration\n10", "the end"]
    assert torch.equal(training["Q1"]["iteration\n10"], frames[10])
    images = examples.shown(data.load("mnist", tmp_path / "data").test).inputs
    for name, folder in (("Q1", "q1_autoencoder"), ("Q3", "q3_frozen_decoder")):
        model = checkpoint.load(tmp_path / "outputs" / folder / "model.safetensors").model
        assert torch.allclose(training[name]["the end"], model(images).sigmoid(), atol=1e-5)
    drawn, end = training["Q3"]["iteration\n10"], training["Q3"]["the end"]
    assert drawn.shape == end.shape and not torch.allclose(drawn, end, atol=1e-3)


def test_encoders_of_different_sizes_are_refused(tiny, tmp_path, data_dir):
    synthetic.leave_untrained(q2_classifier, "q2_classifier", tmp_path / "outputs", data_dir, latent_dim=5)
    with pytest.raises(run.InputError, match=r"'latent_dim': 12.* in Q1, .*'latent_dim': 5.* in Q2"):
        q3_frozen_decoder.main(tiny(q3_frozen_decoder))


def test_the_wide_decoder_has_four_times_the_weights_and_a_folder_of_its_own(tiny, monkeypatch):
    counts = [
        sum(weights.numel() for weights in settings_of(q3_frozen_decoder, config, monkeypatch)[0][0].parameters())
        for config in (tiny(q3_frozen_decoder), tiny(q3_frozen_decoder, wide=True))
    ]
    assert 3.5 < counts[1] / counts[0] < 4.5
    assert {path.name.split("-")[0] for path in tiny(q3_frozen_decoder).output_dir.glob(".*")} >= {".q3_wide"}


def test_one_seeds_claim_is_worded_without_a_verdict():
    panels = {"explained": ["variance explained", "lower"], "probe": ["linear probe", "higher"]}
    text = representation.in_words(
        "(x) claim", panels, {"explained": 0.8, "probe": 0.9}, {"explained": 0.3, "probe": 0.99}
    )
    assert text == "(x) claim: variance explained 0.8 in Q1, 0.3 in Q3; linear probe 0.9 in Q1, 0.99 in Q3"
