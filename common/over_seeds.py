"""Figures of Q4 and Q5 over all seeds, which the report shows in the place of the first seed's own."""

import re
import statistics
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from common import few_shot, plots
from common.cards import key

# Step -> the title of comparison.png, and the models whose mean accuracies stand in it.
TITLES = {
    "q4_few_shot": ("Q4: from scratch {:.1%}, with augmentation {:.1%}", ("scratch, plain", "scratch, augmented")),
    "q5_transfer": (
        "Scratch {:.1%}, augmented {:.1%}; fine-tuned {:.1%}, augmented {:.1%}; spread {:.1%}",
        ("scratch, plain", "scratch, augmented", "fine-tuned, plain", "fine-tuned, augmented",
         "spread labels, augmented"),
    ),
}  # fmt: skip
FIRST, SHOTS = ", first images", re.compile(r"(.+), (\d+) per digit")


def draw(pooled: dict[str, Any], folder: Path) -> dict[str, dict[str, str]]:
    """Draw the accuracies, and by the number of labels, of ``report.pool`` to ``folder``/<step>/*.png; return the
    captions by step and file.
    """
    captions: dict[str, dict[str, str]] = {}
    for step, (title, named) in TITLES.items():
        of_step = (number for number in pooled["numbers"] if key(number)[::2] == (step, "accuracy"))
        accuracies = {number["model"]: number["values"] for number in of_step if number["split"] == "test"}
        if not accuracies.keys() >= {*named}:
            continue
        (folder / step).mkdir(parents=True)
        end = f" ({len(accuracies[named[0]])} seeds)"
        outcomes = {model: _outcomes(values, accuracies.get(model + FIRST)) for model, values in accuracies.items()}
        rows = [model for model in accuracies if not (model.endswith(FIRST) or SHOTS.fullmatch(model))]
        caption = title.format(*(statistics.fmean(few_shot.values(outcomes[name])) for name in named)) + end
        caption += ". A dot is a balanced subset of a seed; at the right their mean ± standard deviation"
        captions[step] = {"comparison.png": caption}
        plots.plot_dots(folder / step / "comparison.png", caption, outcomes, *rows)
        curve: dict[str, dict[int, list[float]]] = {}
        for start, shots in (match.groups() for match in map(SHOTS.fullmatch, accuracies) if match):
            curve.setdefault(start, {})[int(shots)] = few_shot.values(outcomes[f"{start}, {shots} per digit"])
        if curve and (q4 := pooled["config"].get("q4_few_shot")):
            for start, by_shots in curve.items():  # one number of shots is that of all else, and has no name
                by_shots[q4["options"]["shots"]] = few_shot.values(outcomes[f"{start}, plain"])
            shots = sorted(next(iter(curve.values())))
            series = {start: [by_shots[few] for few in shots] for start, by_shots in curve.items()}
            *reading, sentence = few_shot.worth(shots, series)
            captions[step]["curve.png"] = f"{sentence}{end}. Without augmentation; a band is the range of all subsets"
            plots.plot_label_curve(folder / step / "curve.png", captions[step]["curve.png"], shots, series, reading)
    return captions


def _outcomes(values: dict[str, list[float]], first: dict[str, list[float]] | None) -> dict[str, Any]:
    """Return values by seed as ``few_shot`` has them by subset; of those on the first images the mean."""
    by_subset = {f"seed {seed}, {number}": of for seed, all in values.items() for number, of in enumerate(all)}
    if first:
        by_subset["first"] = statistics.fmean(value for of_seed in first.values() for value in of_seed)
    return {name: SimpleNamespace(metrics={"test": {"accuracy": value}}) for name, value in by_subset.items()}
