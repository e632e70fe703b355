"""What Q4 and Q5 share: labelled subsets, training on few images, fits side by side, paired comparisons."""

import json
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import fmean, median
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy
import torch
from torch import Tensor, nn
from tqdm import tqdm

from common import checkpoint, data, results, run, train
from common.augment import Averaged, warp_and_thicken
from common.data import Dataset, Split
from common.models import digest

LOOKS = 2**0.5  # from one evaluation of a fit to the next, in iterations: for a logarithmic axis
CURVE_IMAGES = 2_000  # test images in the curves; the numbers quoted are of all 10,000
COPIES = 4  # warped, of each test image, over which answers are averaged
MOST_THREADS = 4  # of Python, which share one interpreter


class Subset(NamedTuple):
    """A labelled set: indices (N,) into the training images. Initial weights and batches follow ``seed`` too."""

    name: str
    seed: int
    indices: Tensor


class Regime(NamedTuple):
    """How to train: images shown in all (repeated ones too) and at a time, AdamW's settings, how batches are warped."""

    images: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    transform: train.Transform | None


class Outcome(NamedTuple):
    """What training on a subset came to: the history, and metrics of the saved model, split -> measure -> value."""

    history: list[dict]
    metrics: dict[str, dict[str, float]]


# variant ("scratch, plain") -> name of the subset -> outcome
Outcomes = dict[str, dict[str, Outcome]]


def subsets(labels: Tensor, shots: int, count: int, seed: int) -> list[Subset]:
    """Return `first`, the first training images, then ``count`` class-balanced subsets of ``shots`` per digit."""
    first = Subset("first", 1000 * seed, torch.arange(10 * shots))
    seeds = {f"subset {number}": 1000 * seed + number for number in range(1, count + 1)}
    return [
        first,
        *(Subset(name, its_seed, data.balanced(labels, shots, its_seed)) for name, its_seed in seeds.items()),
    ]


def regimes(q4: Any, plain: tuple[float, float], augmented: tuple[float, float]) -> tuple[Regime, Regime]:
    """Return how to train without augmentation, and with it: images are changed anew in every batch, for longer.
    Q4's options say how many images are shown, and at a time; learning rate and weight decay are tuned for each start.
    """
    return (
        Regime(q4.plain_iterations * q4.plain_batch_size, q4.plain_batch_size, *plain, None),
        Regime(q4.iterations * q4.batch_size, q4.batch_size, *augmented, warp_and_thicken),
    )


