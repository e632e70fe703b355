"""Numbers in words, and the cards that README and the report open with: what the course report says, and ours."""

import operator
import statistics
from typing import Any, NamedTuple

# What a reader sees in the place of a measure's name; pixels are in [0, 1], R² and accuracies at most 1.
WORDS = {
    "l1": "L1 per pixel",
    "mse": "MSE per pixel",
    "bce": "binary cross-entropy per pixel, nats",
    "cross_entropy": "cross-entropy, nats",
    "accuracy": "accuracy",
    "averaged_accuracy": "accuracy, averaged over warped copies",
    "reading_accuracy": "accuracy of an independent reader",
    "linear_probe_accuracy": "accuracy of a linear probe",
    "within_digit_variance_explained": "share of the variance within a digit explained",
    "within_class_std_ratio": "share of the standard deviation within a digit kept",
    "latent_within_class_share": "within-digit share of the latents' variance",
    "latent_silhouette": "silhouette of the latents (1: far apart)",
    "lowest_loss_iteration": "iteration of the lowest test loss",
    "last_loss_over_lowest": "last test loss over the lowest",
    "last_accuracy_from_iteration": "iteration from which the labelled images are read as in the end",
}
for _name in ("slant", "thickness", "size"):
    WORDS[f"{_name}_ridge_r2"] = f"{_name} within a digit, linear, R²"
    WORDS[f"{_name}_neighbours_r2"] = f"{_name} within a digit, neighbours, R²"
key = operator.itemgetter("step", "model", "measure", "split")  # what names a number


class Card(NamedTuple):
    """What the course report says, where that is measured, and what judges it: a claim of summary.json that begins with
    ``name``, or ``claim``, which is like those. The number shown is the model's, or its ``difference`` to the other.
    """

    name: str
    says: str
    step: str
    figure: str
    claim: dict[str, Any] | None = None
    difference: bool = False


def _claim(after: str, before: str, measure: str, wanted: str, split: str = "test") -> dict[str, Any]:
    """Return a claim about ``after`` on ``split``, against ``before`` on test images."""
    return {"after": [after], "before": before, "split": split, "panels": {measure: [WORDS[measure], wanted]}}


CARDS = (
    Card("Q1", "The trained autoencoder gives digits back.", "q1_autoencoder", "reconstructions.png",
         _claim("Q1", "PCA-12", "mse", "lower")),
    Card("Q2", "The same encoder and a small head learn to tell digits apart.", "q2_classifier", "mistakes.png",
         _claim("Q2", "3 nearest neighbours on pixels", "accuracy", "higher")),
    Card("Q3", "On the classifier's frozen encoder a new decoder learns to draw digits.", "q3_frozen_decoder",
         "comparison.png", _claim("Q3", "digit's mean image", "mse", "lower")),
    Card("(a)", "Q1's encoder keeps all that a decoder needs, the classifier's what tells the digits apart.",
         "q3_frozen_decoder", "claim_a.png"),
    Card("(b)", "Variability within a digit is higher in Q1: Q3 draws a typical digit rather than this one.",
         "q3_frozen_decoder", "claim_b.png"),
    Card("(c)", "Digits are separated about as well in Q3, or slightly better.", "q3_frozen_decoder", "claim_c.png"),
    Card("The reason given for (c)", "Q3 is more heterogeneous.", "q3_frozen_decoder", "claim_b.png"),
    Card("Q4", "From scratch on few labelled images, the classifier over-fits.", "q4_few_shot", "classifier.png",
         _claim("scratch, plain", "scratch, plain", "accuracy", "higher", "labelled"), difference=True),
    Card("Q4, autoencoder", "From scratch on few images, the autoencoder over-fits.", "q4_few_shot",
         "reconstructions.png", _claim("autoencoder", "autoencoder", "mse", "lower", "labelled"), difference=True),
    Card("Q5", "On the same images but from Q1's weights, the classifier is better.", "q5_transfer", "curve.png",
         _claim("fine-tuned, plain", "scratch, plain", "accuracy", "higher"), difference=True),
    Card("Q5, over-fitting", "From Q1's weights, over-fitting remains.", "q5_transfer", "accuracy.png",
         _claim("fine-tuned, plain", "fine-tuned, plain", "accuracy", "higher", "labelled"), difference=True),
)  # fmt: skip

