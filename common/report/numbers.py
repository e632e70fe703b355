"""All numbers of all seeds in one tidy table, and what is computed from it. Imports no torch.

A row is one number: step, model, subset, split, measure, seed, value. The steps of the first seed
lie in the output folder itself, those of the others in seed1, seed2, ...; a study is the step
"studies/<name>".
"""

import dataclasses
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pandas

from common import results
from common.measures.names import MEASURES
from common.measures.statistics import Interval
from common.run import REPOSITORY, InputError, Options, command, read_table

COLUMNS = ["step", "model", "subset", "split", "measure", "seed", "value"]
KEY = ["step", "model", "subset", "split", "measure"]
ALL = ""  # trained on all labels
REPORT = "report"  # on the exercise's 100 images, as few_shot.REPORT: importing that loads torch
BALANCED = "balanced"  # on class-balanced subsets: "balanced 1", "balanced 2", ...
GAP = "labelled minus test"  # a difference of two splits, written like a split
# Keys of a config.json; one that lacks any is of an older version
CONFIG = {"command", "options", "device", "threads", "versions", "git_commit"}
CONFIG |= {"code_files", "code_sha256", "data_sha256"}
SPLITS = {
    "train": "training images",
    "validation": "validation images",
    "labelled": "its labelled images",
}


@dataclasses.dataclass(frozen=True)
class Number:
    """Which number: a measure of a step's model on a split."""

    step: str
    model: str
    measure: str
    subset: Literal["", "report", "balanced"] = ALL
    split: str = "test"

    def __str__(self) -> str:
        return f"{self.step}: {row_name(self.model, self.subset, self.split)}, {self.measure}"


@dataclasses.dataclass(frozen=True)
class Result:
    """What a step left of one seed."""

    step: str
    folder: Path
    config: dict[str, Any]

    @property
    def seed(self) -> int:
        return self.config["options"]["seed"]

    @property
    def root(self) -> Path:
        """Return the folder of all steps of this seed."""
        return self.folder.parents[self.step.count("/")]

    def difference_from(self, first: "Result") -> str:
        """Return in what it differs from the first seed's, so that they may not be pooled."""
        for name in ("options", "code_sha256", "data_sha256", "versions"):
            ours, theirs = self.config[name], first.config[name]
            if name == "options":
                ours, theirs = ours | {"seed": None}, theirs | {"seed": None}
            if ours != theirs:
                return f"other {name.removesuffix('_sha256')}"
        return ""


@dataclasses.dataclass(frozen=True)
class Published:
    """What an output folder holds."""

    numbers: pandas.DataFrame  # of all seeds, with COLUMNS
    firsts: dict[str, Result]  # by step, of the first seed
    left_out: dict[str, str]  # why folders, named from the output folder, are not in the numbers


def read(output_dir: Path) -> Published:
    """Read numbers.csv of every step of every seed; InputError if there is none.

    The seeds of a step are pooled if options, code, data and versions are the first seed's. Left
    out is what is of other data than most steps, or built on other results than lie beside it.
    """
    written, left_out = {}, []
    for step in find_steps(output_dir):
        for folder in [output_dir / step, *sorted(output_dir.glob(f"seed*/{step}"))]:
            config = results.read_config(folder)
            if config and config.keys() >= CONFIG:
                written[folder] = Result(step, folder, config)
            else:
                left_out.append((folder, "unfinished, or changed since"))
    usual = most_common_data(list(written.values()))

    tables, firsts = [], {}
    taken = set()  # steps and seeds
    for folder, result in written.items():
        reason = other_data(result, usual) or other_needs(result, written)
        if not reason:
            reason = result.difference_from(firsts.setdefault(result.step, result))
        if (result.step, result.seed) in taken:
            reason = f"seed {result.seed} again"
        if reason:
            left_out.append((folder, reason))
            continue
        taken.add((result.step, result.seed))
        table = read_table(folder / "numbers.csv")
        tables.append(table.assign(step=result.step, seed=result.seed))

    reasons = {}
    for folder, reason in left_out:
        reasons[folder.relative_to(output_dir).as_posix()] = reason
    if not tables:
        found = ", ".join(f"{name} ({reason})" for name, reason in reasons.items())
        found = found or "no results"
        raise InputError(
            f"{output_dir}: got {found}, expected results: make them with `python reproduce.py`"
        )
    return Published(pandas.concat(tables, ignore_index=True)[COLUMNS], firsts, reasons)


