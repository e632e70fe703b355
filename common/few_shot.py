"""What Q4 and Q5 share: the draws of labelled examples, one recipe for training on them, and paired comparisons.

The recipe is the same wherever the encoder starts from, so that only the start differs. It was chosen on the 5,000
validation images, with the draws of seed 101, which are not the reported ones.
"""

import dataclasses
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from statistics import fmean, stdev
from typing import Literal, TypeVar

import numpy
import torch
from scipy import stats
from torch import nn
from tqdm import tqdm

from common import checkpoint, data, plots, run, train
from common.augment import STRONG_WARP, Averaged
from common.data import Dataset, Split
from common.losses import classification_loss
from common.models import Classifier, Encoder, Head, digest

Regime = Literal["plain", "augmented"]
REGIMES: tuple[Regime, ...] = ("plain", "augmented")
EVALUATIONS = 8  # of each run: reading 10,000 test images takes as long as about 30 iterations
IMPROVEMENT = 0.001  # of accuracy: less does not count as improving
AVERAGED_COPIES = 4  # warped, of each test image
MOST_THREADS = 4  # of Python, which share one interpreter

Job, Answer = TypeVar("Job"), TypeVar("Answer")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(run.Options):
    """The options that Q4 and Q5 share."""

    draws: int = 5
    """Class-balanced draws of the labelled examples, 2 to 999, beside `first`, the first training images."""
    shots: int = 10
    """Labelled examples per digit."""
    plain_iterations: int = 300
    """Training iterations of the plain regime, about: each example is seen equally often."""
    iterations: int = 1_000
    """Training iterations with augmentation, about."""
    batch_size: int = 50
    """Images per training iteration."""
    learning_rate: float = 5e-3
    """Peak of the one-cycle schedule for a layer of fan-in 128; lower it if the loss is not finite."""
    plain_weight_decay: float = 1.0
    """AdamW's decoupled weight decay in the plain regime."""
    weight_decay: float = 0.1
    """AdamW's decoupled weight decay with augmentation, and of an autoencoder."""
    label_smoothing: float = 0.1
    """Weight that the loss, not the metric, takes from the label and gives to all classes alike."""

    def __post_init__(self) -> None:
        super().__post_init__()
        run.require(self, "draws", least=2, most=999)
        run.require(self, "shots", "plain_iterations", "iterations", "batch_size", least=1, most=10**9)
        run.require(self, "plain_weight_decay", "weight_decay", least=0)
        run.require(self, "label_smoothing", least=0, most=1)
        run.require(self, "learning_rate", least=1e-9)


@dataclasses.dataclass(frozen=True)
class Draw:
    """A labelled set: indices (N,) into the training images. Initial weights and batches follow ``seed`` too."""

    name: str
    seed: int
    indices: torch.Tensor


def draws(labels: torch.Tensor, options: Options) -> list[Draw]:
    """Return `first`, then ``options.draws`` class-balanced draws, with as many examples each."""
    drawn = [Draw("first", 1000 * options.seed, data.first(10 * options.shots))]
    for number in range(1, options.draws + 1):
        seed = 1000 * options.seed + number
        drawn.append(Draw(f"draw {number}", seed, data.balanced(labels, options.shots, seed)))
    return drawn


def repeated(examples: Split, options: Options, regime: Regime) -> tuple[Split, int]:
    """Return the examples as often as an epoch of ``train.fit`` is to visit them, and the number of epochs.

    One visit a time would make an epoch, and its evaluation, of two iterations.
    """
    images = options.batch_size * (options.iterations if regime == "augmented" else options.plain_iterations)
    times = max(1, round(images / EVALUATIONS / len(examples)))
    return examples[torch.arange(len(examples)).repeat(times)], max(1, round(images / len(examples) / times))


def classifier(encoder: Encoder, draw: Draw, device: torch.device) -> Classifier:
    """Compose an encoder and a new head."""
    head = Head(encoder.arguments["latent_dim"], generator=run.generator(draw.seed, "head"))
    return Classifier(encoder, head).to(device, memory_format=torch.channels_last)


