"""What each ingredient is worth: trains every recipe and its changes, and writes <output-dir>/ablation.md.

    python tests/ablation.py    # about an hour on 2 CPU cores; the same command goes on where it was stopped

A row is a script's own ``main`` with other options or constants, ended once it has trained and measured on validation
images. Seeds are none of those that are reported, no number is of a test image. A run is a line of ablation.jsonl,
and is made again by other code.
"""

import contextlib
import dataclasses
import importlib
import itertools
import json
import math
import multiprocessing
import os
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import q2_classifier
from common import augment, few_shot, results, run, train
from common.augment import Averaged
from common.cards import WORDS
from common.models import Decoder, Encoder

SEEDS = (101, 102, 103)
Q2_SEEDS = (101, 102, 103, 104, 105)  # differences there are of a few images


class Row(NamedTuple):
    """A line of a table: the script's options, constants by dotted name, and in Q4 and Q5 which variant is trained."""

    name: str
    script: str
    options: dict[str, Any] = {}  # noqa: RUF012
    constants: dict[str, Any] = {}  # noqa: RUF012
    variant: str | None = None
    seeds: tuple[int, ...] = SEEDS


NARROW = {
    f"q1_autoencoder.{part.__name__}": partial(part, hidden=55) for part in (Encoder, Decoder)
}
Q2_SMALL = {"batch_size": 128, "learning_rate": 0.01, "epochs": 12}
Q4_BEFORE = {"iterations": 1_000, "batch_size": 50}
AS_WRITTEN = {"common.few_shot.warp_and_thicken": augment.STRONG_WARP}
AUGMENTED, SPREAD = "scratch, augmented", "spread labels, augmented"
ROWS = {
    "Q1, the autoencoder. Targets, on test images: MSE 0.0080, L1 0.0270; with 16 latents MSE 0.0070": [
        Row("as it is: batch 128, 8 epochs, Muon for linear layers", "q1_autoencoder"),
        Row("batch 256, 9 epochs", "q1_autoencoder", {"batch_size": 256, "epochs": 9}),
        Row("AdamW alone", "q1_autoencoder", {"matrix_learning_rate": 0.0}),
        Row("no ReLU between the linear layers", "q1_autoencoder", {"hidden_relu": False}),
        Row("16 latents, hidden layer 55: 162,000 weights", "q1_autoencoder", {"latent_dim": 16}, NARROW),
    ],
    "Q2, the classifier. Targets, on test images: 99.50 %, averaged over warped copies 99.60 %": [
        Row("as it is: batch 256, 10 epochs, label smoothing 0.1", "q2_classifier", seeds=Q2_SEEDS),
        Row("no label smoothing", "q2_classifier", {"label_smoothing": 0.0}, seeds=Q2_SEEDS),
        Row("batch 128, peak rate 0.01, 12 epochs", "q2_classifier", Q2_SMALL),
        Row("the same, no label smoothing", "q2_classifier", Q2_SMALL | {"label_smoothing": 0.0}),
        Row("as it is, 3 epochs", "q2_classifier", {"epochs": 3}),
    ],
    "Q4, 100 labels, augmented, from scratch. Target, on test images: 97.0 %": [
        Row("as it is: 1,500 iterations of 100 images, strokes of other thickness", "q4_few_shot", variant=AUGMENTED),
        Row("strokes as they are", "q4_few_shot", {}, AS_WRITTEN, AUGMENTED),
        Row("1,000 iterations of 50 images", "q4_few_shot", Q4_BEFORE, {}, AUGMENTED),
        Row("1,000 iterations of 50 images, strokes as they are", "q4_few_shot", Q4_BEFORE, AS_WRITTEN, AUGMENTED),
    ],
    "Q5, 100 labels, spread. Target, on test images: averaged over warped copies 98.8 %": [
        Row("as it is: 4 epochs", "q5_transfer", variant=SPREAD, seeds=(101, 102)),
        Row("2 epochs", "q5_transfer", {"spread_epochs": 2}, {}, SPREAD, (101, 102)),
        Row("2 epochs, strokes as they are", "q5_transfer", {"spread_epochs": 2}, AS_WRITTEN, SPREAD, (101, 102)),
    ],
}  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    output_dir: Path = run.REPOSITORY / "outputs"
    """Folder of ablation.md, ablation.jsonl and ablation/, what Q5 builds on."""
    data_dir: Path = run.DATA_DIR
    """Folder of the raw data files."""
    workers: int = os.cpu_count() or 1
    """Runs at a time, each with one thread."""


