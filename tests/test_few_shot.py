import dataclasses
import json

import numpy
import pytest
import torch
from scipy import stats

import q1_autoencoder
import q4_few_shot
import q5_transfer
from common import checkpoint, data, few_shot, plots, run
from common.losses import classification_loss
from common.models import Encoder, digest, frozen

SETTINGS = {"draws": 2, "shots": 2, "plain_iterations": 4, "iterations": 6, "batch_size": 10, "device": "cpu"}


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(data, "VALIDATION_IMAGES", 5_000)  # leaves 1,100 to train on
    monkeypatch.setattr(few_shot, "EVALUATIONS", 2)
    monkeypatch.setitem(plots.STYLE, "savefig.dpi", 30)


@pytest.fixture
def options(data_dir, tmp_path):
    config = q1_autoencoder.Config(output_dir=tmp_path / "outputs")
    record = {"epoch": 1, "step": 1, "test": {"l1": 0.1, "mse": 0.05}}
    for name, seed in (("q1_autoencoder", 0), ("q1_autoencoder-undo", 1)):
        path = config.output_dir / name / "model.pt"
        path.parent.mkdir(parents=True)
        checkpoint.save(path, q1_autoencoder.build(dataclasses.replace(config, seed=seed)), config, record)
    return SETTINGS | {"data_dir": data_dir, "output_dir": tmp_path / "outputs"}


def test_draws_are_first_and_balanced_and_differ(data_dir):
    labels = data.load("mnist", data_dir).train.labels
    drawn = few_shot.draws(labels, few_shot.Options(draws=3, shots=2))
    assert [draw.name for draw in drawn] == ["first", "draw 1", "draw 2", "draw 3"]
    assert drawn[0].indices.tolist() == list(range(20))
    for draw in drawn[1:]:
        assert torch.bincount(labels[draw.indices], minlength=10).tolist() == [2] * 10
    assert len({tuple(draw.indices.tolist()) for draw in drawn}) == 4
    assert len({draw.seed for draw in drawn}) == 4


@pytest.mark.parametrize("count", [10, 100, 130, 1_000])
def test_every_example_is_repeated_equally_often_for_about_the_iterations(count):
    split = data.Split(torch.zeros(count, 1), torch.arange(count))
    options = few_shot.Options()
    for regime, iterations in (("plain", options.plain_iterations), ("augmented", options.iterations)):
        examples, epochs = few_shot.repeated(split, options, regime)
        assert len(set(torch.bincount(examples.labels).tolist())) == 1
        assert count > 100 or epochs == few_shot.EVALUATIONS
        assert epochs * len(examples) / options.batch_size == pytest.approx(iterations, rel=0.2)


def test_paired_interval_is_students_t_by_hand():
    after, before = [0.9, 0.8, 0.95], [0.7, 0.75, 0.8]
    differences = numpy.subtract(after, before)
    half = stats.t.ppf(0.975, 2) * differences.std(ddof=1) / numpy.sqrt(3)
    found = few_shot.paired(after, before)
    assert found["mean"] == pytest.approx(differences.mean()) and found["n"] == 3
    assert (found["low"], found["high"]) == pytest.approx((differences.mean() - half, differences.mean() + half))


def test_settled_is_where_accuracy_stops_rising():
    history = [{"step": 10 * i, "test": {"accuracy": a}} for i, a in enumerate([0.5, 0.8, 0.9, 0.9005, 0.85], 1)]
    assert few_shot.settled(history, "test") == 30


def test_equal_shots_interpolates_and_says_no_gain():
    levels, scratch = [1, 10, 100], numpy.array([0.5, 0.7, 0.9])
    assert q5_transfer.equal_shots(levels, scratch, 0.8, 10) == "10 per digit fine-tuned equal 32 from scratch"
    assert "no gain" in q5_transfer.equal_shots(levels, scratch, 0.7, 10)
    assert "more than 100" in q5_transfer.equal_shots(levels, scratch, 0.95, 10)


def test_effect_is_worded_from_the_interval():
    assert "a gain of +2.00" in q5_transfer.effect({"mean": 0.02, "low": 0.01, "high": 0.03})
    assert "a loss of -2.00" in q5_transfer.effect({"mean": -0.02, "low": -0.03, "high": -0.01})
    assert "uncertain" in q5_transfer.effect({"mean": 0.01, "low": -0.01, "high": 0.03})


