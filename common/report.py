"""Write outputs/report.html, one self-contained page, and outputs/seeds.json from what the scripts left.

python -m common.report    # seconds; what is missing is named, with the command that makes it
"""

import dataclasses
import io
import json
import operator
import os
import shlex
import shutil
import statistics
from base64 import b64encode
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Template
from PIL import Image, ImageOps
from scipy.special import stdtrit

from common import cards, results, run
from common.cards import key, summarise

STEPS = ("q1_autoencoder", "q1_undo", "q2_classifier", "q2_plain", "q3_frozen_decoder", "q4_few_shot", "q5_transfer")
CONFIG_KEYS = ("options", "command", "device", "threads", "versions", "data_sha256", "git_commit", "numbers_sha256")
SUMMARY_KEYS = ("question", "answer", "numbers", "figures", "seconds")
OVER_SEEDS = "over_seeds"  # folder of the figures of several seeds, beside seeds.json
VARYING_OPTIONS = ("seed", "device", "data_dir", "output_dir")  # may differ among the seeds that are pooled
VERDICTS = ("holds", "in direction", "refuted", "one seed")  # a claim's is the last of its measures'
ABOUT_THE_SAME = 0.05  # a claim of "about the same" allows Q3 to be lower by this fraction
CARD_RATIO = 2.2  # of the picture in a card, width to height, as wide as cards usually are
THUMBNAIL = (640, 640)  # at most, in pixels: twice a card, for fine screens


class Result(NamedTuple):  # what a step left of one seed
    folder: Path
    config: dict[str, Any]
    summary: dict[str, Any]


class Figure(NamedTuple):
    path: Path
    caption: str


def seed_folder(output_dir: Path, seed: int) -> Path:
    """Return the folder of a seed's results, which holds a folder for each step."""
    return output_dir / f"seed{seed}" if seed else output_dir


def read(output_dir: Path) -> dict[str, list[Result]]:
    """Return the results in ``output_dir`` by step, one for each seed: the first is ``output_dir``'s own, the others
    those of seed1, seed2, ... under the same options, code, data and versions. InputError for none, or a damaged file.
    """
    steps, remedy = {}, "run its script again or remove its folder"
    configs = output_dir.glob("q[1-9]_*/config.json")  # those of versions that knew no numbers_sha256 are not read
    for step in sorted(path.parent.name for path in configs if "numbers_sha256" in path.read_text("utf-8")):
        by_seed: dict[int, Result] = {}
        conditions = []
        others = sorted(path.parent for path in output_dir.glob(f"seed*/{step}/config.json"))
        for folder in [output_dir / step, *others]:
            config = read_json(folder / "config.json", (*CONFIG_KEYS, "code_sha256"), remedy)
            options, seed = config["options"] | dict.fromkeys(VARYING_OPTIONS), config["options"]["seed"]
            conditions.append((options, config["code_sha256"], config["data_sha256"], config["versions"]))
            if conditions[-1] == conditions[0] and seed not in by_seed:
                by_seed[seed] = Result(folder, config, read_json(folder / "summary.json", SUMMARY_KEYS, remedy))
        steps[step] = list(by_seed.values())
    if not steps:
        raise run.InputError(f"{output_dir}: got no results, expected some: make them with `python reproduce.py`")
    return steps


def read_json(path: Path, keys: tuple[str, ...], remedy: str) -> dict[str, Any]:
    """Return the content of a JSON file; InputError, with ``remedy``, unless it can be read and has all ``keys``."""
    try:
        content = json.loads(path.read_text("utf-8"))
        if absent := [name for name in keys if name not in content]:
            raise ValueError(f"no {absent[0]}")
    except (OSError, ValueError) as error:
        raise run.InputError(f"{path}: got {error}, expected JSON with {', '.join(keys)}; {remedy}") from error
    return content


def pool(steps: dict[str, list[Result]]) -> dict[str, Any]:
    """Return what seeds.json holds, to six digits: which code made it, each step's configuration of the first seed,
    numbers with values by seed, paired differences, claims.
    """
    numbers: dict[tuple, dict[str, Any]] = {}
    paired, claims, made_by = [], [], {"git_commit": {}, "numbers_sha256": {}}
    for step, of_seeds in steps.items():
        for _, config, summary in of_seeds:
            for name, of_steps in made_by.items():
                of_steps.setdefault(config[name] or "unknown", {})[step] = None
            for entry in summary["numbers"]:
                kept = {name: entry[name] for name in ("model", "measure", "split", "unit", "headline")}
                number = numbers.setdefault(key({"step": step, **entry}), {"step": step, **kept, "values": {}})
                number["values"][str(config["options"]["seed"])] = entry["values"]
        seed0 = of_seeds[0].summary
        paired += [{"step": step, **entry, **_paired(of_seeds, entry)} for entry in seed0.get("paired", ())]
        for claim in (*seed0.get("claims", ()), *cards.claims(step)):
            claims += [judged for after in claim["after"] if (judged := _judged_claim(numbers, step, claim, after))]
    made_by = {name: {value: list(of_steps) for value, of_steps in of.items()} for name, of in made_by.items()}
    config = {step: {name: of[0].config[name] for name in CONFIG_KEYS} for step, of in steps.items()}
    return (
        made_by | {"config": config} | _rounded({"numbers": list(numbers.values()), "paired": paired, "claims": claims})
    )