class Measured(Exception):  # noqa: N818
    """Leaves a script's main with what was measured."""


FIT = train.fit
INTRODUCTION = """# What was tried, and what was chosen by it

Written by `python tests/ablation.py` from runs, each with one thread. Mean ± standard deviation over n fits, on the
5,000 validation images, with seeds that are not reported (101 to 105); no number is of a test image. Seconds are
those of one core in training. Targets are of test images, on which README's tables say how far they were reached."""
UPSTREAM = (("q1_autoencoder", "q1_autoencoder", {}), ("q1_undo", "q1_autoencoder", {"undo": True}),
            ("q4_few_shot", "q4_few_shot", {}))  # fmt: skip


def fit_and_stop(
    model: Any, loss_fn: Any, split: Any, held_out: dict[str, Any], **settings: Any
) -> None:
    """Stand in for ``train.fit``: train, measure on the validation images, and leave main."""
    started = time.process_time()
    FIT(model, loss_fn, split, {}, **settings | {"looks": ()})
    seconds = time.process_time() - started
    raise Measured(
        [
            validated(model, loss_fn, held_out["validation"], q2_classifier.COPIES)
            | {"seconds": seconds}
        ]
    )


def validated(model: Any, loss_fn: Any, validation: Any, copies: int) -> dict[str, float]:
    """Return a model's metrics on the validation images, a classifier's averaged over warps too."""
    metrics = train.evaluate(model, loss_fn, validation)
    if "accuracy" in metrics:
        metrics["averaged_accuracy"] = train.evaluate(Averaged(model, copies), loss_fn, validation)[
            "accuracy"
        ]
    return metrics


def fits_and_stop(
    variant: str, function: Any, jobs: list[tuple[str, Any]], device: torch.device
) -> None:
    """Stand in for ``few_shot.side_by_side``: do the jobs of one variant on balanced subsets, and leave main."""
    values = []
    for job in [job for job in jobs if job[0] == variant and job[1].name != "first"]:
        started = time.process_time()
        values.append(function(*job))
        values[-1]["seconds"] = time.process_time() - started - values[-1].pop("measuring")
    raise Measured(values)


def few_shot_validated(
    folder: Path,
    variant: str,
    subset: Any,
    model: Any,
    history: Any,
    loss_fn: Any,
    dataset: Any,
    *_: Any,
) -> dict[str, float]:
    """Stand in for ``few_shot.measured``."""
    started = time.process_time()
    metrics = validated(model, loss_fn, dataset.validation, few_shot.COPIES)
    return metrics | {"measuring": time.process_time() - started}


def measure(row: Row, seed: int, config: Config) -> list[dict[str, float]]:
    """Return what a row's script measures with a seed, a dictionary for each fit."""
    module, folder = (
        importlib.import_module(row.script),
        config.output_dir / "ablation" / f"seed{seed}",
    )
    shared = {"seed": seed, "output_dir": folder, "data_dir": config.data_dir, "device": "cpu"}
    patches = {"common.train.fit": fit_and_stop}
    if row.variant:
        patches = {"common.few_shot.side_by_side": partial(fits_and_stop, row.variant)}
        patches |= {
            "common.few_shot.measured": few_shot_validated,
            "common.few_shot.LOOKS": math.inf,
        }  # no curves
    with contextlib.ExitStack() as stack:
        for name, value in (patches | row.constants).items():
            stack.enter_context(mock.patch(name, value))
        try:
            module.main(module.Config(**shared, **row.options))
        except Measured as measured:
            return measured.args[0]
        finally:
            results.remove_unfinished(folder)
    raise AssertionError(f"{row.name}: main ended without training")