def test_labels_spread_within_clusters_from_the_labelled_points():
    random = numpy.random.default_rng(0)
    labels = numpy.arange(400) % 2
    points = random.normal(size=(400, 3)) + 20 * labels[:, None]
    draw = few_shot.Draw("draw 1", 1, torch.tensor([0, 1]))
    graph = q5_transfer.neighbour_graph(points)
    assert abs(graph - graph.T).max() == 0
    hidden = labels.copy()
    hidden[2:] = 0  # what is not of the draw must not be read
    found = q5_transfer.spread(graph, draw, hidden)
    assert q5_transfer.accuracy_of_unlabelled(found, draw, labels) > 0.95
    assert q5_transfer.accuracy_of_unlabelled(1 - labels, draw, labels) == 0


def test_q4_then_q5_keep_their_promises(options, monkeypatch):
    q4 = q4_few_shot.main(q4_few_shot.Config(**options))
    folder = options["output_dir"] / "q4_few_shot"
    figures = {"loss", "accuracy", "comparison", "autoencoder_loss", "autoencoder_comparison", "reconstructions"}
    assert {path.stem for path in folder.glob("*.png")} == figures
    assert json.loads((folder / "summary.json").read_text()) == q4
    assert q4["baselines"]["q1/test/mse"]["mean"] == 0.05
    number = q4["metrics"]["scratch/plain/test/accuracy"]
    each = [q4["draws"]["scratch/plain"][f"draw {i}"]["test"]["accuracy"] for i in (1, 2)]
    assert number["n"] == 2 and number["mean"] == pytest.approx(numpy.mean(each))
    assert number["std"] == pytest.approx(numpy.std(each, ddof=1))
    dataset = data.load("mnist", options["data_dir"])
    model = checkpoint.load(folder / "scratch_plain_draw_1.pt").model
    with torch.inference_mode():
        right = (model(dataset.test.images).argmax(1) == dataset.test.labels).double().mean().item()
    assert each[0] == pytest.approx(right, abs=1e-6)

    monkeypatch.setattr(q5_transfer, "LEVELS", {1, 3})
    q5 = q5_transfer.main(q5_transfer.Config(**options, spread_epochs=1, curve=True))
    folder = options["output_dir"] / "q5_transfer"
    assert {path.stem for path in folder.glob("*.png")} == {"loss", "accuracy", "comparison", "curve"}
    for shots in (1, 2, 3):
        number = q5["metrics"][f"{shots}_per_digit/fine-tuned/plain/test/accuracy"]
        assert number["n"] == 2 and 0 <= number["mean"] <= 1
    same = [q5["metrics"][f"{name}fine-tuned/plain/test/accuracy"] for name in ("", "2_per_digit/")]
    assert same[0] == same[1], "two labels per digit are those of the main run"
    assert not (folder / "curve" / "2_per_digit").exists()
    model = checkpoint.load(folder / "curve" / "3_per_digit" / "scratch_plain_draw_2.pt")
    assert model.config["shots"] == 3
    assert json.loads((folder / "summary.json").read_text()) == q5
    assert not list(folder.rglob("*snapshot.pt")) and not list(folder.glob("scratch_*"))
    for regime in few_shot.REGIMES:
        assert q5["draws"][f"scratch/{regime}"] == q4["draws"][f"scratch/{regime}"], "read from Q4"
    q1 = checkpoint.load(options["output_dir"] / "q1_autoencoder" / "model.pt").model.encoder
    for path in folder.glob("frozen_*.pt"):
        assert digest(checkpoint.load(path).model.encoder) == digest(q1)
    tuned = checkpoint.load(folder / "fine-tuned_plain_draw_1.pt").model.encoder
    assert digest(tuned) != digest(q1)

    # of other options, Q4's classifiers are of no use
    provenance = json.loads((folder / "config.json").read_text())
    q4_folder = options["output_dir"] / "q4_few_shot"
    assert few_shot.finished(q4_folder, provenance, {"latent_dim": 12, "hidden_relu": True}) is not None
    assert few_shot.finished(q4_folder, provenance, {"latent_dim": 13, "hidden_relu": True}) is None
    other = provenance | {"options": provenance["options"] | {"shots": 3}}
    assert few_shot.finished(q4_folder, other, {"latent_dim": 12, "hidden_relu": True}) is None


@pytest.fixture
def classify(data_dir, tmp_path):
    """Train one start, Q4's unless another is given, on `first` and two draws; return the outcomes."""
    dataset = data.load("mnist", data_dir)
    config = q4_few_shot.Config(**SETTINGS)
    drawn = few_shot.draws(dataset.train.labels, config)

    def train_all(start=None, fresh=False, evaluated=True, **changes):
        start = start or (lambda draw: q4_few_shot.scratch(draw, config))
        options = dataclasses.replace(config, **changes)
        if fresh:
            for path in tmp_path.glob("*.pt"):
                path.unlink()
        return few_shot.classify({"start": start}, drawn, dataset, options, tmp_path, evaluated=evaluated)

    return train_all