def _rounded(content: Any) -> Any:
    return json.loads(json.dumps(content), parse_float=lambda digits: float(f"{float(digits):.6g}"))


def _paired(results: list[Result], entry: dict[str, Any]) -> dict[str, float | None]:
    """Return ``interval`` of an entry of "paired" over the seeds: subsets of one seed share its pretrained encoders."""
    of_seeds = [result.summary["paired"] for result in results]
    same = operator.itemgetter("after", "before", "measure")
    return interval([next(of["mean"] for of in paired if same(of) == same(entry)) for paired in of_seeds])


def interval(differences: list[float]) -> dict[str, Any]:
    """Return mean, low, high, n of independent differences: a 95 % interval by Student's t, None for a single one."""
    mean, n = statistics.fmean(differences), len(differences)
    if n == 1:
        return {"mean": mean, "low": None, "high": None, "n": n}
    half = float(stdtrit(n - 1, 0.975)) * statistics.stdev(differences) / n**0.5
    return {"mean": mean, "low": mean - half, "high": mean + half, "n": n}


def _judged_claim(
    numbers: dict[tuple, dict[str, Any]], step: str, claim: dict[str, Any], after: str
) -> dict[str, Any] | None:
    """Return a claim about ``after`` with its verdict, that of its weakest measure; None if it was not measured."""
    sides = {"step": step, "before": claim["before"], "after": after, "split": claim.get("split", "test")}
    compared = []
    for measure, (words, wanted) in claim["panels"].items():
        if not {(step, after, measure, sides["split"]), (step, claim["before"], measure, "test")} <= numbers.keys():
            return None
        entry = sides | {"measure": measure, "words": " ".join(words.split()), "wanted": wanted}
        compared.append(entry | _judged(numbers, entry))
    verdict = max((entry["verdict"] for entry in compared), key=VERDICTS.index)
    return {"claim": claim["claim"], **sides, "verdict": verdict, "compared": compared}


def _judged(numbers: dict[tuple, dict[str, Any]], entry: dict[str, Any]) -> dict[str, Any]:
    """Return both sides' means over the seeds, the interval of their difference, and what that says of the claim.

    It *holds* if the interval lies on the wanted side of 0, *in direction* if only the mean does, and is *refuted*
    where not even that. "About the same" is wanted down to -5 % of the mean before, in the place of 0.
    """
    splits = {"after": entry["split"], "before": "test"}
    sides = (numbers[entry["step"], entry[side], entry["measure"], split]["values"] for side, split in splits.items())
    after, before = ([statistics.fmean(values) for values in side.values()] for side in sides)
    means = {"mean_before": statistics.fmean(before), "mean_after": statistics.fmean(after)}
    over_seeds = interval([x - y for x, y in zip(after, before, strict=True)])
    mean, low, high = (over_seeds[name] for name in ("mean", "low", "high"))
    if low is None:
        return means | over_seeds | {"verdict": "one seed"}
    if entry["wanted"] == "lower":
        mean, low = -mean, -high
    bar = -ABOUT_THE_SAME * abs(means["mean_before"]) if entry["wanted"].startswith("about") else 0.0
    verdict = "holds" if low > bar else "in direction" if mean > bar else "refuted"
    return means | over_seeds | {"verdict": verdict}


