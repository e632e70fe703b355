"""Q4 and Q5, and what they share, on synthetic digits."""

import collections
import dataclasses
import itertools
import json

import numpy
import pytest
import torch
from torch import nn

import q1_autoencoder
import q4_few_shot
import q5_transfer
from common import checkpoint, data, few_shot, label_spreading, results, run
from common.augment import warp_and_thicken
from common.few_shot import Outcome, Regime, Subset
from common.losses import classification_scores
from common.models import Classifier, Encoder, Head, digest, frozen
from tests import synthetic

SETTINGS = {
    "subsets": 2,
    "shots": 2,
    "plain_iterations": 4,
    "iterations": 6,
    "batch_size": 10,
    "device": "cpu",
}


@pytest.fixture(autouse=True)
def small(monkeypatch):
    synthetic.make_small(monkeypatch)
    monkeypatch.setattr(data, "VALIDATION_IMAGES", 5_000)  # leaves 1,100 to train on


@pytest.fixture
def folders(data_dir, tmp_path):
    """The folders as options; in the output folder, untrained results of Q1 and of its variant."""
    for name, seed in (("q1_autoencoder", 0), ("q1_undo", 1)):
        synthetic.leave_untrained(q1_autoencoder, name, tmp_path / "outputs", data_dir, seed=seed)
    return {"data_dir": data_dir, "output_dir": tmp_path / "outputs", "device": "cpu"}


def values(summary: dict, split: str = "test") -> dict:
    return {
        (entry["model"], entry["measure"]): entry
        for entry in summary["numbers"]
        if entry["split"] == split
    }


def outcome(labelled: float, test: float, measure: str = "accuracy") -> Outcome:
    return Outcome([], {"labelled": {measure: labelled}, "test": {measure: test}})


def test_subsets_are_first_and_balanced_and_differ(data_dir):
    labels = data.load("mnist", data_dir).train.targets
    chosen = few_shot.subsets(labels, shots=2, count=3, seed=0)
    assert [subset.name for subset in chosen] == ["first", "subset 1", "subset 2", "subset 3"]
    assert chosen[0].indices.tolist() == list(range(20))
    for subset in chosen[1:]:
        assert torch.bincount(labels[subset.indices], minlength=10).tolist() == [2] * 10
    assert len({tuple(subset.indices.tolist()) for subset in chosen}) == 4
    assert len({subset.seed for subset in [*chosen, *few_shot.subsets(labels, 2, 3, seed=1)]}) == 8


