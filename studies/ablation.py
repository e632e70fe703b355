"""What is each ingredient of the recipes worth, and how were rates and decay chosen?

Trains a recipe and its changes on seeds that are not reported, and measures them on the 5,000
validation images; no number is of a test image. One table at a time:

    start         ways out of the all-black start of an L1 loss
    autoencoder   Q1's recipe
    classifier    Q2's recipe: learning rate x weight decay, label smoothing, epochs
    scratch       Q4's classifier: learning rate x weight decay, label smoothing
    few-images    Q4's autoencoder: learning rate x weight decay
    fine-tuned    Q5's classifier from Q1's encoder: learning rate x weight decay
    frozen        Q5's head on Q1's frozen encoder: learning rate x weight decay

The column "difference" is a row's mean minus the recipe's, over the seeds, with a 95 % interval; a
difference is called real if the interval does not hold 0.

Run:     python -m studies.ablation --table scratch
Needs:   nothing; fine-tuned and frozen train Q1's encoder for each of their seeds first
Writes:  outputs/studies/ablation/<table>/: numbers.csv, table.md
"""

import dataclasses
import functools
import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Annotated, Any, Literal

import pandas
import torch
import torch.nn.functional as F
import tyro
from torch import Tensor, nn
from tqdm import tqdm

import q1_autoencoder
import q2_classifier
import q4_few_shot
import q5_transfer
from common import data, few_shot, run, train
from common.losses import binary_cross_entropy
from common.measures.names import MEASURES
from common.measures.statistics import interval
from common.models import Encoder, pixels
from studies.augmented_classifier import smoothed_loss

RECIPE = "as it is"
Table = Literal[
    "start", "autoencoder", "classifier", "scratch", "few-images", "fine-tuned", "frozen"
]
DECIDING = {"start": "l1", "autoencoder": "l1", "few-images": "l1"}  # the others': accuracy


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(run.Options):
    table: Table = "scratch"
    """Which table to make."""
    seeds: tuple[int, ...] = (101, 102, 103)
    """Seeds of the fits; none of those that are reported, which are 0 to 9."""
    subsets: int = 3
    """Class-balanced labelled subsets of each seed."""
    workers: int = os.cpu_count() or 1
    """Fits at a time, each with one thread."""
    epochs: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    """Passes over the training images in Q1 and Q2, in the place of the recipes' own."""


@dataclasses.dataclass(frozen=True)
class Row:
    """A line of a table: its name, and what it changes of the recipe."""

    name: str
    changes: dict[str, Any] = dataclasses.field(default_factory=dict)


def grid(rates: tuple[float, ...], decays: tuple[float, ...]) -> list[Row]:
    """Return a row for each learning rate and weight decay."""
    rows = []
    for rate in rates:
        for decay in decays:
            changes = {"learning_rate": rate, "weight_decay": decay}
            rows.append(Row(f"learning rate {rate:g}, weight decay {decay:g}", changes))
    return rows


ROWS: dict[str, list[Row]] = {
    "start": [
        Row(RECIPE),
        Row("cross-entropy in the first 100 steps", {"start": "first 100 steps"}),
        Row("no sigmoid: L1 of the logits themselves", {"start": "no sigmoid"}),
        Row("L1 from the first step", {"start": "none"}),
    ],
    "autoencoder": [
        Row(RECIPE),
        Row("AdamW alone", {"muon_learning_rate": 0.0}),
        Row("Muon's rate 0.01", {"muon_learning_rate": 0.01}),
        Row("Muon's rate 0.04", {"muon_learning_rate": 0.04}),
        Row("learning rate 0.005", {"learning_rate": 0.005}),
        Row("learning rate 0.02", {"learning_rate": 0.02}),
        Row("no weight decay", {"weight_decay": 0.0}),
        Row("batches of 64", {"batch_size": 64}),
        Row("8 epochs", {"epochs": 8}),
        Row("12 epochs", {"epochs": 12}),
    ],
    "classifier": [
        Row(RECIPE),
        *grid((0.005, 0.01, 0.02), (0.01, 0.1, 0.3)),
        Row("label smoothing 0.1", {"label_smoothing": 0.1}),
        Row("5 epochs", {"epochs": 5}),
    ],
    "scratch": [
        Row(RECIPE),
        *grid((0.005, 0.01, 0.02, 0.04, 0.08), (0.1, 0.3, 1.0, 2.0)),
        Row("label smoothing 0.1", {"label_smoothing": 0.1}),
        Row("900 iterations", {"iterations": 900}),
    ],
    "few-images": [
        Row(RECIPE),
        *grid((0.00125, 0.0025, 0.005, 0.01, 0.02), (0.003, 0.03, 0.3, 1.0)),
    ],
    "fine-tuned": [
        Row(RECIPE),
        *grid((0.000625, 0.00125, 0.0025, 0.005, 0.01, 0.02), (0.1, 0.3, 1.0)),
        Row("label smoothing 0.1", {"label_smoothing": 0.1}),
    ],
    "frozen": [
        Row(RECIPE),
        *grid((0.005, 0.01, 0.02, 0.04, 0.08), (0.3, 1.0, 2.0, 5.0)),
        Row("label smoothing 0.1", {"label_smoothing": 0.1}),
    ],
}


