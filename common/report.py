"""Write outputs/report.html, one self-contained page, and outputs/seeds.json from what the scripts left.

python -m common.report    # seconds; what is missing is named, with the command that makes it
"""

import base64
import dataclasses
import json
import math
import os
import shlex
import statistics
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader

from common import few_shot, run

STEPS = ("q1_autoencoder", "q1_undo", "q2_classifier", "q3_frozen_decoder", "q4_few_shot", "q5_transfer")
ANCHORS = [
    ("same task by others", "61.5% scratch, 75.9% transferred", "first 100 images, one run"),
    ("a public repository of the same task", "67.2% scratch, 76.7% transferred", "first 100 images, 50 epochs"),
    ("supervised CNN", "84.62% ± 0.42", "100 labels, spread as published"),
    ("SimCLR pretraining, fine-tuned", "91.94% ± 0.30", "100 labels, spread as published"),
    ("M1+TSVM (Kingma et al. 2014)", "88.18%", "100 labels"),
    ("ladder network, joint semi-supervised training", "98.94% ± 0.37", "100 labels"),
]
CONFIG_KEYS = ("options", "command", "device", "threads", "versions", "data_sha256", "code_sha256", "git_commit")
SUMMARY_KEYS = ("question", "answer", "numbers", "figures", "seconds")
VARYING_OPTIONS = ("seed", "device", "data_dir", "output_dir")  # may differ among the seeds that are pooled
EQUAL = 1e-6  # standard deviation as a fraction of the mean, up to which values count as equal


class Result(NamedTuple):  # what a step left of one seed
    folder: Path
    config: dict[str, Any]
    summary: dict[str, Any]


def seed_folder(output_dir: Path, seed: int) -> Path:
    """Return the folder of a seed's results, which holds a folder for each step."""
    return output_dir / f"seed{seed}" if seed else output_dir


def read(output_dir: Path) -> dict[str, list[Result]]:
    """Return the results in ``output_dir`` by step, one for each seed: the first is ``output_dir``'s own, the others
    those of seed1, seed2, ... under the same options, code, data and versions. InputError for none, or a damaged file.
    """
    seeds = sorted(int(path.name[4:]) for path in output_dir.glob("seed*") if path.name[4:].isdecimal())
    seed_folders = [seed_folder(output_dir, seed) for seed in (0, *seeds)]
    steps: dict[str, list[Result]] = {}
    for step in sorted(path.parent.name for path in output_dir.glob("q[1-9]_*/config.json")):
        by_seed: dict[int, Result] = {}
        for folder in (path / step for path in seed_folders if (path / step / "config.json").exists()):
            config = _read_json(folder / "config.json", CONFIG_KEYS)
            first = next(iter(by_seed.values()), None)
            seed = config["options"]["seed"]
            if first is None or (seed not in by_seed and _conditions(config) == _conditions(first.config)):
                by_seed[seed] = Result(folder, config, _read_json(folder / "summary.json", SUMMARY_KEYS))
        steps[step] = list(by_seed.values())
    if not steps:
        raise run.InputError(f"{output_dir}: got no results, expected some: make them with `python reproduce.py`")
    return steps


def _conditions(config: dict[str, Any]) -> tuple:  # that seeds must share to be pooled
    options = {name: value for name, value in config["options"].items() if name not in VARYING_OPTIONS}
    return options, config["code_sha256"], config["data_sha256"], config["versions"]


def _read_json(path: Path, keys: tuple[str, ...]) -> dict[str, Any]:
    remedy = f"expected JSON with {', '.join(keys)}; run its script again or remove its folder"
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise run.InputError(f"{path}: got {error}, {remedy}") from error
    if absent := [name for name in keys if name not in content]:
        raise run.InputError(f"{path}: got no {absent[0]}, {remedy}")
    return content


def pool(steps: dict[str, list[Result]]) -> dict[str, Any]:
    """Return what seeds.json holds of the results that ``read`` returned: the hash of each step's code, every number
    with its values by seed, and the paired differences over the values of all seeds.
    """
    numbers: dict[tuple, dict[str, Any]] = {}
    for step, results in steps.items():
        for result in results:
            for entry in result.summary["numbers"]:
                kept = {name: entry[name] for name in ("model", "measure", "split", "unit", "headline")}
                number = numbers.setdefault(key({"step": step, **entry}), {"step": step, **kept, "values": {}})
                number["values"][str(result.config["options"]["seed"])] = entry["values"]
    return {
        "code_sha256": {step: results[0].config["code_sha256"] for step, results in steps.items()},
        "numbers": list(numbers.values()),
        "paired": [
            {"step": step, **_pooled_difference(numbers, step, entry)}
            for step, results in steps.items()
            for entry in results[0].summary.get("paired", ())
        ],
    }


def key(number: dict[str, Any]) -> tuple[str, ...]:
    """Return what names a number."""
    return tuple(number[name] for name in ("step", "model", "measure", "split"))