def find_steps(output_dir: Path) -> list[str]:
    """Return the steps that the first seed has results of: questions, then studies.

    A folder that is called like no script, say a copy, is none.
    """
    steps = []
    for pattern in ("q[1-9]_*/numbers.csv", "studies/*/numbers.csv"):
        for path in sorted(output_dir.glob(pattern)):
            step = path.parent.relative_to(output_dir).as_posix()
            if (REPOSITORY / f"{step}.py").exists():
                steps.append(step)
    return steps


def most_common_data(found: list[Result]) -> Result | None:
    """Return one of the results of the data that most have; of the first if equally many."""
    if not found:
        return None
    data_sha256 = statistics.mode(result.config["data_sha256"] for result in found)
    return next(result for result in found if result.config["data_sha256"] == data_sha256)


def other_data(result: Result, usual: Result) -> str:
    """Say how to mend results of other data than the usual; empty if they are of these."""
    if result.config["data_sha256"] == usual.config["data_sha256"]:
        return ""
    options = Options(dataset=usual.config["options"]["dataset"], seed=result.seed)
    return f"other data: run `{command(REPOSITORY / f'{result.step}.py', options)}`"


def other_needs(result: Result, written: dict[Path, Result]) -> str:
    """Say how to mend results that were built on others than lie beside them; empty if they were
    not.
    """
    for step, result_sha256 in result.config.get("built_on", {}).items():
        beside = written.get(result.root / step)
        if beside is None:
            continue
        is_other = results.result_sha256(beside.config) != result_sha256
        if is_other or other_needs(beside, written):
            return f"built on another {step} than there is now: run `{result.config['command']}`"
    return ""


def kind(subset: str) -> str:
    """Return ALL, REPORT or BALANCED: what may be averaged."""
    return subset if subset in (ALL, REPORT) else BALANCED


def pool(numbers: pandas.DataFrame) -> pandas.DataFrame:
    """Return "mean", "std" and "count" of each number, by KEY, over seeds and balanced subsets.

    The report's subset, 100 images that are the same for every seed, stays apart from these.
    """
    kinds = numbers.assign(subset=numbers.subset.map(kind))
    return kinds.groupby(KEY, sort=False).value.agg(["mean", "std", "count"])


def per_seed(numbers: pandas.DataFrame, number: Number) -> pandas.Series:
    """Return a number by seed: the mean of a seed's balanced subsets, which share an encoder."""
    if number.split == GAP:
        labelled = per_seed(numbers, dataclasses.replace(number, split="labelled"))
        test = per_seed(numbers, dataclasses.replace(number, split="test"))
        return (labelled - test).dropna()
    chosen = numbers[
        (numbers.step == number.step)
        & (numbers.model == number.model)
        & (numbers.measure == number.measure)
        & (numbers.split == number.split)
        & (numbers.subset.map(kind) == number.subset)
    ]
    return chosen.groupby("seed").value.mean()


def differences(numbers: pandas.DataFrame, after: Number, before: Number | float) -> pandas.Series:
    """Return after minus before, for each seed that has both."""
    if isinstance(before, Number):
        before = per_seed(numbers, before)
    return (per_seed(numbers, after) - before).dropna()


def interval_text(form: Callable[[float], str], value: Interval) -> str:
    """Return a mean as text and, if there are several seeds, its interval."""
    mean = form(value.mean)
    if value.n < 2:
        return mean
    low = form(value.low).removesuffix(" points")
    high = form(value.high).removesuffix(" points")
    return f"{mean} ({low} to {high})"


def row_name(model: str, subset: str, split: str) -> str:
    """Return what a row of a table is called."""
    words = [model]
    if subset == REPORT:
        words.append("the course report's subset")
    if split != "test":
        words.append(SPLITS.get(split, split))
    return ", ".join(words)


def table(numbers: pandas.DataFrame, step: str) -> pandas.DataFrame:
    """Return all numbers of a step as text, mean ± standard deviation: a row for each model.

    If there are more measures than rows, the table is turned.
    """
    pooled = pool(numbers[numbers.step == step]).reset_index()
    # On test images first, and of these on balanced subsets.
    pooled["rank"] = 2 * (pooled.split != "test") + (pooled.subset == REPORT)
    pooled = pooled.sort_values("rank", kind="stable")
    rows: dict[str, dict[str, str]] = {}
    for _, number in pooled.iterrows():
        form = MEASURES[number["measure"]]
        name = row_name(number["model"], number["subset"], number["split"])
        text = form.format_mean(number["mean"], number["std"])
        rows.setdefault(name, {})[form.words] = text
    cells = pandas.DataFrame.from_dict(rows, orient="index").fillna("")
    return cells.T if len(cells.columns) > len(cells) else cells