@functools.cache
def load(dataset: str, data_dir: Any, quick: bool) -> data.Dataset:
    """Load the data once in each process."""
    torch.set_num_threads(1)
    run.select_device("cpu")
    return data.load(dataset, data_dir, quick=quick)


def l1_loss(
    model: nn.Module, images: Tensor, targets: Tensor, start: str, count: Iterator[int]
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return an L1 loss with another way out of the all-black start, and its metrics."""
    logits = model(images)
    if start == "no sigmoid":
        clamped = logits.clamp(0, 1)
        metrics = {"l1": F.l1_loss(clamped, targets), "mse": F.mse_loss(clamped, targets)}
        return F.l1_loss(logits, targets), metrics
    drawn = pixels(logits)
    metrics = {"l1": F.l1_loss(drawn, targets), "mse": F.mse_loss(drawn, targets)}
    if start == "first 100 steps" and model.training and next(count) < 100:
        return binary_cross_entropy(logits, targets), metrics
    return metrics["l1"], metrics


def train_autoencoder(changes: dict, mnist: data.Dataset, seed: int) -> dict[str, float]:
    """Train Q1 with changes of its options; return its validation metrics."""
    options = dict(changes)
    start = options.pop("start", None)
    config = q1_autoencoder.Config(seed=seed, **options)
    loss = partial(q1_autoencoder.loss, name="l1")
    if start:
        loss = partial(l1_loss, start=start, count=iter(range(10**9)))
    model = q1_autoencoder.build(config).to(memory_format=torch.channels_last)
    train.fit(model, loss, mnist.train.to_reconstruct(), {}, q1_autoencoder.recipe(config), seed)
    return train.evaluate(model, loss, mnist.validation.to_reconstruct())


def train_classifier(changes: dict, mnist: data.Dataset, seed: int) -> dict[str, float]:
    """Train Q2 with changes of its options; return its validation metrics."""
    options = dict(changes)
    loss = partial(smoothed_loss, smoothing=options.pop("label_smoothing", 0.0))
    config = q2_classifier.Config(seed=seed, **options)
    model = q2_classifier.build(config).to(memory_format=torch.channels_last)
    train.fit(model, loss, mnist.train.to_classify(), {}, q2_classifier.recipe(config), seed)
    return train.evaluate(model, loss, mnist.validation.to_classify())


def few_shot_recipe(changes: dict, q4: q4_few_shot.Config, images: int) -> train.Recipe:
    """Return Q4's recipe with changes of its rates and its length, measured at the end alone."""
    q4 = dataclasses.replace(q4, iterations=changes.get("iterations", q4.iterations))
    recipe = q4_few_shot.recipe(q4, changes["learning_rate"], changes["weight_decay"], images)
    return dataclasses.replace(recipe, record_epochs=())


def train_on_subset(
    table: str, changes: dict, mnist: data.Dataset, subset: few_shot.Subset, encoder: Encoder | None
) -> dict[str, float]:
    """Train on a labelled subset with Q4's or Q5's recipe and ``changes``; return validation
    metrics.
    """
    q4 = q4_few_shot.Config()
    q5 = q5_transfer.Config()
    labelled = mnist.train[subset.indices]
    own_rates = {
        "scratch": (q4.learning_rate, q4.weight_decay),
        "few-images": (q4.autoencoder_learning_rate, q4.autoencoder_weight_decay),
        "fine-tuned": (q5.learning_rate, q5.weight_decay),
        "frozen": (q5.frozen_learning_rate, q5.frozen_weight_decay),
    }
    rate, decay = own_rates[table]
    changes = {"learning_rate": rate, "weight_decay": decay} | changes
    recipe = few_shot_recipe(changes, q4, len(labelled))

    if table == "few-images":
        model = q4_few_shot.build_autoencoder(q4.latent_dim, subset.seed)
        loss = partial(q1_autoencoder.loss, name="l1")
        train.fit(model, loss, labelled.to_reconstruct(), {}, recipe, subset.seed)
        return train.evaluate(model, loss, mnist.validation.to_reconstruct())

    loss = partial(smoothed_loss, smoothing=changes.get("label_smoothing", 0.0))
    if table == "scratch":
        model = q4_few_shot.build_classifier(q4.latent_dim, subset.seed)
    else:
        model = q5_transfer.build(encoder, subset.seed)
    if table == "frozen":
        latents = train.apply(model.encoder, labelled.images)
        examples = torch.utils.data.TensorDataset(latents, labelled.labels)
        train.fit(model.head, loss, examples, {}, recipe, subset.seed)
    else:
        train.fit(model, loss, labelled.to_classify(), {}, recipe, subset.seed)
    return train.evaluate(model, loss, mnist.validation.to_classify())


@functools.cache
def pretrain(config: Config, seed: int) -> Encoder:
    """Train Q1 and return its encoder, once in each process."""
    mnist = load(config.dataset, config.data_dir, config.quick)
    changes = {"epochs": config.epochs} if config.epochs else {}
    q1 = q1_autoencoder.Config(seed=seed, **changes)
    model = q1_autoencoder.build(q1).to(memory_format=torch.channels_last)
    loss = partial(q1_autoencoder.loss, name=q1.loss)
    train.fit(model, loss, mnist.train.to_reconstruct(), {}, q1_autoencoder.recipe(q1), seed)
    return model.encoder


def measure(config: Config, seed: int, rows: list[Row]) -> list[dict[str, Any]]:
    """Train rows of the table with one seed; return a record for each fit and measure."""
    mnist = load(config.dataset, config.data_dir, config.quick)
    records = []
    for row in rows:
        changes = dict(row.changes)
        if config.table in ("start", "autoencoder", "classifier"):
            if config.epochs:
                changes["epochs"] = config.epochs
            function = train_classifier if config.table == "classifier" else train_autoencoder
            fits = {"": function(changes, mnist, seed)}
        else:
            needs_encoder = config.table in ("fine-tuned", "frozen")
            encoder = pretrain(config, seed) if needs_encoder else None
            shots = q4_few_shot.Config().shots
            labels = mnist.train.labels
            fits = {}
            for subset in few_shot.labelled_subsets(labels, shots, config.subsets, seed)[1:]:
                fits[subset.name] = train_on_subset(config.table, changes, mnist, subset, encoder)
        for subset_name, metrics in fits.items():
            for measure_name, value in metrics.items():
                records.append(
                    {
                        "row": row.name,
                        "seed": seed,
                        "subset": subset_name,
                        "measure": measure_name,
                        "value": value,
                    }
                )
    return records


def compare(records: pandas.DataFrame, measure_name: str) -> pandas.DataFrame:
    """Return a line for each row: mean ± deviation over its fits, and difference to the recipe."""
    form = MEASURES[measure_name]
    chosen = records[records.measure == measure_name]
    per_seed = chosen.pivot_table(index="seed", columns="row", values="value", sort=False)
    lines = []
    for name, fits in chosen.groupby("row", sort=False).value:
        text = form.format_mean(fits.mean(), fits.std())
        line = {"": name, "n": len(fits), form.words: text}
        line["difference"] = line["evidence"] = ""
        if name != RECIPE and len(per_seed) > 1:
            found = interval(per_seed[name] - per_seed[RECIPE])
            low, high = (form.format_difference(end) for end in (found.low, found.high))
            mean = form.format_difference(found.mean).removesuffix(" points")
            line["difference"] = f"{mean} ({low.removesuffix(' points')} to {high})"
            is_real = found.low > 0 or found.high < 0
            line["evidence"] = "real" if is_real else "not shown"
        lines.append(line)
    return pandas.DataFrame(lines)


def to_markdown(table: pandas.DataFrame) -> str:
    """Return a table of texts in Markdown."""
    lines = ["| " + " | ".join(table.columns) + " |", "|---" * len(table.columns) + "|"]
    for values in table.itertuples(index=False):
        lines.append("| " + " | ".join(str(value) for value in values) + " |")
    return "\n".join(lines) + "\n"


def main(config: Config) -> None:
    results = run.start(f"studies/ablation/{config.table}", config)
    # Fetched once, before the workers read it.
    mnist = data.load(config.dataset, config.data_dir, quick=config.quick)

    # A process for each core, with one thread each. With Q1's encoder: a process for each seed.
    rows = ROWS[config.table]
    jobs = []
    for seed in config.seeds:
        if config.table in ("fine-tuned", "frozen"):
            jobs.append((seed, rows))
        else:
            jobs += [(seed, [row]) for row in rows]
    context = multiprocessing.get_context("spawn")
    records = []
    with ProcessPoolExecutor(config.workers, context) as pool:
        futures = [pool.submit(measure, config, seed, some_rows) for seed, some_rows in jobs]
        for future in tqdm(futures, "fits", leave=False, disable=None):
            records += future.result()

    for record in records:
        subset = f"seed {record['seed']} {record['subset']}".strip()
        results.log({record["measure"]: record["value"]}, record["row"], "validation", subset)
    deciding = DECIDING.get(config.table, "accuracy")
    table = compare(pandas.DataFrame(records), deciding)
    (results.folder / "table.md").write_text(to_markdown(table), encoding="utf-8")
    print(table.to_string(index=False))
    results.finish(mnist.sha256)


if __name__ == "__main__":
    run.command_line(main, Config)
