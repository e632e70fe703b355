"""Write outputs/report.html, one self-contained page, and outputs/seeds.json from what the scripts left.

python -m common.report    # seconds; what is missing is named, with the command that makes it
"""

import base64
import dataclasses
import json
import statistics
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader

from common import few_shot, run

ANCHORS = [
    ("same task by others", "61.5% scratch, 75.9% transferred", "first 100 images, one run"),
    ("a public repository of the same task", "67.2% scratch, 76.7% transferred", "first 100 images, 50 epochs"),
    ("supervised CNN", "84.62% ± 0.42", "100 labels, spread as published"),
    ("SimCLR pretraining, fine-tuned", "91.94% ± 0.30", "100 labels, spread as published"),
    ("M1+TSVM (Kingma et al. 2014)", "88.18%", "100 labels"),
    ("ladder network, joint semi-supervised training", "98.94% ± 0.37", "100 labels"),
]


@dataclasses.dataclass(frozen=True)
class Question:
    """What the report says of a question: the folders of its results, texts, rows (label -> number), figures."""

    name: str
    folders: tuple[str, ...]
    asked: str
    done: str
    rows: dict[str, str]
    figures: dict[str, str]
    tables: tuple[str, ...] = ()


QUESTIONS = (
    Question(
        "Q1",
        ("q1_autoencoder", "q1_autoencoder-undo"),
        "what survives 12 numbers when the whole image must come back?",
        "A convolutional autoencoder is trained on 55,000 images and scored per pixel, beside principal components and"
        " the mean image. A variant, for Q5, is shown warped images and asked for the unwarped ones.",
        {
            "MSE per pixel": "q1_autoencoder/test/mse",
            "L1 per pixel": "q1_autoencoder/test/l1",
            "MSE, PCA of as many dimensions": "q1_autoencoder/pca_12/test/mse",
            "MSE, mean image": "q1_autoencoder/mean_image/test/mse",
        },
        {
            "q1_autoencoder/loss.png": "The autoencoder's loss over training iterations: train, validation and test.",
            "q1_autoencoder/reconstructions.png": "The first test image of each digit, and its reconstruction.",
            "q1_autoencoder/latents.png": "Latents of test images in two dimensions, coloured and drawn by digit.",
        },
    ),
    Question(
        "Q2",
        ("q2_classifier",),
        "how well does the same encoder tell digits apart?",
        "The same encoder and a small head are trained on the same images, a little warped, and scored by accuracy.",
        {
            "accuracy": "q2_classifier/test/accuracy",
            "accuracy, averaged over warps": "q2_classifier/test/averaged_accuracy",
            "accuracy, 3 nearest neighbours on pixels": "q2_classifier/knn/test/accuracy",
            "accuracy, logistic regression on pixels": "q2_classifier/logistic_regression/test/accuracy",
        },
        {
            "q2_classifier/loss.png": "The classifier's cross-entropy over training iterations.",
            "q2_classifier/accuracy.png": "The classifier's accuracy over training iterations.",
            "q2_classifier/confusion.png": "Which digits the classifier takes for which.",
            "q2_classifier/mistakes.png": "The classifier's most confident mistakes on test images.",
        },
    ),
    Question(
        "Q3",
        ("q3_frozen_decoder",),
        "what can a decoder recover from Q2's frozen encoder?",
        "A new decoder is trained on Q2's frozen encoder, and another on random weights. The report's three claims, (a)"
        " to (c), are measured.",
        {
            "MSE per pixel": "q3_frozen_decoder/test/mse",
            "MSE, random encoder": "q3_frozen_decoder/random_encoder/test/mse",
            "variability within a digit kept, Q3": "q3_frozen_decoder/test/within_class_std_ratio",
            "variability within a digit kept, Q1": "q3_frozen_decoder/q1/test/within_class_std_ratio",
        },
        {
            "q3_frozen_decoder/loss.png": "The loss of the decoder on the frozen encoder over training iterations.",
            "q3_frozen_decoder/reconstructions.png": "Test images, and what the decoder on the frozen encoder draws.",
            "q3_frozen_decoder/comparison.png": "Test images, what Q1 and what Q3 make of them.",
            "q3_frozen_decoder/claim_a.png": "Claim (a): what the latents of Q1, Q3 and the baselines keep.",
            "q3_frozen_decoder/claim_b.png": "Claim (b): variability within a digit.",
            "q3_frozen_decoder/claim_b_digits.png": "Claim (b), digit by digit.",
            "q3_frozen_decoder/claim_c.png": "Claim (c): separation between digits.",
        },
        ("q3_frozen_decoder/table.md",),
    ),
    Question(
        "Q4",
        ("q4_few_shot",),
        "how far do 100 labelled images go, from scratch?",
        "Classifier and autoencoder are trained on 10 images per digit, over several class-balanced draws, and on the"
        " first 100 training images; over-fitting is the gap between their own examples and the test images.",
        {
            "accuracy, plain": "q4_few_shot/scratch/plain/test/accuracy",
            "accuracy, augmented": "q4_few_shot/scratch/augmented/test/accuracy",
            "accuracy, augmented, averaged over warps": "q4_few_shot/scratch/augmented/test/averaged_accuracy",
            "MSE per pixel, autoencoder": "q4_few_shot/autoencoder/test/mse",
            "accuracy, nearest neighbour on pixels": "q4_few_shot/nearest_neighbour/test/accuracy",
            "accuracy, logistic regression on pixels": "q4_few_shot/logistic_regression/test/accuracy",
        },
        {
            "q4_few_shot/loss.png": "Loss on the draw's own examples and on test images: the gap is over-fitting.",
            "q4_few_shot/accuracy.png": "Accuracy on the draw's own examples and on test images.",
            "q4_few_shot/comparison.png": "Test accuracy of every draw, beside classifiers on pixels.",
            "q4_few_shot/autoencoder_loss.png": "The autoencoder's loss on few images and on test images.",
            "q4_few_shot/autoencoder_comparison.png": "The autoencoder's errors beside PCA and Q1.",
            "q4_few_shot/reconstructions.png": "The autoencoder of few images redraws them, and unseen ones.",
        },
    ),
    Question(
        "Q5",
        ("q5_transfer",),
        "what is Q1's encoder worth then?",
        "The same classifiers start from Q1's encoder, fine-tuned or frozen, and are compared draw by draw with Q4's."
        " Labels are also spread over the unlabelled images, by neighbours in the latents of Q1 and its variant.",
        {
            "accuracy, fine-tuned, plain": "q5_transfer/fine-tuned/plain/test/accuracy",
            "accuracy, fine-tuned, augmented": "q5_transfer/fine-tuned/augmented/test/accuracy",
            "accuracy, spread labels": "q5_transfer/spread/augmented/test/accuracy",
            "accuracy, spread labels, averaged over warps": "q5_transfer/spread/augmented/test/averaged_accuracy",
            "accuracy, frozen encoder, plain": "q5_transfer/frozen/plain/test/accuracy",
            "accuracy, frozen random encoder, plain": "q5_transfer/random frozen/plain/test/accuracy",
        },
        {
            "q5_transfer/loss.png": "Loss from scratch and with Q1's encoder, on own examples and on test images.",
            "q5_transfer/accuracy.png": "Accuracy from scratch and with Q1's encoder.",
            "q5_transfer/comparison.png": "Test accuracy of every draw and variant.",
            "q5_transfer/curve.png": "Accuracy against labelled images per digit.",
        },
        ("q5_transfer/table.md",),
    ),
)