def fit(
    model: nn.Module, loss_fn: train.LossFunction, examples: Split, few: Split, test: Split, regime: Regime, seed: int,
    curve: bool = True, watch: Callable[[int], None] | None = None,
) -> list[dict]:  # fmt: skip
    """Train ``model`` in place on ``examples`` (in Q4 they are ``few``) and return its history, with metrics on ``few``
    as "labelled", never warped, and on the first 2,000 of ``test``: the gap is over-fitting. With ``curve`` from before
    training to the end, a record whenever there were 1.4 times as many iterations, else of the end alone. Examples
    that are too few for a batch are repeated. ``watch`` is ``train.fit``'s. RunError if a frozen encoder has changed.
    """
    before, settings = digest(model.encoder), regime._asdict()
    repeats = max(1, regime.batch_size // len(examples))
    epochs = max(1, round(settings.pop("images") / len(examples) / repeats))
    repeated = examples[torch.arange(len(examples)).repeat(repeats)] if repeats > 1 else examples
    settings["looks"] = {0, *(round(epochs / LOOKS**k) for k in range(2 * epochs.bit_length()))} if curve else ()
    held_out = {"labelled": few, "test": test[:CURVE_IMAGES]}
    history = train.fit(model, loss_fn, repeated, held_out, epochs=epochs, seed=seed, watch=watch, **settings)
    if not any(weight.requires_grad for weight in model.encoder.parameters()) and digest(model.encoder) != before:
        raise run.RunError("the frozen encoder changed in training; no result was written")
    return history


def measured(
    folder: Path, variant: str, subset: Subset, model: nn.Module, history: list[dict], loss_fn: train.LossFunction,
    dataset: Dataset, config: run.Options, averaged: bool = False,
) -> Outcome:  # fmt: skip
    """Save, reload and measure a model on "labelled", "validation" and "test" images, ``averaged`` over warps too."""
    saved = checkpoint.reloaded(_path(folder, variant, subset), model, config, history[-1])
    splits = {"labelled": dataset.train[subset.indices]} | dataset.held_out
    metrics = {name: train.evaluate(saved, loss_fn, split) for name, split in splits.items()}
    if averaged:
        answers = train.evaluate(Averaged(saved, COPIES), loss_fn, dataset.test)
        metrics["test"]["averaged_accuracy"] = answers["accuracy"]
    return Outcome(history, metrics | (overfitting_measures(history) if len(history) > 1 else {}))


def _path(folder: Path, variant: str, subset: Subset) -> Path:
    return folder / (re.sub(r"[^a-z0-9]+", "_", f"{variant} {subset.name}") + ".safetensors")


def answers(folder: Path, variant: str, split: Split, subsets: list[Subset]) -> dict[str, Tensor]:
    """Return, by subset's name, labels (N,) of ``split`` as a saved classifier gives them, the given ones kept."""
    labels = {}
    for subset in subsets:
        model = checkpoint.load(_path(folder, variant, subset)).model.to(split.inputs.device)
        labels[subset.name] = train.apply(model, split.inputs).argmax(1)
        labels[subset.name][subset.indices] = split.targets[subset.indices]
    return labels


def overfitting_measures(history: list[dict]) -> dict[str, dict[str, float]]:
    """Return, by split, at which recorded iteration the accuracy on the labelled images first had its last value, at
    which the loss on the first 2,000 test images was lowest, and how often as high as that it was at the end.
    """
    loss = "cross_entropy" if "cross_entropy" in history[-1]["test"] else "bce"
    lowest = min(history, key=lambda record: record["test"][loss])
    of_test = {"lowest_loss_iteration": lowest["step"]}
    of_test["last_loss_over_lowest"] = history[-1]["test"][loss] / lowest["test"][loss]
    measures = {f"first {CURVE_IMAGES:,} test": of_test}
    if loss == "cross_entropy":
        last = history[-1]["labelled"]["accuracy"]
        fitted = next(record["step"] for record in history if record["labelled"]["accuracy"] == last)
        measures["labelled curve"] = {"last_accuracy_from_iteration": fitted}
    return measures


def side_by_side(
    function: Callable[[str, Subset], Outcome], jobs: list[tuple[str, Subset]], device: torch.device
) -> Outcomes:
    """Return ``function`` of every job, a variant and a subset. An iteration is too small to share among threads, so on
    a CPU as many jobs run side by side as PyTorch has threads, each on one; results do not depend on how many.
    """
    threads, on_cpu = torch.get_num_threads(), device.type == "cpu"
    workers, threads_each = (min(threads, MOST_THREADS), 1) if on_cpu else (1, threads)
    pool = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(threads_each,))
    outcomes: Outcomes = {}
    try:
        answers = tqdm(pool.map(lambda job: function(*job), jobs), total=len(jobs), leave=False, disable=None)
        for (variant, subset), outcome in zip(jobs, answers, strict=True):
            outcomes.setdefault(variant, {})[subset.name] = outcome
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        torch.set_num_threads(threads)  # some builds of PyTorch keep one number for all threads
    return outcomes


def values(by_subset: dict[str, Outcome], measure: str = "accuracy", split: str = "test") -> list[float]:
    """Return a measure of the class-balanced subsets, in order; `first` is not one of them."""
    return [outcome.metrics[split][measure] for name, outcome in by_subset.items() if name != "first"]


def gap(by_subset: dict[str, Outcome]) -> float:
    """Return by how many points the balanced subsets' models read labelled images better than test images."""
    labelled, test = (fmean(values(by_subset, split=split)) for split in ("labelled", "test"))
    return 100 * (labelled - test)


def worth(shots: Sequence[int], curve: dict[str, list[list[float]]]) -> tuple[int, float, float, str]:
    """Say with how many labels per digit "scratch" gets as far as the best other start of ``curve`` with the middle one
    of ``shots``, by the means, on straight lines over the logarithm of the shots: these shots, the accuracy, the labels
    from scratch (0 for fewer than there are, infinity for more), and a sentence.
    """
    means, few = {start: numpy.mean(by_shots, axis=1) for start, by_shots in curve.items()}, len(shots) // 2
    scratch = numpy.maximum.accumulate(means.pop("scratch"))
    start = max(means, key=lambda name: means[name][few])
    accuracy = float(means[start][few])
    equal = float(numpy.exp(numpy.interp(accuracy, scratch, numpy.log(shots), -numpy.inf, numpy.inf)))
    words = {0.0: f"fewer than {shots[0]}", float("inf"): f"more than {shots[-1]}"}.get(equal, f"{equal:.0f}")
    sentence = f"{shots[few]} labels per digit with Q1's encoder, {start}, are worth {words} from scratch"
    return shots[few], accuracy, equal, sentence