def weights(folder, name="start_augmented_draw_1"):
    return digest(checkpoint.load(folder / f"{name}.pt").model)


def test_evaluating_less_often_gives_the_same_weights(classify, tmp_path):
    often = classify(evaluated=True)
    expected = weights(tmp_path)
    never = classify(fresh=True, evaluated=False)
    assert weights(tmp_path) == expected
    for outcomes, splits in ((often, {"examples", "test"}), (never, set())):
        record = outcomes["start/plain"]["draw 1"].history[-1]
        assert set(record) == {"epoch", "step", "learning_rate", "train"} | splits


def test_outcomes_are_measured_on_the_saved_model_and_the_own_examples(classify, data_dir, monkeypatch):
    found = classify()["start/plain"]["draw 2"].metrics["examples"]["accuracy"]
    dataset = data.load("mnist", data_dir)
    draw = few_shot.draws(dataset.train.labels, few_shot.Options(**SETTINGS))[2]
    own = dataset.train[draw.indices]
    load, seen = checkpoint.load, []

    def loading(path):
        saved = load(path)
        with torch.inference_mode():
            seen.append((path.name, (saved.model(own.images).argmax(1) == own.labels).double().mean().item()))
            for parameter in saved.model.parameters():
                parameter.zero_()  # then every image is read as a 0
        return saved

    monkeypatch.setattr(few_shot.checkpoint, "load", loading)
    zeros = classify(fresh=True)["start/plain"]["draw 2"].metrics["examples"]["accuracy"]
    assert dict(seen)["start_plain_draw_2.pt"] == pytest.approx(found)
    assert zeros == pytest.approx(0.1)


def test_label_smoothing_reaches_the_training(classify, tmp_path):
    classify()
    expected = weights(tmp_path)
    classify(fresh=True, label_smoothing=0.5)
    assert weights(tmp_path) != expected


def test_q4_baselines_by_hand(data_dir):
    dataset = data.load("mnist", data_dir)
    few = dataset.train[data.balanced(dataset.train.labels, 3, 5)]
    pixels, test = few.images.flatten(1).double(), dataset.test.images.flatten(1).double()
    nearest = few.labels[torch.cdist(test, pixels).argmin(1)]
    accuracies = q4_few_shot.pixel_baselines(few, dataset.test)
    right = (nearest == dataset.test.labels).double().mean().item()
    assert accuracies["nearest_neighbour"]["accuracy"] == pytest.approx(right, abs=0.011)  # but for ties
    leading = torch.linalg.svd(pixels - pixels.mean(0), full_matrices=False).Vh[:4]
    centred = test - pixels.mean(0)
    residual = centred - centred @ leading.T @ leading
    errors = q4_few_shot.pca_errors(few, dataset.test, 4)
    assert errors["mse"] == pytest.approx((residual**2).mean().item(), rel=1e-3)
    assert errors["l1"] == pytest.approx(residual.abs().mean().item(), rel=1e-3)


def test_q4_verdicts_name_the_gap():
    def found(own, test, metric):
        return few_shot.Outcome([], {"examples": {metric: own}, "test": {metric: test}})

    outcomes = {
        "scratch/plain": {f"draw {i}": found(1.0, test, "accuracy") for i, test in enumerate((0.7, 0.8))},
        "autoencoder": {f"draw {i}": found(0.01, test, "mse") for i, test in enumerate((0.03, 0.05))},
    }
    classifier, autoencoder = q4_few_shot.verdicts(outcomes)
    assert "test accuracy 75.0% +- 7.1" in classifier and "over-fitting by 25.0 points" in classifier
    assert "test MSE 0.0400 +- 0.0141, 4.0 times" in autoencoder


def test_more_latents_than_a_quarter_of_the_pixels_spread_too(data_dir):
    dataset = data.load("mnist", data_dir)
    draws = few_shot.draws(dataset.train.labels, few_shot.Options(**SETTINGS))
    encoders = {"latents": lambda images: images.flatten(1)[:, :200], "more": lambda images: images.flatten(1)[:, :90]}
    _, right = q5_transfer.spread_everywhere(encoders, dataset, draws)
    assert list(right) == ["latents", "more", "PCA-200", "PCA-784", "both latents"]


def test_an_encoder_that_changes_though_frozen_is_refused(classify, monkeypatch):
    fit = few_shot.train.fit
    start = lambda draw: frozen(Encoder(generator=run.generator(draw.seed, "encoder")))  # noqa: E731
    encoders = []

    def keeping(draw):
        encoders.append(start(draw))
        return encoders[-1]

    def careless(*arguments, **settings):
        encoders[-1].linear[0].bias.data += 1
        return fit(*arguments, **settings)

    classify(keeping)
    monkeypatch.setattr(few_shot, "MOST_THREADS", 1)
    monkeypatch.setattr(few_shot.train, "fit", careless)
    with pytest.raises(run.RunError, match="frozen encoder changed"):
        classify(keeping, fresh=True)