def seed_folders(output_dir: Path) -> list[Path]:
    """Return the folders that hold results of a seed each: the output folder, then seed1, seed2, ..."""
    seeds = [path for path in output_dir.glob("seed*") if path.is_dir() and path.name[4:].isdigit()]
    return [output_dir, *sorted(seeds, key=lambda path: int(path.name[4:]))]


def present(folder: Path) -> bool:
    """Return whether a script's results are there: its provenance and its numbers."""
    return (folder / "config.json").exists() and (folder / "summary.json").exists()


def alike(output_dir: Path, script: str) -> list[Path]:
    """Return the folders of a script's results, the first seed's and those of other seeds under the same options, code
    and data: what an earlier version left is not pooled with the present one.
    """
    folders = [seed / script for seed in seed_folders(output_dir) if present(seed / script)]
    if not folders or folders[0].parent != output_dir:
        return []
    provenances = [run.determining(_read(folder / "config.json")) for folder in folders]
    same = [{k: v for k, v in found.items() if k != "seed" and "upstream" not in k} for found in provenances]
    return [folder for folder, found in zip(folders, same, strict=True) if found == same[0]]


def numbers(output_dir: Path) -> dict[str, dict[str, Any]]:
    """Return every quoted number over the seeds that are there: "q1_autoencoder/test/mse" -> mean, std (None for one
    value), n, unit, split. What Q4 and Q5 keep by draw counts every draw of every seed, all else one value per seed.
    """
    values: dict[str, list[float]] = {}
    entries: dict[str, dict] = {}
    for script in sorted(path.name for path in output_dir.glob("q[1-9]_*")):
        for path in (folder / "summary.json" for folder in alike(output_dir, script)):
            draws = _read(path).get("draws", {})
            for name, entry in _quoted(path).items():
                variant, split, metric = name.rsplit("/", 2) if name.count("/") > 1 else ("", *name.split("/"))
                by_draw = draws.get(variant, {})
                drawn = [found[split][metric] for draw, found in by_draw.items() if draw != "first"]
                full = f"{path.parent.name}/{name}"
                values.setdefault(full, []).extend(drawn or [entry["mean"]])
                entries[full] = entry
    return {
        name: {
            "mean": statistics.fmean(found),
            "std": statistics.stdev(found) if len(found) > 1 else None,
            "n": len(found),
            "unit": entries[name]["unit"],
            "split": entries[name]["split"],
        }
        for name, found in values.items()
    }


