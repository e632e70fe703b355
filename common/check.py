"""Compare the numbers of a fresh run with those of the published one, and say which were reproduced.

python -m common.check              # seconds; ends with 1 when a number lies outside its tolerance or is missing
python -m common.check --publish    # instead put the run in the place of the published one, and its tables into README

A number may differ from the published one of the same seed by 3 standard deviations of a difference (root 2 of those
over the published seeds), and by 3 %, 0.3 points or 0.02 (R², ratios); what the one reader of digits reads, whose
deviation is in no seed's, by 3 points.
"""

import dataclasses
import os
import re
import shutil
import statistics
from pathlib import Path

from common import cards, report, results, run

DEVIATIONS, FRACTION, POINTS, SHARE, READER = 3 * 2**0.5, 0.03, 0.003, 0.02, 0.03
README_CARDS = re.compile(r"(?<=<!-- cards -->\n).*(?=<!-- end of cards -->\n)", re.DOTALL)


def compare(output_dir: Path, reference: Path) -> tuple[str, bool]:
    """Compare seed 0's numbers with those of seeds.json in ``reference``; return a table and whether all are right."""
    remedy = "get that of the published run, the repository's outputs/reference"
    published = report.read_json(reference / "seeds.json", ("git_commit", "numbers_sha256", "numbers"), remedy)
    seed0 = ((step, by_seed[0]) for step, by_seed in report.read(output_dir).items())
    fresh = report.pool({step: [result] for step, result in seed0 if result.config["options"]["seed"] == 0})
    fresh_means = {cards.key(number): _means(number)[0] for number in fresh["numbers"]}
    lines, reproduced, count = [], 0, len(published["numbers"])
    for number in published["numbers"]:
        mean, tolerance, fresh_mean = _means(number)[0], allowed(number), fresh_means.get(cards.key(number))
        within = fresh_mean is not None and abs(fresh_mean - mean) <= tolerance
        reproduced += within
        if number["headline"] or not within:
            name = "{step}: {model}, {measure}, {split}".format(**number)
            fresh_text, verdict = ("missing" if fresh_mean is None else f"{fresh_mean:.4f}"), ("" if within else "NOT ")
            lines.append(f"{name:70} {mean:9.4f} {fresh_text:>9} ± {tolerance:.4f}  {verdict}reproduced")
    if published["numbers_sha256"].keys() != {*fresh["numbers_sha256"], results.numbers_sha256()}:
        commit = ", ".join(published["git_commit"])
        lines.append(
            f"the code that makes numbers, or Python, is another than that of the published run, commit {commit}"
        )
    heading = f"{'number (the main ones, and those not reproduced)':70} published     fresh  tolerance"
    return "\n".join([heading, *lines, f"{reproduced} of {count} numbers reproduced"]), reproduced == count


def _means(number: dict) -> list[float]:  # over the values of each seed; the first seed is 0
    return [statistics.fmean(values) for values in number["values"].values()]


def allowed(number: dict) -> float:
    """Return by how much a number of seeds.json may differ when it is measured again."""
    means, unit = _means(number), number["unit"]
    deviation = statistics.stdev(means) if len(means) > 1 else 0.0
    if unit == "training iterations":  # on a grid: by two of its steps
        return max(DEVIATIONS * deviation, abs(means[0]))
    points = READER if number["measure"] == "reading_accuracy" else POINTS
    least = points if unit.startswith("accuracy") else FRACTION * abs(means[0])
    return max(DEVIATIONS * deviation, least, SHARE if unit.startswith(("R²", "ratio")) else 0.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(report.Config):
    reference: Path = run.REPOSITORY / "outputs" / "reference"
    """Folder of the published run, of which seeds.json is read."""
    publish: bool = False
    """Instead put the run's pages, numbers and figures of seed 0 there, and its tables into README."""


def _no_figures(_: str, names: list[str]) -> list[str]:
    return [name for name in names if not name.endswith(".png")]


def publish(output_dir: Path, reference: Path, readme: Path) -> None:
    """Replace the published run, of which steps' folders hold figures only, and what is between README's marks.

    InputError unless the run is of one commit, as committed, and of the code that is there now.
    """
    keys, remedy = ("config", "numbers", "git_commit", "numbers_sha256"), "make it with `python reproduce.py`"
    pooled = report.read_json(output_dir / "seeds.json", keys, remedy)
    commits = ", ".join(pooled["git_commit"])
    if not re.fullmatch("[0-9a-f]+", commits) or list(pooled["numbers_sha256"]) != [results.numbers_sha256()]:
        got = f"{output_dir}: got a run of commit {commits}"
        raise run.InputError(f"{got}, expected one of a single clean commit and the present code; {remedy}")
    for step in pooled["config"]:
        shutil.rmtree(reference / step, ignore_errors=True)
        shutil.copytree(output_dir / step, reference / step, ignore=_no_figures)
    if (output_dir / report.OVER_SEEDS).exists():
        shutil.copytree(output_dir / report.OVER_SEEDS, reference, dirs_exist_ok=True)
    for page in ("seeds.json", "report.html", "draw.html"):
        if (output_dir / page).exists():
            shutil.copy(output_dir / page, reference)
    block = cards.markdown(pooled, os.path.relpath(reference, readme.parent))
    readme.write_text(README_CARDS.sub(lambda _: block, readme.read_text("utf-8")), encoding="utf-8")


def main(config: Config) -> None:
    """Print the comparison, and RunError when a number was not reproduced; or publish."""
    if config.publish:
        return publish(config.output_dir, config.reference, run.REPOSITORY / "README.md")
    text, reproduced = compare(config.output_dir, config.reference)
    print(text)
    if not reproduced:
        raise run.RunError("not every number was reproduced")


if __name__ == "__main__":
    run.command_line(main, Config)