def write(output_dir: Path) -> Path:
    """Write seeds.json and report.html from what is in ``output_dir``, and return the page's path."""
    steps = read(output_dir)
    pooled, firsts = pool(steps), {step: of_seeds[0] for step, of_seeds in steps.items()}
    numbers = [summarise(number) for number in pooled["numbers"]]
    configs, seeds = pooled["config"].values(), max(map(len, steps.values()))
    figures = _figures(pooled, firsts, output_dir / OVER_SEEDS, seeds)
    shown = [card | {"image": _thumbnail(figures[card["step"]].get(card["figure"]))} for card in cards.cards(pooled)]
    template = Template(Path(__file__).with_name("report.html").read_text("utf-8"), autoescape=True, trim_blocks=True)
    text = template.render(
        seeds=seeds,
        missing={step: _remedy(step, output_dir, firsts) for step in STEPS if step not in steps},
        changed=list(pooled["numbers_sha256"]) != [results.numbers_sha256()],
        commits=pooled["git_commit"],
        draw=(output_dir / "draw.html").exists(),
        cards=shown,
        numbers=numbers,
        sections=[_section(step, first, figures[step], numbers, shown) for step, first in firsts.items()],
        paired=pooled["paired"],
        claims=pooled["claims"],
        published_elsewhere=seeds == 1 and next(iter(configs))["options"]["dataset"] == "mnist",
        environment={
            "dataset": [config["options"]["dataset"] for config in configs],
            "versions": [", ".join(map(" ".join, config["versions"].items())) for config in configs],
            "device, threads": [f"{config['device']}, {config['threads']}" for config in configs],
            "data, sha256": [config["data_sha256"] for config in configs],
            "code, sha256": pooled["numbers_sha256"],
            "commit": pooled["git_commit"],
        },
        words=lambda name: cards.WORDS.get(name, name),
        formatted=cards.formatted,
        difference=cards.difference,
    )
    write_whole(output_dir / "seeds.json", json.dumps(pooled, separators=(",", ":"), allow_nan=False) + "\n")
    return write_whole(output_dir / "report.html", text)


def _remedy(step: str, output_dir: Path, firsts: dict[str, Result]) -> str:
    options = next(iter(firsts.values())).config["options"] | {"output-dir": str(output_dir.resolve())}
    usual = {"dataset": "mnist", "seed": 0, "output-dir": str(run.REPOSITORY / "outputs")}
    words = [f"--{name} {shlex.quote(str(options[name]))}" for name in usual if options[name] != usual[name]]
    return " ".join([f"python {run.MADE_BY.get(step, f'{step}.py')}", *words])


def _figures(
    pooled: dict[str, Any], firsts: dict[str, Result], folder: Path, seeds: int
) -> dict[str, dict[str, Figure]]:
    """Return each step's figures by file name: the first seed's, and those of several seeds drawn to ``folder``."""
    shutil.rmtree(folder, ignore_errors=True)
    figures = {
        step: {name: Figure(first.folder / name, caption) for name, caption in first.summary["figures"].items()}
        for step, first in firsts.items()
    }
    if seeds > 1:
        from common import over_seeds  # loads PyTorch, which the parent of the steps goes without

        for step, captions in over_seeds.draw(pooled, folder).items():
            figures[step] |= {name: Figure(folder / step / name, caption) for name, caption in captions.items()}
    return figures


def _section(
    step: str, first: Result, figures: dict[str, Figure], numbers: list[dict[str, Any]], shown: list[dict[str, Any]]
) -> dict[str, Any]:
    """Return what the page shows of a step: its script's texts for the first seed, figures, numbers of all seeds."""
    on_test = {key(number)[1:3]: number for number in numbers if (number["step"], number["split"]) == (step, "test")}
    models, measures = (list(dict.fromkeys(names)) for names in zip(*on_test, strict=True))
    columns, names = sorted((models, measures), key=len)  # the narrower table
    rows = {name: [on_test.get((name, column)) or on_test.get((column, name)) for column in columns] for name in names}
    try:
        images = {name: b64encode(figure.path.read_bytes()).decode() for name, figure in figures.items()}
    except OSError as error:
        raise run.InputError(f"{error.filename}: got no figure, expected one: run its script again") from error
    here = {name: [card for card in shown if (card["step"], card["figure"]) == (step, name)] for name in images}
    variant = run.MADE_BY.get(step, "").partition("--")[2]
    captions = {name: figure.caption for name, figure in figures.items()}
    section = {"step": step, "variant": variant, "result": first, "images": images, "cards": here, "captions": captions}
    return section | {"columns": columns, "rows": rows}


def _thumbnail(figure: Figure | None) -> str | None:
    """Return a figure in small as base64 of WebP; None if there is none."""
    if not figure or not figure.path.exists():
        return None
    with Image.open(figure.path) as image:
        small = image.convert("RGB")
    small.thumbnail(THUMBNAIL, Image.Resampling.LANCZOS)
    height = max(small.height, round(small.width / CARD_RATIO))
    small = ImageOps.pad(small, (small.width, height), color="white", centering=(0, 0))
    small.save(buffer := io.BytesIO(), "webp", quality=80)
    return b64encode(buffer.getvalue()).decode()


def write_whole(path: Path, text: str) -> Path:
    """Write a text to ``path``, whole or not at all, and return the path."""
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
