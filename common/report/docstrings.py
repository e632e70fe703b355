"""Fill the tables in the docstrings of scripts and studies from the published numbers.

    python -m common.report.docstrings    # after common.report.publish

Such a table has a line of measures, by their names in results.csv, and under it a line for each
model, up to an empty line:

                      accuracy         accuracy/report
    frozen, augmented 91.67% ± 2.26    90.37%

"of 3 seeds," becomes as many as were published. A measure is of test images and, where labels are
few, of balanced subsets; "accuracy/report" is of the report's subset, "accuracy/unlabelled" of that
split. A model that is none of the script's own is looked up in the other steps, for as many seeds.
"""

import dataclasses
import re
from pathlib import Path

import pandas

from common import run
from common.measures.names import MEASURES
from common.report import numbers as tables
from common.report.numbers import ALL, BALANCED, REPORT

INDENT = "    "
SEEDS = re.compile(r"of \d+ seeds?,")
MISSING = "-"


@dataclasses.dataclass(frozen=True)
class Column:
    """What a column of a table holds."""

    measure: str
    split: str = "test"
    subsets: tuple[str, ...] = (ALL, BALANCED)


def column_of(word: str) -> Column | None:
    """Return the column that a word of the header names; None for any other word."""
    measure, _, of = word.partition("/")
    if measure not in MEASURES:
        return None
    if of == REPORT:
        return Column(measure, subsets=(REPORT,))
    return Column(measure, split=of or "test")


def words_of(line: str) -> list[str]:
    """Return the words of a line that two spaces or more separate."""
    return re.split(r" {2,}", line.strip())


def cell(pooled: pandas.DataFrame, step: str, model: str, column: Column) -> str:
    """Return mean ± standard deviation of a number as text."""
    chosen = pooled[
        (pooled.model == model)
        & (pooled.measure == column.measure)
        & (pooled.split == column.split)
        & pooled.subset.isin(column.subsets)
    ]
    if step in set(chosen.step):
        chosen = chosen[chosen.step == step]
    if chosen.empty or pandas.isna(chosen["mean"].iloc[0]):
        return MISSING
    number = chosen.iloc[0]
    return MEASURES[column.measure].format_mean(number["mean"], number["std"])


def filled_table(header: str, rows: list[str], pooled: pandas.DataFrame, step: str) -> list[str]:
    """Return the lines of a table with its cells anew."""
    words = words_of(header)
    columns = [column_of(word) for word in words]
    lines = [["", *words]]
    for row in rows:
        model = words_of(row)[0]
        lines.append([model, *(cell(pooled, step, model, column) for column in columns)])
    widths = [max(len(line[place]) for line in lines) + 3 for place in range(len(lines[0]))]
    texts = []
    for line in lines:
        padded = [text.ljust(width) for text, width in zip(line, widths, strict=True)]
        texts.append(INDENT + "".join(padded).rstrip())
    return texts


def fill(source: str, step: str, numbers: pandas.DataFrame) -> str:
    """Return a script's text with every table filled."""
    seeds = numbers[numbers.step == step].seed.unique()
    pooled = tables.pool(numbers[numbers.seed.isin(seeds)]).reset_index()
    lines = source.split("\n")
    filled = []
    while lines:
        line = lines.pop(0)
        is_header = line.startswith(INDENT) and all(map(column_of, words_of(line)))
        rows = []
        while is_header and lines[0].startswith(INDENT):
            rows.append(lines.pop(0))
        filled += filled_table(line, rows, pooled, step) if rows else [line]
    plural = "" if len(seeds) == 1 else "s"
    return SEEDS.sub(f"of {len(seeds)} seed{plural},", "\n".join(filled))


def scripts() -> dict[str, Path]:
    """Return the five scripts and the studies, by step."""
    paths = sorted([*run.REPOSITORY.glob("q[1-9]_*.py"), *run.REPOSITORY.glob("studies/*.py")])
    return {path.relative_to(run.REPOSITORY).with_suffix("").as_posix(): path for path in paths}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    reference: Path = run.REPOSITORY / "outputs" / "reference" / "results.csv"
    """Numbers of the published run."""


def main(config: Config) -> None:
    """Fill the docstrings of all scripts whose numbers were published."""
    numbers = run.read_table(config.reference)
    for step, path in scripts().items():
        source = path.read_text("utf-8")
        text = fill(source, step, numbers)
        if step in set(numbers.step) and text != source:
            path.write_text(text, encoding="utf-8")
            print(path)


if __name__ == "__main__":
    run.command_line(main, Config)