def differences(output_dir: Path) -> dict[str, dict[str, float]]:
    """Return Q5's paired differences of accuracy over the draws of all seeds: "fine-tuned/plain - scratch/plain" ->
    mean, low, high (95 % interval) and n.
    """
    summaries = [_read(folder / "summary.json") for folder in alike(output_dir, "q5_transfer")]
    found = {}
    for name in summaries[0].get("paired", ()) if summaries else ():
        pair, _, averaged = name.partition(", ")
        metric = "averaged_accuracy" if averaged else "accuracy"
        after, before = (
            [
                outcome["test"][metric]
                for summary in summaries
                for draw, outcome in summary["draws"][variant].items()
                if draw != "first"
            ]
            for variant in pair.split(" - ")
        )
        found[name] = few_shot.paired(after, before)
    return found


def worded(entry: dict[str, Any]) -> str:
    """Word a number with its standard deviation: accuracies in per cent, others with four decimals."""
    percent = entry["unit"].startswith("accuracy")
    mean, std = (
        None if value is None else 100 * value if percent else value for value in (entry["mean"], entry["std"])
    )
    digits, sign = (2, "%") if percent else (4, "")
    return f"{mean:.{digits}f}{sign}" + ("" if std is None else f" ± {std:.{digits}f}")


def write(output_dir: Path) -> Path:
    """Write seeds.json and report.html from what is in ``output_dir``, and return the page's path. Raises
    FileNotFoundError when there is nothing to report.
    """
    provenance = {
        path.name: _read(path / "config.json") for path in sorted(output_dir.glob("q[1-9]_*")) if present(path)
    }
    if not provenance:
        raise FileNotFoundError(f"no results in {output_dir}: make them with `python reproduce.py`")
    found = numbers(output_dir)
    run.write(output_dir / "seeds.json", json.dumps(found, indent=1) + "\n")
    some = next(iter(provenance.values()))
    missing = []
    questions = []
    for question in QUESTIONS:
        absent = [name for name in question.folders if name not in provenance]
        missing += [(name, command(name, some)) for name in absent]
        questions.append(_filled(question, output_dir, found, provenance))
    seeds = max(len(alike(output_dir, name)) for name in provenance)
    page = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True).get_template("report.html")
    versions = ", ".join(f"{name} {version}" for name, version in some["versions"].items())
    text = page.render(
        dataset=some["options"]["dataset"],
        spread=f"{seeds} seeds, ± is the standard deviation over seeds, in Q4 and Q5 over the draws of all seeds"
        if seeds > 1
        else "one seed, ± in Q4 and Q5 is the standard deviation over draws",
        seed=some["options"]["seed"],
        missing=missing,
        questions=questions,
        anchors=ANCHORS,
        environment=[
            ("versions", versions),
            ("device and threads", f"{some['device']}, {some['threads']}"),
            ("data, sha256", some["data_sha256"]),
            ("commit", some["git_commit"]),
        ],
    )
    path = output_dir / "report.html"
    run.write(path, text)
    return path


def command(folder: str, provenance: dict[str, Any]) -> str:
    """Return the command that fills a folder of results, with the dataset and the seed of a provenance."""
    script, _, variant = folder.partition("-")
    chosen = {"dataset": "mnist", "seed": 0}
    options = [f"--{variant}"] if variant else []
    options += [
        f"--{name} {found}" for name, usual in chosen.items() if (found := provenance["options"][name]) != usual
    ]
    return " ".join([f"python {script}.py", *options])