@pytest.mark.parametrize("count", [10, 20, 100, 130, 1_000])
def test_every_labelled_image_is_shown_equally_often_for_about_the_images_of_the_regime(
    count, monkeypatch
):
    calls = []
    monkeypatch.setattr(few_shot, "LOOKS", 2**0.5)
    monkeypatch.setattr(few_shot.train, "fit", lambda *of, **settings: calls.append((of, settings)))
    few, model = (
        data.Split(torch.zeros(count, 1), torch.arange(count)),
        Classifier(Encoder(), Head()),
    )
    for curve in (True, False):
        few_shot.fit(
            model, None, few, few, few, Regime(15_000, 50, 0.1, 0.2, warp_and_thicken), 3, curve
        )
    (_, _, examples, held_out), settings = calls[0]
    assert (
        set(torch.bincount(examples.targets).tolist()) == {len(examples) // count}
        and len(examples) >= 40
    )
    epochs, looks = settings["epochs"], sorted(settings["looks"])
    assert epochs * len(examples) == pytest.approx(15_000, rel=0.05)
    assert looks[:2] == [0, 1] and looks[-1] == epochs and calls[1][1]["looks"] == ()
    assert all(later <= max(1.7 * look, look + 1) for look, later in itertools.pairwise(looks))
    assert torch.equal(held_out["labelled"].targets, few.targets) and set(held_out) == {
        "labelled",
        "test",
    }
    assert (settings["learning_rate"], settings["weight_decay"], settings["seed"]) == (0.1, 0.2, 3)
    assert settings["transform"] is warp_and_thicken


def test_differences_are_of_the_balanced_subsets_that_both_have_and_say_no_interval():
    tests = {"first": 0.1, "subset 1": 0.7, "subset 2": 0.8}
    variants = {"a": {name: outcome(1.0, test) for name, test in tests.items()}}
    variants["b"] = {name: outcome(1.0, test - 0.1) for name, test in tests.items()}
    variants["c"] = {"subset 2": outcome(1.0, 0.5)}
    entry = few_shot.compared(variants, "a", "b")
    assert entry == {
        "after": "a",
        "before": "b",
        "measure": "accuracy",
        "mean": pytest.approx(0.1),
        "n": 2,
    }
    assert few_shot.in_words(entry) == "a minus b: +10.00 points (subsets: 2)"
    assert few_shot.compared(variants, "a", "c")["mean"] == pytest.approx(0.3)


def test_overfitting_is_measured_and_worded_from_curves_worked_by_hand():
    def curve(measure, loss, points):
        return [
            {"step": step, "labelled": {measure: own}, "test": {measure: 0.5, loss: of_test}}
            for step, own, of_test in points
        ]

    points = [(0, 0.1, 2.0), (2, 0.9, 1.0), (4, 1.0, 0.5), (8, 1.0, 0.75)]
    measures = few_shot.overfitting_measures(curve("accuracy", "cross_entropy", points))
    assert measures == {
        "first 2,000 test": {"lowest_loss_iteration": 4, "last_loss_over_lowest": 1.5},
        "labelled curve": {"last_accuracy_from_iteration": 4},
    }
    classifier = {
        name: outcome(1.0, test)
        for name, test in (("first", 0.1), ("subset 1", 0.7), ("subset 2", 0.8))
    }
    classifier = {name: Outcome([], of.metrics | measures) for name, of in classifier.items()}
    gap = "100.0% on the labelled images from iteration 4 on: over-fitting by 25.0 points"
    when = "test loss lowest at iteration 4, at the end 1.50 times that"
    assert few_shot.overfitting("a", classifier) == f"a: test accuracy 75.00%, {gap}; {when}"
    measures = few_shot.overfitting_measures(
        curve("mse", "bce", [(0, 1, 0.7), (2, 1, 0.2), (4, 1, 0.3)])
    )
    assert measures == {
        "first 2,000 test": {
            "lowest_loss_iteration": 2,
            "last_loss_over_lowest": pytest.approx(1.5),
        }
    }
    errors = {
        name: outcome(0.01, test, "mse")
        for name, test in (("first", 9.0), ("subset 1", 0.03), ("subset 2", 0.05))
    }
    errors = {name: Outcome([], of.metrics | measures) for name, of in errors.items()}
    assert few_shot.overfitting("c", errors, "mse").startswith(
        "c: test MSE 0.0400, 4.0 times that of its images; test"
    )


def test_labels_spread_within_clusters_and_the_given_ones_stay_given():
    random = numpy.random.default_rng(0)
    labels = numpy.arange(400) % 2
    points = random.normal(size=(400, 3)) + 20 * labels[:, None]
    graph = label_spreading.neighbour_graph(points)
    assert abs(graph - graph.T).max() == 0
    assert (label_spreading.spread(graph, numpy.array([0, 1]), labels[:2]) == labels).mean() > 0.95
    # one wrong label among many right ones of its cluster: its neighbours outvote it, and it stays
    given = numpy.arange(0, 100)
    wrong = labels[given].copy()
    wrong[4] = 1 - wrong[4]
    spread = label_spreading.spread(graph, given, wrong)
    assert (spread[given] == wrong).all() and (
        numpy.delete(spread, 4) == numpy.delete(labels, 4)
    ).all()


def test_neighbour_weights_are_worked_by_hand():
    points = numpy.arange(12.0)[:, None] ** 2
    graph = label_spreading.neighbour_graph(points).toarray()
    distances = abs(points - points.T)
    scale = numpy.sort(distances, axis=1)[:, 10]
    near = distances <= scale[:, None]
    expected = numpy.exp(-(distances**2) / (scale[:, None] * scale)) * (near.astype(int) + near.T)
    numpy.fill_diagonal(expected, 0)
    assert graph == pytest.approx(expected)


def test_labels_by_every_graph_and_the_share_of_right_ones_without_the_given(data_dir, monkeypatch):
    split = data.load("mnist", data_dir).train
    subsets = few_shot.subsets(split.targets, 2, 2, seed=0)

    def only_the_given_right(graph, indices, labels):
        answer = (split.targets.numpy() + 1) % 10
        answer[indices] = labels
        return answer

    monkeypatch.setattr(label_spreading, "spread", only_the_given_right)
    encoders = {
        "a": lambda images: images.flatten(1)[:, :200],
        "b": lambda images: images.flatten(1)[:, :90],
    }
    labels = label_spreading.compare(split, encoders, subsets)
    assert set(labels) == {"a latents", "b latents", "PCA-48", "both latents"}
    for by_subset in labels.values():
        assert list(by_subset) == ["first", "subset 1", "subset 2"]
        for subset in subsets:
            assert label_spreading.share_right(by_subset[subset.name], subset, split) == 0
    half_right = torch.where(torch.arange(len(split)) % 2 == 0, split.targets, 11)
    outside = torch.ones(len(split), dtype=torch.bool)
    outside[subsets[1].indices] = False
    expected = (torch.arange(len(split))[outside] % 2 == 0).double().mean().item()
    assert label_spreading.share_right(half_right, subsets[1], split) == pytest.approx(expected)


def check_labels_by_q4s_answers(folders: dict, share: float) -> None:
    """Check the share of right labels by hand, and that the given ones are kept."""
    answers = checkpoint.load(
        folders["output_dir"] / "q4_few_shot" / "scratch_augmented_subset_1.safetensors"
    ).model
    split = data.load("mnist", folders["data_dir"]).train
    subset = few_shot.subsets(split.targets, 2, 2, 0)[1]
    with torch.inference_mode():
        right = (answers(split.inputs).argmax(1) == split.targets).tolist()
    unlabelled = set(range(len(split))) - set(subset.indices.tolist())
    assert share == pytest.approx(sum(right[index] for index in unlabelled) / len(unlabelled))
    untrue = data.Split(
        split.inputs, torch.full_like(split.targets, 11)
    )  # as no classifier answers
    kept = few_shot.answers(
        folders["output_dir"] / "q4_few_shot", "scratch, augmented", untrue, [subset]
    )["subset 1"]
    assert torch.nonzero(kept == 11)[:, 0].tolist() == sorted(subset.indices.tolist()), (
        "the given labels stay given"
    )


def test_q4_then_q5_keep_their_promises(folders, capsys, monkeypatch):
    q4 = q4_few_shot.main(q4_few_shot.Config(**SETTINGS | folders))
    folder = folders["output_dir"] / "q4_few_shot"
    fits = [f"{variant}_{subset}" for variant in ("scratch_plain", "scratch_augmented", "autoencoder")
            for subset in ("first", "subset_1", "subset_2")]  # fmt: skip
    assert {path.stem for path in folder.glob("*.safetensors")} == set(fits)
    assert {path.name for path in folder.glob("*.png")} == set(q4["figures"])
    entry = values(q4)["scratch, plain", "accuracy"]
    assert entry["n"] == 2 and entry["std"] == pytest.approx(numpy.std(entry["values"], ddof=1))
    test = data.load("mnist", folders["data_dir"]).test
    model = checkpoint.load(folder / "scratch_plain_subset_1.safetensors").model
    with torch.inference_mode():
        right = (model(test.inputs).argmax(1) == test.targets).double().mean().item()
    assert entry["values"][0] == pytest.approx(right, abs=1e-6)
    assert ("scratch, augmented", "averaged_accuracy") in values(q4)
    capsys.readouterr()
    settings, fit = collections.Counter(), few_shot.fit

    def watched(model, *others):
        regime = others[4]
        settings[
            regime.learning_rate, regime.weight_decay, regime.transform is warp_and_thicken
        ] += 1
        return fit(model, *others)

    monkeypatch.setattr(few_shot, "fit", watched)
    q5 = q5_transfer.main(
        q5_transfer.Config(**folders, spread_epochs=1, learning_rate=0.003, weight_decay=0.2)
    )
    defaults = q4_few_shot.Config()
    assert settings == {
        (0.003, 0.2, False): 9
        + 8,  # 3 starts on 3 subsets, and the curve of 2 starts on 2 subsets of 2 sizes
        (
            defaults.plain_learning_rate,
            defaults.plain_weight_decay,
            False,
        ): 4,  # the curve from scratch
        (defaults.learning_rate, defaults.weight_decay, True): 3
        + 1
        + 2
        + 5,  # on spread labels 2 and 5
    }
    folder = folders["output_dir"] / "q5_transfer"
    assert capsys.readouterr().out.splitlines() == [*q5["answer"], f"figures and numbers: {folder}"]
    assert {path.name for path in folder.glob("*.png")} == set(q5["figures"])
    assert values(q5)["scratch, plain", "accuracy"]["values"] == entry["values"], (
        "Q4's, not trained again"
    )
    assert (
        not list(folder.glob("scratch_plain_*"))
        and len(list(folder.glob("scratch_3_per_digit_*"))) == 2
    )
    for shots, start in ((1, "scratch"), (3, "frozen"), (3, "fine-tuned")):
        assert values(q5)[f"{start}, {shots} per digit", "accuracy"]["n"] == 2
    q1 = checkpoint.load(
        folders["output_dir"] / "q1_autoencoder" / "model.safetensors"
    ).model.encoder
    for path in folder.glob("frozen_*.safetensors"):
        assert digest(checkpoint.load(path).model.encoder) == digest(q1)
    assert digest(
        checkpoint.load(folder / "fine_tuned_plain_subset_1.safetensors").model.encoder
    ) != digest(q1)
    compared = [(entry["after"], entry["before"], entry["measure"]) for entry in q5["paired"]]
    assert compared == [(*names, "accuracy")[:3] for names in q5_transfer.COMPARISONS]
    assert [values(q5)[name, "accuracy"]["n"] for name in q5_transfer.PARTS] == [1] * len(
        q5_transfer.PARTS
    )
    check_labels_by_q4s_answers(
        folders, values(q5, "unlabelled")["labels by Q4's answers", "accuracy"]["values"][0]
    )
    upstream = results.read_config(folder)["upstream_sha256"]
    assert set(upstream) == {"q1_autoencoder", "q1_undo", "q4_few_shot"}
    with pytest.raises(run.InputError, match=r"seed: expected 3, .*q4_few_shot has 0"):
        q5_transfer.main(q5_transfer.Config(**folders, seed=3))


def test_q5_without_q4_names_the_command(folders):
    with pytest.raises(
        run.InputError,
        match=r"q4_few_shot: got no finished results, expected mnist: make it with `python q4_few_shot\.py",
    ):
        q5_transfer.main(q5_transfer.Config(**folders))


def test_only_the_start_differs_between_the_classifiers_of_q4_and_q5():
    subset, encoders = Subset("subset 1", 7, torch.arange(10)), {"Q1": Encoder(), "undo": Encoder()}
    q4 = q4_few_shot.build(q4_few_shot.Config(), "scratch, plain", subset)
    built = {start: q5_transfer.build(start, subset, encoders) for start in
             ("scratch", "random frozen", "frozen", "fine-tuned", "undo")}  # fmt: skip
    assert digest(built["scratch"]) == digest(built["random frozen"]) == digest(q4)
    assert {digest(model.head) for model in built.values()} == {digest(q4.head)}
    assert (
        digest(built["frozen"].encoder)
        == digest(built["fine-tuned"].encoder)
        == digest(encoders["Q1"])
    )
    assert digest(built["undo"].encoder) == digest(encoders["undo"])
    trains = {
        start: any(weight.requires_grad for weight in model.encoder.parameters())
        for start, model in built.items()
    }
    assert [start for start, of in trains.items() if not of] == ["random frozen", "frozen"]


@pytest.fixture
def fit_all(data_dir, tmp_path):
    """Train Q4's plain classifier on `first` and two subsets; return outcomes."""
    dataset, config = data.load("mnist", data_dir), q4_few_shot.Config(**SETTINGS)

    def loss(model: nn.Module, images: torch.Tensor, labels: torch.Tensor):
        return q4_few_shot.loss(model, images, labels, config)

    def fit_all(freeze=False):
        def train_one(variant, subset):
            model, few = q4_few_shot.build(config, variant, subset), dataset.train[subset.indices]
            model.encoder = frozen(model.encoder) if freeze else model.encoder
            history = few_shot.fit(
                model, loss, few, few, dataset.test, Regime(60, 10, 5e-3, 0.1, None), subset.seed
            )
            return few_shot.measured(
                tmp_path, variant, subset, model, history, loss, dataset, config
            )

        jobs = [("scratch", subset) for subset in few_shot.subsets(dataset.train.targets, 2, 2, 0)]
        return few_shot.side_by_side(train_one, jobs, torch.device("cpu"))

    return fit_all


def test_outcomes_are_measured_on_the_reloaded_model(fit_all, monkeypatch):
    assert fit_all()["scratch"]["subset 2"].metrics["labelled"]["accuracy"] > 0.1
    load = checkpoint.load

    def loading(path):
        saved = load(path)
        with torch.inference_mode():
            for parameter in saved.model.parameters():
                parameter.zero_()  # then every image is read as a 0
        return saved

    monkeypatch.setattr(few_shot.checkpoint, "load", loading)
    assert fit_all()["scratch"]["subset 2"].metrics["labelled"]["accuracy"] == pytest.approx(0.1)


def test_an_encoder_that_changes_though_frozen_is_refused(fit_all, monkeypatch):
    fit_all(freeze=True)
    fit = few_shot.train.fit

    def careless(model, *arguments, **settings):
        history = fit(model, *arguments, **settings)
        model.encoder.linear[0].bias.data += 1
        return history

    monkeypatch.setattr(few_shot.train, "fit", careless)
    with pytest.raises(run.RunError, match="frozen encoder changed"):
        fit_all(freeze=True)


def test_results_do_not_depend_on_the_threads(fit_all):
    outcomes, threads = [], torch.get_num_threads()
    for number in (1, 2):
        torch.set_num_threads(number)
        outcomes.append(fit_all())
        assert torch.get_num_threads() == number
    torch.set_num_threads(threads)
    assert outcomes[0] == outcomes[1]


def test_read_gives_back_what_records_wrote(tmp_path):
    outcomes = {
        "a": {
            "first": outcome(1.0, 0.5),
            "subset 1": Outcome([{"step": 3}], {"test": {"accuracy": 0.25}}),
        }
    }
    step = run.start(q4_few_shot.Config(**SETTINGS, output_dir=tmp_path), "q4_few_shot")
    step.finish("data", few_shot.records(outcomes), answer=[], numbers=[], figures={})
    read, options = few_shot.read(tmp_path / "q4_few_shot", seed=0)
    assert read == outcomes and options.shots == 2


def test_q4_baselines_by_hand(folders):
    summary = q4_few_shot.main(q4_few_shot.Config(**SETTINGS | folders))
    dataset = data.load("mnist", folders["data_dir"])
    few = dataset.train[few_shot.subsets(dataset.train.targets, 2, 2, 0)[1].indices]
    pixels, test = few.inputs.flatten(1).double(), dataset.test.inputs.flatten(1).double()
    nearest = few.targets[torch.cdist(test, pixels).argmin(1)]
    right = (nearest == dataset.test.targets).double().mean().item()
    accuracy = values(summary)["nearest neighbour on pixels", "accuracy"]["values"][0]
    assert accuracy == pytest.approx(right, abs=0.011)  # but for ties
    leading = torch.linalg.svd(pixels - pixels.mean(0), full_matrices=False).Vh[:12]
    centred = test - pixels.mean(0)
    residual = centred - centred @ leading.T @ leading
    error = values(summary)["PCA-12 of the same images", "mse"]["values"][0]
    assert error == pytest.approx((residual**2).mean().item(), rel=1e-3)


def test_smoothed_loss_of_the_classifier_is_worked_by_hand_and_the_scores_are_not_smoothed():
    logits, labels = torch.tensor([[2.0, 0.0, -1.0]]), torch.tensor([0])
    nats = -logits.log_softmax(1)[0]
    for script in (q4_few_shot, q5_transfer):
        config = dataclasses.replace(q4_few_shot.Config(), label_smoothing=0.3)
        loss, scores = script.loss(lambda _: logits, torch.zeros(1), labels, config)
        assert scores["cross_entropy"].item() == pytest.approx(nats[0].item())
        assert loss.item() == pytest.approx((0.7 * nats[0] + 0.1 * nats.sum()).item())
    assert json.dumps(
        {name: value.item() for name, value in classification_scores(logits, labels).items()}
    )


def test_labels_from_scratch_are_read_off_the_logarithmic_axis():
    frozen = [[0.1, 0.3], [0.5, 0.7], [0.9, 0.9]]  # 60 % with 10 shots
    assert few_shot.worth((1, 10, 100), {"scratch": [[0.1], [0.4], [0.8]], "frozen": frozen, "x": [[0], [0], [1]]}) == (
        10, pytest.approx(0.6), pytest.approx(10**1.5),
        "10 labels per digit with Q1's encoder, frozen, are worth 32 from scratch",
    )  # fmt: skip
    for scratch, equal, words in (
        ([0.7, 0.8, 0.9], 0.0, "fewer than 1"),
        ([0.1] * 3, float("inf"), "more than 100"),
    ):
        *_, labels, sentence = few_shot.worth(
            (1, 10, 100), {"scratch": [[a] for a in scratch], "frozen": frozen}
        )
        assert labels == equal and f"are worth {words} from" in sentence