def fit_classifier(
    model: Classifier,
    draw: Draw,
    regime: Regime,
    dataset: Dataset,
    options: Options,
    *,
    evaluated: bool = True,
    snapshot: Path | None = None,
) -> list[dict]:
    """Train a classifier in place on a draw and return its history: if ``evaluated``, with metrics on the draw's
    ``examples`` and on ``test``.

    Of a frozen encoder (nothing in it requires a gradient) the latents are computed once, in the augmented regime those
    of as many warped copies as an epoch visits, and the head is trained on them. Raises RunError if the frozen encoder
    has changed nevertheless.
    """
    few = dataset.train[draw.indices]
    examples, epochs = repeated(few, options, regime)
    splits = {"examples": few, "test": dataset.test} if evaluated else {}
    trained, transform = model, STRONG_WARP if regime == "augmented" else None
    before = digest(model.encoder)
    if is_frozen(model.encoder):
        if transform:
            warps = run.generator(draw.seed, "warps", few.images.device)
            examples, transform = Split(transform(examples.images, warps), examples.labels), None
        examples = latents(model.encoder, examples)
        splits = {name: latents(model.encoder, split) for name, split in splits.items()}
        trained = model.head
    history = train.fit(
        trained,
        partial(classification_loss, smoothing=options.label_smoothing),
        examples,
        splits,
        epochs=epochs,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        weight_decay=options.weight_decay if regime == "augmented" else options.plain_weight_decay,
        seed=draw.seed,
        transform=transform,
        snapshot=snapshot,
    )
    if is_frozen(model.encoder) and digest(model.encoder) != before:
        raise run.RunError("the frozen encoder changed in training; no result was written")
    return history


def is_frozen(encoder: Encoder) -> bool:
    """Return whether nothing in an encoder is to be trained."""
    return not any(parameter.requires_grad for parameter in encoder.parameters())