# README's tables: what a column shows, by measure; then its rows, of a label, step and model.
TABLES = (
    ("", {measure: WORDS[measure] for measure in ("mse", "l1", "within_digit_variance_explained")}, (
        ("**Q1**, `q1_autoencoder.py`", "q3_frozen_decoder", "Q1"),
        ("**Q3**, decoder on Q2's frozen encoder, `q3_frozen_decoder.py`", "q3_frozen_decoder", "Q3"),
        ("Q3 on a Q2 without warps and label smoothing", "q3_frozen_decoder", "Q3 on plain Q2"),
        ("Q3 on a random frozen encoder", "q3_frozen_decoder", "random encoder"),
        ("12 principal components", "q3_frozen_decoder", "PCA-12"),
        ("the digit's mean image", "q3_frozen_decoder", "digit's mean image"),
        ("Q4, autoencoder of 100 images", "q4_few_shot", "autoencoder"),
        ("12 principal components of the same 100 images", "q4_few_shot", "PCA-12 of the same images"),
    )),
    (" | labels", {"accuracy": "test accuracy", "averaged_accuracy": "averaged over warped copies"}, (
        ("**Q2**, `q2_classifier.py` | 55,000", "q2_classifier", "Q2"),
        ("3 nearest neighbours on pixels | 55,000", "q2_classifier", "3 nearest neighbours on pixels"),
        ("**Q4**, plain, `q4_few_shot.py` | 100", "q4_few_shot", "scratch, plain"),
        ("Q4, augmented | 100", "q4_few_shot", "scratch, augmented"),
        ("Q5, a random encoder frozen, plain | 100", "q5_transfer", "random frozen, plain"),
        ("Q5, Q1's encoder frozen, plain | 100", "q5_transfer", "frozen, plain"),
        ("**Q5**, Q1's encoder fine-tuned, plain, `q5_transfer.py` | 100", "q5_transfer", "fine-tuned, plain"),
        ("Q5, Q1's encoder fine-tuned, augmented | 100", "q5_transfer", "fine-tuned, augmented"),
        ("Q5, spread | 100", "q5_transfer", "spread labels, augmented"),
        ("logistic regression on pixels | 100", "q4_few_shot", "logistic regression on pixels"),
    )),
)  # fmt: skip


def claims(step: str) -> list[dict[str, Any]]:
    """Return the claims about a step that its script does not make, in summary.json's form."""
    of_step = (card for card in CARDS if card.claim and card.step == step)
    return [{"claim": f"{card.name}: {card.says}", **card.claim} for card in of_step]


def summarise(number: dict[str, Any]) -> dict[str, Any]:
    """Return a number of ``report.pool`` with mean, std (None for one value or equal ones) and n of all its values."""
    values = [value for of_seed in number["values"].values() for value in of_seed]
    mean, std = statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0
    return number | {"mean": mean, "std": std if std > 1e-6 * abs(mean) else None, "n": len(values)}


def formatted(entry: dict[str, Any]) -> str:
    """Word a number with its standard deviation: accuracies in per cent, others with four decimals."""
    scale, digits, sign = (100, 2, "%") if entry["measure"].endswith("accuracy") else (1, 4, "")
    text, std = f"{scale * entry['mean']:.{digits}f}{sign}", scale * (entry.get("std") or 0.0)
    form = f".{digits}f" if std >= 0.5 * 10**-digits else ".0e"  # never "± 0.0000"
    return f"{text} ± {std:{form}}" if std else text


def difference(entry: dict[str, Any]) -> str:
    """Word a difference with its 95 % interval, if it has one: accuracies in points, others with four decimals."""
    scale, digits, unit = (100, 2, " points") if entry["measure"].endswith("accuracy") else (1, 4, "")
    mean, *ends = (f"{scale * entry[name]:+.{digits}f}" for name in ("mean", "low", "high") if entry[name] is not None)
    return f"{mean} ({' to '.join(ends)}){unit}" if ends else mean + unit


def cards(pooled: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the cards of what was measured, from ``report.pool``: verdict, number, ``what`` it is, and controls."""
    numbers, made = {key(number): summarise(number) for number in pooled["numbers"]}, []
    for card in CARDS:
        begins = (f"{card.name} ", f"{card.name}: ")
        about = [of for of in pooled["claims"] if of["step"] == card.step and of["claim"].startswith(begins)]
        if not about:
            continue
        claim, *controls = about
        after, before, split = (claim[name] for name in ("after", "before", "split"))
        entry = claim["compared"][0]
        words, against = WORDS[entry["measure"]], formatted(numbers[card.step, before, entry["measure"], "test"])
        if not card.difference:
            number = formatted(numbers[card.step, after, entry["measure"], split])
            what = f"{words}, {after}; {before}: {against}"
        else:
            minus = f"{after} minus {before}" if after != before else f"{after}, {split} minus test images"
            number, what = difference(entry), f"{words}: {minus} (the latter: {against})"
        also = [f"{of['after']}: {of['verdict']}" for of in controls if of["verdict"] != "one seed"]
        made.append(card._asdict() | {"verdict": claim["verdict"], "number": number, "what": what, "controls": also})
    return made


def markdown(pooled: dict[str, Any], folder: str) -> str:
    """Return the cards as a table in Markdown, the figures in ``folder``, and ``TABLES`` of what was measured."""
    lines = ["| | the course report says | verdict | measured | |", "|---|---|---|---|---|"]
    for card in cards(pooled):
        figure = f"{folder}/{card['step']}/{card['figure']}"
        verdict = "; ".join([f"**{card['verdict']}**", *card["controls"]])
        cells = (card["name"], card["says"], verdict, f"**{card['number']}** {card['what']}")
        lines.append(f'| {" | ".join(cells)} | [<img src="{figure}" width="120" alt="{card["name"]}">]({figure}) |')
    numbers = {key(number): formatted(summarise(number)) for number in pooled["numbers"]}
    for heading, columns, rows in TABLES:
        head = f"|{heading} | {' | '.join(columns.values())} |"
        lines += ["", head, "|---" * (head.count("|") - 1) + "|"]
        for label, step, model in rows:
            cells = [numbers.get((step, model, measure, "test"), "") for measure in columns]
            lines += [f"| {label} | {' | '.join(cells)} |"] if any(cells) else []
    return "\n".join(lines) + "\n"