def prepare(seed: int, config: Config) -> None:
    """Leave what Q5 builds on, with no figures."""
    folder = config.output_dir / "ablation" / f"seed{seed}"
    for name, script, options in UPSTREAM:
        module = importlib.import_module(script)
        if (results.read_config(folder / name) or {}).get(
            "numbers_sha256"
        ) != results.numbers_sha256():
            with (
                mock.patch.object(module, "figures", lambda *_: {}),
                contextlib.redirect_stdout(None),
            ):
                module.main(
                    module.Config(seed=seed, output_dir=folder, data_dir=config.data_dir, **options)
                )


def table(rows: list[Row], runs: dict[tuple[str, int], list[dict[str, float]]]) -> list[str]:
    """Return the lines of a table in Markdown: mean ± standard deviation over all fits of a row, and their number."""
    lines: list[str] = []
    for row in rows:
        fits = [fit for seed in row.seeds for fit in runs.get((row.name, seed), [])]
        if not fits:
            continue
        names = list(fits[0])
        if not lines:
            lines = [
                "| | " + " | ".join([*(WORDS.get(name, name) for name in names), "n"]) + " |",
                "|---" * (len(names) + 2) + "|",
            ]
        cells = [spread([fit[name] for fit in fits], name) for name in names]
        lines.append("| " + " | ".join([row.name, *cells, str(len(fits))]) + " |")
    return lines


def spread(values: list[float], name: str) -> str:
    scale, digits, unit = (
        (100, 2, " %") if "accuracy" in name else (1, 1, "") if name == "seconds" else (1, 5, "")
    )
    deviation = f" ± {scale * statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{scale * statistics.fmean(values):.{digits}f}{deviation}{unit}"


def main(config: Config) -> None:
    """Do the runs that are missing, side by side, then write the page."""
    log = config.output_dir / "ablation.jsonl"
    config.output_dir.mkdir(parents=True, exist_ok=True)
    runs, code = {}, results.numbers_sha256()
    for line in log.read_text("utf-8").splitlines() if log.exists() else []:
        done = json.loads(line)
        if done["code"] == code:
            runs[done["row"], done["seed"]] = done["fits"]
    missing = [(row, seed) for rows in ROWS.values() for row in rows for seed in row.seeds]
    missing = [(row, seed) for row, seed in missing if (row.name, seed) not in runs]
    context = multiprocessing.get_context("spawn")  # a run's patches and its threads are its own
    alone = {"initializer": torch.set_num_threads, "initargs": (1,), "max_tasks_per_child": 1}
    with ProcessPoolExecutor(config.workers, context, **alone) as pool:
        seeds = {seed for row, seed in missing if row.script == "q5_transfer"}
        list(pool.map(prepare, seeds, [config] * len(seeds)))
        futures = {pool.submit(measure, row, seed, config): (row, seed) for row, seed in missing}
        for future in tqdm(as_completed(futures), total=len(futures), disable=None):
            row, seed = futures[future]
            runs[row.name, seed] = future.result()
            with log.open("a", encoding="utf-8") as lines:
                record = {"row": row.name, "seed": seed, "code": code, "fits": runs[row.name, seed]}
                lines.write(json.dumps(record) + "\n")
    page = config.output_dir / "ablation.md"
    sections = [[f"## {heading}", "", *table(rows, runs), ""] for heading, rows in ROWS.items()]
    page.write_text("\n".join([INTRODUCTION, "", *itertools.chain(*sections)]), encoding="utf-8")
    print(page)


if __name__ == "__main__":
    run.command_line(main, Config)
