"""Compare the numbers of a fresh run with those of the published one, and say which were reproduced.

python -m common.check    # seconds; ends with 1 when a number lies outside its tolerance or is missing

A number may differ from the published one of the same seed by 3 standard deviations of a difference (root 2 of those
over the published seeds), and by 3 %, 0.3 points or 0.02 (R^2, ratios); what the one reader of digits reads, whose
deviation is in no seed's, by 3 points.
"""

import dataclasses
import statistics
from pathlib import Path

from common import report, run

DEVIATIONS, FRACTION, POINTS, SHARE, READER = 3 * 2**0.5, 0.03, 0.003, 0.02, 0.03


def compare(output_dir: Path, reference: Path) -> tuple[str, bool]:
    """Compare seed 0's numbers with those of seeds.json in ``reference``; return a table and whether all are right."""
    remedy = "get that of the published run, the repository's outputs/reference"
    published = report.read_json(reference / "seeds.json", ("code_sha256", "numbers"), remedy)
    seed0 = ((step, by_seed[0]) for step, by_seed in report.read(output_dir).items())
    fresh = report.pool({step: [result] for step, result in seed0 if result.config["options"]["seed"] == 0})
    fresh_means = {report.key(number): _means(number)[0] for number in fresh["numbers"]}
    lines, reproduced, count = [], 0, len(published["numbers"])
    for number in published["numbers"]:
        mean, tolerance, fresh_mean = _means(number)[0], allowed(number), fresh_means.get(report.key(number))
        within = fresh_mean is not None and abs(fresh_mean - mean) <= tolerance
        reproduced += within
        if number["headline"] or not within:
            name = "{step}: {model}, {measure}, {split}".format(**number)
            fresh_text, verdict = ("missing" if fresh_mean is None else f"{fresh_mean:.4f}"), ("" if within else "NOT ")
            lines.append(f"{name:70} {mean:9.4f} {fresh_text:>9} ± {tolerance:.4f}  {verdict}reproduced")
    changed = [step for step, code in published["code_sha256"].items() if fresh["code_sha256"].get(step, code) != code]
    if changed:
        lines.append(
            f"the code that makes the numbers, or Python, is not that of the published run: {', '.join(changed)}"
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
    return max(DEVIATIONS * deviation, least, SHARE if unit.startswith(("R^2", "ratio")) else 0.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(report.Config):
    reference: Path = run.REPOSITORY / "outputs" / "reference"
    """Folder of the published run, of which seeds.json is read."""


def main(config: Config) -> None:
    """Print the comparison; RunError when a number was not reproduced."""
    text, reproduced = compare(config.output_dir, config.reference)
    print(text)
    if not reproduced:
        raise run.RunError("not every number was reproduced")


if __name__ == "__main__":
    run.command_line(main, Config)