def test_a_head_on_a_frozen_encoder_learns_from_warped_copies_in_the_augmented_regime(classify, monkeypatch):
    trained_on = {}
    fit = few_shot.train.fit

    def watching(model, loss_fn, examples, *arguments, **settings):
        trained_on.setdefault(len(trained_on), (type(model).__name__, examples.images))
        assert settings["transform"] is None
        return fit(model, loss_fn, examples, *arguments, **settings)

    monkeypatch.setattr(few_shot, "MOST_THREADS", 1)
    monkeypatch.setattr(few_shot.train, "fit", watching)
    classify(lambda draw: frozen(Encoder(generator=run.generator(draw.seed, "encoder"))))
    assert {name for name, _ in trained_on.values()} == {"Head"}
    plain, augmented = trained_on[0][1], trained_on[3][1]  # `first`, in the regimes' order
    assert plain.shape[1:] == augmented.shape[1:] == (12,)
    assert len(plain.unique(dim=0)) <= 20 < len(augmented.unique(dim=0))


def test_killed_runs_go_on_at_the_draw_they_were_in(classify, tmp_path, monkeypatch):
    expected = few_shot.metrics_by_draw(classify())
    for path in tmp_path.glob("*.pt"):
        path.unlink()
    outcome, calls = few_shot.outcome, []

    def killed(*arguments, **options):
        calls.append(arguments)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return outcome(*arguments, **options)

    monkeypatch.setattr(few_shot, "MOST_THREADS", 1)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(few_shot, "outcome", killed)
        classify()
    assert len(list(tmp_path.glob("*snapshot.pt"))) in (4, 5)  # a fifth may have started
    steps, loss_fn = [], few_shot.classification_loss

    def counted(model, images, labels, **options):
        steps.append(model.training)
        return loss_fn(model, images, labels, **options)

    monkeypatch.setattr(few_shot, "classification_loss", counted)
    assert few_shot.metrics_by_draw(classify()) == expected
    resumed = sum(steps)
    steps.clear()
    classify(fresh=True)
    assert resumed < sum(steps) / 2  # two or one of the six runs were left


def test_what_is_measured_does_not_depend_on_whether_a_run_was_resumed(classify):
    def start(draw):
        return Encoder(generator=run.generator(draw.seed, "encoder")).eval()  # as a checkpoint is loaded

    found = few_shot.metrics_by_draw(classify(start))
    assert "averaged_accuracy" in found["start/augmented"]["draw 1"]["test"]
    assert few_shot.metrics_by_draw(classify(start)) == found  # from the snapshots of finished training


def test_smoothing_changes_the_loss_and_not_the_metric():
    logits, labels = torch.tensor([[2.0, 0.0, -1.0]]), torch.tensor([0])
    loss, metrics = classification_loss(lambda _: logits, torch.zeros(1), labels, smoothing=0.3)
    nats = -logits.log_softmax(1)[0]
    assert metrics["cross_entropy"].item() == pytest.approx(nats[0].item())
    assert loss.item() == pytest.approx((0.7 * nats[0] + 0.1 * nats.sum()).item())


def test_quoted_gives_the_spread_of_several_runs():
    entry = run.quoted({"mse": [1.0, 2.0, 6.0]}, "test", "q9")["q9/test/mse"]
    assert (entry["mean"], entry["std"], entry["n"]) == (3.0, pytest.approx(7**0.5), 3)
    assert run.quoted({"mse": 1.0}, "test")["test/mse"]["std"] is None


def test_results_do_not_depend_on_the_threads(classify):
    found, threads = [], torch.get_num_threads()
    for number in (1, 2):
        torch.set_num_threads(number)
        found.append(few_shot.metrics_by_draw(classify(fresh=True)))
        assert torch.get_num_threads() == number
    torch.set_num_threads(threads)
    assert found[0] == found[1]


@pytest.mark.parametrize("change", [{"draws": 1}, {"shots": 0}, {"label_smoothing": 1.5}, {"iterations": 0}])
def test_impossible_options_are_refused(change):
    with pytest.raises(ValueError, match=f"--{next(iter(change)).replace('_', '-')}: got"):
        q4_few_shot.Config(**change)


def test_q5_without_q1_names_the_command(data_dir, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"python q1_autoencoder\.py"):
        q5_transfer.main(q5_transfer.Config(data_dir=data_dir, output_dir=tmp_path, device="cpu"))