def latents(encoder: Encoder, split: Split) -> Split:
    """Return the split with its latents (N, D) in the place of its images."""
    return Split(train.apply(encoder, split.images), split.labels)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What training on a draw came to: the history, and the metrics of the saved model, split -> metric -> value."""

    history: list[dict]
    metrics: dict[str, dict[str, float]]


# variant ("scratch/plain") -> name of the draw -> outcome
Outcomes = dict[str, dict[str, Outcome]]


def outcome(
    path: Path,
    model: nn.Module,
    history: list[dict],
    loss_fn: train.LossFunction,
    draw: Draw,
    dataset: Dataset,
    options: Options,
    *,
    averaged: bool = False,
) -> Outcome:
    """Save the model to ``path``, load it again and measure it on the draw's "examples", "validation" and "test".

    With ``averaged`` also the accuracy on "test" of a classifier's answers averaged over warped copies of each image.
    """
    checkpoint.save(path, model, options, history[-1])
    saved = checkpoint.load(path).model.to(dataset.test.images.device, memory_format=torch.channels_last)
    splits = {"examples": dataset.train[draw.indices], **dataset.held_out}
    metrics = {name: train.evaluate(saved, loss_fn, split) for name, split in splits.items()}
    if averaged:
        found = train.evaluate(Averaged(saved, AVERAGED_COPIES), loss_fn, dataset.test)
        metrics["test"]["averaged_accuracy"] = found["accuracy"]
    return Outcome(history, metrics)


def classify(
    starts: dict[str, Callable[[Draw], Encoder]],
    drawn: list[Draw],
    dataset: Dataset,
    options: Options,
    folder: Path,
    *,
    evaluated: bool = True,
) -> Outcomes:
    """Train a classifier from every start (name -> the encoder for a draw) in both regimes on every draw.

    The checkpoints go to ``folder``. Only if ``evaluated`` have the histories metrics on "examples" and "test"; the
    weights are the same.
    """

    def train_one(job: tuple[str, Regime, Draw]) -> Outcome:
        start, regime, draw = job
        name = f"{start}_{regime}_{draw.name}".replace(" ", "_")
        model = classifier(starts[start](draw), draw, dataset.test.images.device)
        snapshot = folder / f"{name}_{run.SNAPSHOT}"
        history = fit_classifier(model, draw, regime, dataset, options, evaluated=evaluated, snapshot=snapshot)
        return outcome(
            folder / f"{name}.pt",
            model,
            history,
            classification_loss,
            draw,
            dataset,
            options,
            averaged=evaluated and regime == "augmented" and not is_frozen(model.encoder),
        )

    jobs = [(start, regime, draw) for start in starts for regime in REGIMES for draw in drawn]
    outcomes: Outcomes = {}
    for (start, regime, draw), found in zip(jobs, in_threads(train_one, jobs, dataset, "classifiers"), strict=True):
        outcomes.setdefault(f"{start}/{regime}", {})[draw.name] = found
    return outcomes


def in_threads(function: Callable[[Job], Answer], jobs: list[Job], dataset: Dataset, name: str) -> list[Answer]:
    """Return ``function`` of every job, in order.

    A few-shot iteration is too small to share among threads, so on a CPU as many jobs run side by side as PyTorch has
    threads (at most 4), each on one. The results do not depend on how many.
    """
    threads = torch.get_num_threads()
    on_cpu = dataset.test.images.device.type == "cpu"
    pool = ThreadPoolExecutor(
        min(threads, MOST_THREADS) if on_cpu else 1,
        initializer=torch.set_num_threads,
        initargs=(1 if on_cpu else threads,),
    )
    try:
        return list(tqdm(pool.map(function, jobs), total=len(jobs), desc=name, leave=False, disable=None))
    except BaseException:
        train.STOPPING.set()
        raise
    finally:
        pool.shutdown(cancel_futures=True)
        train.STOPPING.clear()
        torch.set_num_threads(threads)  # some builds of PyTorch keep one number for all threads


def values(by_draw: dict[str, Outcome], metric: str = "accuracy", split: str = "test") -> list[float]:
    """Return a metric of the class-balanced draws that have it, in order; `first` is not one of them."""
    found = [outcome.metrics[split] for draw, outcome in by_draw.items() if draw != "first"]
    return [metrics[metric] for metrics in found if metric in metrics]


def quoted(outcomes: Outcomes) -> dict[str, dict]:
    """Return all metrics in the form of summary.json: over the balanced draws by variant, and those of `first`."""
    entries = {}
    for variant, by_draw in outcomes.items():
        for split, metrics in by_draw["first"].metrics.items():
            entries |= run.quoted({name: values(by_draw, name, split) for name in metrics}, split, variant)
            entries |= run.quoted(metrics, split, f"first/{variant}")
    return entries


def paired(after: list[float], before: list[float]) -> dict[str, float]:
    """Return the mean of the differences ``after`` minus ``before`` over the same draws, and its 95 % interval
    (Student's t), as mean, low, high and n.
    """
    interval = stats.ttest_rel(after, before).confidence_interval(0.95)
    difference = float(numpy.mean(numpy.subtract(after, before)))
    return {"mean": difference, "low": float(interval.low), "high": float(interval.high), "n": len(after)}


def settled(history: list[dict], split: str) -> int:
    """Return the iteration of the first evaluation after which accuracy never rises by more than 0.1 points."""
    accuracies = [record[split]["accuracy"] for record in history]
    return next(r["step"] for i, r in enumerate(history) if max(accuracies[i:]) <= accuracies[i] + IMPROVEMENT)


def metrics_by_draw(outcomes: Outcomes) -> dict[str, dict[str, dict]]:
    """Return the metrics of every run, variant -> draw -> split -> metric -> value, for summary.json."""
    return {variant: {draw: found.metrics for draw, found in by_draw.items()} for variant, by_draw in outcomes.items()}


def table(outcomes: Outcomes) -> str:
    """Return accuracy and over-fitting of every classifier as a Markdown table, over the balanced draws."""
    lines = [
        [
            "variant",
            "test accuracy",
            "averaged over warps",
            "`first`",
            "own examples",
            "over-fitting",
            "own settles at",
            "test settles at",
        ]
    ]
    lines.append(["---"] * len(lines[0]))
    for variant, by_draw in outcomes.items():
        test, own, averaged = values(by_draw), values(by_draw, split="examples"), values(by_draw, "averaged_accuracy")
        histories = [found.history for draw, found in by_draw.items() if draw != "first"]
        lines.append(
            [
                variant.replace("/", ", "),
                *(f"{fmean(found):.2%} ± {100 * stdev(found):.2f}" if found else "" for found in (test, averaged)),
                f"{by_draw['first'].metrics['test']['accuracy']:.2%}",
                f"{fmean(own):.1%}",
                f"{100 * (fmean(own) - fmean(test)):.1f} points",
                *(f"{fmean(settled(h, split) for h in histories):.0f}" for split in ("examples", "test")),
            ]
        )
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def draw_curves(folder: Path, panels: dict[str, dict[str, Outcome]], title: str) -> None:
    """Write loss.png and accuracy.png of classifiers, train against test: the first balanced draw thick."""
    histories = {
        name: [found.history for draw, found in by_draw.items() if draw != "first"] + [by_draw["first"].history]
        for name, by_draw in panels.items()
    }
    for file, metric, unit in (("loss", "cross_entropy", run.UNITS["cross_entropy"]), ("accuracy",) * 3):
        plots.train_against_test(
            folder / f"{file}.png",
            histories,
            metric,
            f"{title}: {file} over training iterations",
            unit,
            percent=metric == "accuracy",
        )


def draw_comparison(path: Path, rows: dict[str, dict[str, Outcome]], title: str, dataset: Dataset) -> None:
    """Draw the test accuracy of every draw, a row for each name, and that of `first`."""
    plots.dots(
        path,
        {name: values(by_draw) for name, by_draw in rows.items()},
        title,
        f"accuracy on {len(dataset.test):,} test images",
        {name: by_draw["first"].metrics["test"]["accuracy"] for name, by_draw in rows.items()},
        "first training images, as many",
    )


def finished(folder: Path, provenance: dict, sizes: dict) -> Outcomes | None:
    """Return the classifiers that q4_few_shot.py left in ``folder``, None unless it ran to the end with the options,
    the data, the code, the versions and the device of ``provenance``, and encoders of these ``sizes``.
    """
    theirs = run.complete(folder)
    if theirs is None:
        return None
    options = {field.name for field in dataclasses.fields(Options)}
    wanted = {name: value for name, value in provenance["options"].items() if name in options} | sizes
    expected = provenance | {"options": {name: wanted.get(name) for name in theirs["options"]}}
    for name in ("threads", "upstream_sha256"):  # the classifiers depend on neither
        expected[name] = theirs[name]
    expected["source_sha256"] = run.source_sha256("q4_few_shot.py")
    if run.differences(theirs, expected):
        return None
    summary = json.loads((folder / "summary.json").read_text("utf-8"))
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text("utf-8").splitlines()]
    return {
        variant: {
            draw: Outcome([r for r in lines if (r["variant"], r["draw"]) == (variant, draw)], metrics)
            for draw, metrics in summary["draws"][variant].items()
        }
        for variant in (f"scratch/{regime}" for regime in REGIMES)
    }


def records(outcomes: Outcomes) -> list[dict]:
    """Return the lines of metrics.jsonl, each with its variant and draw."""
    return [
        {"variant": variant, "draw": draw, **record}
        for variant, by_draw in outcomes.items()
        for draw, found in by_draw.items()
        for record in found.history
    ]