def _pooled_difference(numbers: dict[tuple, dict], step: str, entry: dict[str, Any]) -> dict[str, Any]:
    """Return a paired difference of the first seed's summary over the seeds that have both sides, on test images. A
    side may be of another step, as Q4's classifiers are in Q5; where that is not there, the difference stays as it is.
    """
    sides = []
    for model in (entry["after"], entry["before"]):
        keys = [(name, model, entry["measure"], "test") for name in (step, *STEPS)]
        sides.append(next((numbers[name]["values"] for name in keys if name in numbers), {}))
    seeds = [seed for seed in sides[0] if seed in sides[1]]
    after, before = ([value for seed in seeds for value in side[seed]] for side in sides)
    if not seeds:
        return entry
    difference = few_shot.paired(after, before)
    finite = {name: value if math.isfinite(value) else None for name, value in difference.items()}  # one pair: no range
    return {name: entry[name] for name in ("after", "before", "measure")} | finite


def summarise(number: dict[str, Any]) -> dict[str, Any]:
    """Return a number of ``pool`` with mean, std (None for one value or equal ones) and n of all its values."""
    values = [value for of_seed in number["values"].values() for value in of_seed]
    mean, std = statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0
    return number | {"mean": mean, "std": std if std > EQUAL * abs(mean) else None, "n": len(values)}


def worded(entry: dict[str, Any]) -> str:
    """Word a number with its standard deviation: accuracies in per cent, others with four decimals."""
    scale, digits, sign = (100, 2, "%") if entry["unit"].startswith("accuracy") else (1, 4, "")
    text, std = f"{scale * entry['mean']:.{digits}f}{sign}", scale * (entry["std"] or 0.0)
    form = f".{digits}f" if std >= 0.5 * 10**-digits else ".0e"  # never "± 0.0000"
    return f"{text} ± {std:{form}}" if std else text


def write(output_dir: Path) -> Path:
    """Write seeds.json and report.html from what is in ``output_dir``, and return the page's path."""
    steps = read(output_dir)
    pooled = pool(steps)
    firsts = {step: results[0] for step, results in steps.items()}
    options = next(iter(firsts.values())).config["options"]
    summaries = [summarise(number) for number in pooled["numbers"]]
    loader = FileSystemLoader(Path(__file__).parent)
    template = Environment(loader=loader, autoescape=True, trim_blocks=True).get_template("report.html")
    text = template.render(
        seeds=max(map(len, steps.values())),
        missing={step: _remedy(step, output_dir, options) for step in STEPS if step not in steps},
        headlines=[number for number in summaries if number["headline"]],
        sections=[_section(step, first, summaries, pooled["paired"]) for step, first in firsts.items()],
        anchors=ANCHORS,
        environment=_environment([first.config for first in firsts.values()]),
        worded=worded,
    )
    _write_whole(output_dir / "seeds.json", json.dumps(pooled, indent=1, allow_nan=False) + "\n")
    return _write_whole(output_dir / "report.html", text)


def _environment(configs: list[dict[str, Any]]) -> dict[str, str]:
    """Return what all steps ran on and with, once where they agree."""
    lines = {
        "dataset": [config["options"]["dataset"] for config in configs],
        "versions": [", ".join(map(" ".join, config["versions"].items())) for config in configs],
        "device, threads": [f"{config['device']}, {config['threads']}" for config in configs],
        "data, sha256": [config["data_sha256"] for config in configs],
        "commit": [config["git_commit"] or "unknown" for config in configs],
    }
    return {name: "; ".join(dict.fromkeys(texts)) for name, texts in lines.items()}


def _remedy(step: str, output_dir: Path, options: dict[str, Any]) -> str:
    """Return the command that makes a missing step, with the dataset, seed and folder of the others."""
    chosen = {"dataset": options["dataset"], "seed": options["seed"], "output-dir": str(output_dir.resolve())}
    usual = {"dataset": "mnist", "seed": 0, "output-dir": str(run.REPOSITORY / "outputs")}
    words = [f"--{name} {shlex.quote(str(value))}" for name, value in chosen.items() if value != usual[name]]
    return " ".join([f"python {step}.py".replace("q1_undo.py", "q1_autoencoder.py --undo"), *words])


def _section(step: str, first: Result, summaries: list[dict], paired: list[dict]) -> dict[str, Any]:
    """Return what the page shows of a step: its script's texts and figures for the first seed, numbers of all."""
    on_test = {(n["model"], n["measure"]): n for n in summaries if n["step"] == step and n["split"] == "test"}
    models, measures = (list(dict.fromkeys(names)) for names in zip(*on_test, strict=True)) if on_test else ((), ())
    cells = [[on_test.get((model, measure)) for model in models] for measure in measures]
    columns, rows = models, list(zip(measures, cells, strict=True))
    if len(measures) < len(models):
        columns, rows = measures, list(zip(models, zip(*cells, strict=True), strict=True))
    try:
        images = {
            name: base64.b64encode((first.folder / name).read_bytes()).decode() for name in first.summary["figures"]
        }
    except OSError as error:
        raise run.InputError(f"{error.filename}: got no figure, expected one: run its script again") from error
    differences = [entry for entry in paired if entry["step"] == step]
    return {"step": step, "result": first, "images": images, "columns": columns, "rows": rows, "paired": differences}


def _write_whole(path: Path, text: str) -> Path:
    beside = path.with_name(f".{path.name}-{os.getpid()}")
    beside.write_text(text, encoding="utf-8")
    return beside.replace(path)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    output_dir: Path = run.REPOSITORY / "outputs"
    """Folder of the results."""


def main(config: Config) -> None:
    """Write the page and say where it is."""
    print(f"report: {write(config.output_dir)}")


if __name__ == "__main__":
    run.command_line(main, Config)