def overfitting(variant: str, by_subset: dict[str, Outcome], measure: str = "accuracy") -> str:
    """Say how well the balanced subsets' models do on test images, how much better on the labelled ones, and when."""
    test, labelled = (fmean(values(by_subset, measure, split)) for split in ("test", "labelled"))
    curves = [outcome.metrics for name, outcome in by_subset.items() if name != "first"]
    lowest, rise = (
        median(curve[f"first {CURVE_IMAGES:,} test"][name] for curve in curves)
        for name in ("lowest_loss_iteration", "last_loss_over_lowest")
    )
    when = f"test loss lowest at iteration {lowest:.0f}, at the end {rise:.2f} times that"
    if measure != "accuracy":
        return f"{variant}: test {measure.upper()} {test:.4f}, {test / labelled:.1f} times that of its images; {when}"
    fitted = median(curve["labelled curve"]["last_accuracy_from_iteration"] for curve in curves)
    from_when = f"{labelled:.1%} on the labelled images from iteration {fitted:.0f} on"
    return f"{variant}: test accuracy {test:.2%}, {from_when}: over-fitting by {gap(by_subset):.1f} points; {when}"


def numbers(outcomes: Outcomes, headline: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    """Return all metrics as entries of ``run.numbers``; ``headline`` names variants whose test accuracy is one."""
    entries = []
    for variant, by_subset in outcomes.items():
        for split, metrics in next(iter(by_subset.values())).metrics.items():
            shown = ("accuracy", "averaged_accuracy") if variant in headline and split == "test" else ()
            entries += run.numbers(variant, {name: values(by_subset, name, split) for name in metrics}, split, shown)
            if "first" in by_subset:
                entries += run.numbers(f"{variant}, first images", by_subset["first"].metrics[split], split)
    return entries


def compared(outcomes: Outcomes, after: str, before: str, measure: str = "accuracy") -> dict[str, Any]:
    """Return the mean difference of two variants' test results on the balanced subsets that both have, as an entry of
    summary.json. It has no interval: the subsets share one pretrained encoder (``report.interval`` is over seeds).
    """
    common = [name for name in outcomes[after] if name in outcomes[before] and name != "first"]
    sides = [[outcomes[variant][name].metrics["test"][measure] for name in common] for variant in (after, before)]
    mean = fmean(numpy.subtract(*sides))
    return {"after": after, "before": before, "measure": measure, "mean": mean, "n": len(common)}


def in_words(difference: dict[str, Any]) -> str:
    """Word an entry of ``compared``."""
    what = "" if difference["measure"] == "accuracy" else ", both averaged over warps"
    mean, count = f"{100 * difference['mean']:+.2f} points", difference["n"]
    return f"{difference['after']} minus {difference['before']}{what}: {mean} (subsets: {count})"


def records(outcomes: Outcomes) -> list[dict]:
    """Return the lines of metrics.jsonl, one per fit, from which ``read`` makes the outcomes again."""
    fits = ((variant, subset, outcome) for variant, of in outcomes.items() for subset, outcome in of.items())
    return [{"variant": variant, "subset": subset} | outcome._asdict() for variant, subset, outcome in fits]


def read(folder: Path, **expected: Any) -> tuple[Outcomes, SimpleNamespace]:
    """Return the outcomes of Q4's finished run, and its options; InputError if one is not as expected (seed=0)."""
    options = SimpleNamespace(**results.read_config(folder)["options"])
    for name, value in expected.items():
        if (other := getattr(options, name)) != value:
            raise run.InputError(f"{name}: expected {value}, {folder} has {other}: run q4_few_shot.py again with it")
    outcomes: Outcomes = {}
    for line in (folder / "metrics.jsonl").read_text("utf-8").splitlines():
        fit = json.loads(line)
        outcomes.setdefault(fit["variant"], {})[fit["subset"]] = Outcome(fit["history"], fit["metrics"])
    return outcomes, options