def _filled(question: Question, output_dir: Path, found: dict, provenance: dict[str, dict]) -> dict[str, Any]:
    """Return what the template shows of a question."""
    own = question.folders[0]
    some = next(iter(provenance.values()))
    told = {name: _read(output_dir / name / "summary.json") for name in question.folders if name in provenance}
    figures = {output_dir / name: caption for name, caption in question.figures.items()}
    tables = [
        [[cell.strip() for cell in line.strip("|\n").split("|")] for line in lines[:1] + lines[2:]]
        for name in question.tables
        if (output_dir / name).exists()
        for lines in [(output_dir / name).read_text("utf-8").splitlines()]
    ]
    if "q5_transfer" in told:
        paired = [
            [name, f"{100 * d['mean']:+.2f} points", f"{100 * d['low']:+.2f} to {100 * d['high']:+.2f}", d["n"]]
            for name, d in differences(output_dir).items()
        ]
        tables.append([["difference, draw by draw", "test accuracy", "95 % interval", "draws"], *paired])
    if not provenance.get(own, {}).get("options", {}).get("curve"):
        figures.pop(output_dir / "q5_transfer" / "curve.png", None)  # of an earlier run
    return {
        "name": question.name,
        "asked": question.asked,
        "done": question.done,
        "missing": None if own in provenance else command(own, some),
        "rows": [
            {"label": label, "value": worded(found[name]), "n": found[name]["n"]}
            for label, name in question.rows.items()
            if name in found
        ],
        "verdicts": told.get(own, {}).get("verdicts", []),
        "figures": [
            {"base64": base64.b64encode(path.read_bytes()).decode(), "caption": caption}
            for path, caption in figures.items()
            if path.exists()
        ],
        "tables": tables,
        "commands": [
            {"command": command(name, provenance[name]), "seconds": f"{each['seconds']:.0f}"}
            for name, each in told.items()
        ],
    }


# How far a number may lie from the published one: 5 times its standard deviation over the published seeds, and at
# least 3 per cent of it, 0.3 points of an accuracy, 0.02 of an R^2 or a ratio. A run on 1 thread in the place of 2 lies
# within these with all its numbers, with 4 times with all but one.
DEVIATIONS, FRACTION, POINTS, SHARE = 5, 0.03, 0.003, 0.02


def compare(output_dir: Path, reference: Path) -> tuple[str, bool]:
    """Compare the first seed's numbers with those of the published run, and return a table and whether all lie within
    their tolerance.
    """
    lines, inside, count = [], 0, 0
    headlines = {name for question in QUESTIONS for name in question.rows.values()}
    for path in sorted(reference.glob("q[1-9]_*/summary.json")):
        folder = path.parent.name
        published = [_quoted(seed / folder / "summary.json") for seed in seed_folders(reference)]
        fresh = {name: entry["mean"] for name, entry in _quoted(output_dir / folder / "summary.json").items()}
        for name, entry in published[0].items():
            value = entry["mean"]
            over_seeds = [entries[name]["mean"] for entries in published if name in entries]
            std = statistics.stdev(over_seeds) if len(over_seeds) > 1 else 0.0
            least = POINTS if entry["unit"].startswith("accuracy") else FRACTION * abs(value)
            if entry["unit"].startswith(("R^2", "ratio")):
                least = max(least, SHARE)
            tolerance = max(DEVIATIONS * std, least)
            count += 1
            good = name in fresh and abs(fresh[name] - value) <= tolerance
            inside += good
            if not good or f"{folder}/{name}" in headlines:
                now = f"{fresh[name]:.4f}" if name in fresh else "missing"
                verdict = "reproduced" if good else "NOT reproduced"
                lines.append(f"{folder + '/' + name:70} {value:9.4f} {now:>9} +- {tolerance:.4f}  {verdict}")
    if not count:
        raise FileNotFoundError(f"no published run in {reference}: get the repository's outputs/reference")
    lines.append(f"{inside} of {count} numbers reproduced; shown are the main ones and those that were not")
    return "\n".join([f"{'number':70} published     fresh  tolerance", *lines]), inside == count


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"cannot read {path} ({error}): run its script again") from error


def _quoted(path: Path) -> dict[str, dict]:
    """Return the finite numbers of a summary.json, none if there is no such file."""
    if not path.exists():
        return {}
    summary = _read(path)
    both = summary["metrics"] | summary["baselines"]
    return {name: entry for name, entry in both.items() if entry["mean"] is not None}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    output_dir: Path = run.REPOSITORY / "outputs"
    """Folder of the results."""


def main(config: Config) -> None:
    """Write the page and say where it is."""
    print(f"report: {write(config.output_dir)}")


if __name__ == "__main__":
    run.command_line(main, Config)
