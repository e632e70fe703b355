"""Q5: what is Q1's encoder worth when labels are few?

Trains Q4's classifier from Q1's encoder: frozen, fine-tuned (+6.89 points plain, 95 % interval 5.68 to 8.09; augmented
-0.08, -0.20 to 0.04), and on labels spread over unlabelled images, 98.25 ± 0.42 % (10 seeds).

    python q5_transfer.py    # 4.9 minutes of one CPU core

Needs the results of q1_autoencoder.py, q1_autoencoder.py --undo and q4_few_shot.py in the same output folder. Writes
config.json, metrics.jsonl, summary.json, a checkpoint of every fit and *.png to <output-dir>/q5_transfer/.
"""

import copy
import dataclasses
import itertools
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common import checkpoint, data, few_shot, label_spreading, plots, run
from common.few_shot import Outcome, Outcomes, Subset
from common.losses import classification_scores
from common.models import Classifier, Encoder, Head, frozen

# Variant -> where the encoder starts from, the regime, and which labels if not the given ones alone; CURVE's too.
VARIANTS = {f"{start}, plain": (start, "plain", None) for start in ("random frozen", "frozen", "fine-tuned")}
VARIANTS["fine-tuned, augmented"] = ("fine-tuned", "augmented", None)
VARIANTS[SPREAD := "spread labels, augmented"] = ("undo", "spread", "both latents")
# What start and labels add, in a shorter training on a seed's first subset.
SOURCES = ("Q4's answers", "PCA-48", "Q1 latents", "both latents")
PARTS = {f"labels by {source}": ("undo", "short spread", source) for source in SOURCES}
PARTS |= {"undo, augmented": ("undo", "augmented", None),
          "scratch, spread labels": ("scratch", "short spread", "both latents")}  # fmt: skip
FROM_Q4 = ("scratch, plain", "scratch, augmented")
AVERAGED = ("fine-tuned, augmented", SPREAD)  # also measured over warped copies
COMPARISONS = (  # after, before, perhaps what is measured
    ("frozen, plain", "random frozen, plain"), ("frozen, plain", "fine-tuned, plain"),
    ("fine-tuned, plain", "scratch, plain"), ("fine-tuned, augmented", "scratch, augmented"),
    ("undo, augmented", "scratch, augmented"), ("scratch, spread labels", "scratch, augmented"),
    *(("labels by both latents", before) for before in PARTS if before != "labels by both latents"),
    ("labels by both latents", "scratch, augmented"), (SPREAD, "labels by both latents"),
    (SPREAD, "scratch, augmented"), (SPREAD, "scratch, augmented", "averaged_accuracy"),
)  # fmt: skip
CURVE, SHOTS = {"scratch": "scratch", "frozen": "plain", "fine-tuned": "plain"}, (1, 2, 5, 10, 20, 50, 100)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(run.Options):  # which images are labelled, and how long they are shown, is Q4's to say
    learning_rate: float = 2.5e-3
    """Peak of the one-cycle schedule from given weights without augmentation; all other fits have Q4's."""
    weight_decay: float = 0.3
    """AdamW's decoupled weight decay, likewise."""
    spread_epochs: int = 4
    """Passes over the 55,000 training images with spread labels, 256 images per iteration."""


def build(start: str, subset: Subset, encoders: dict[str, Encoder]) -> Classifier:
    """Compose an encoder with a new head: only where the encoder comes from, and whether it trains, differs."""
    # A random frozen one shows what the weights of Q1 are worth beyond the architecture.
    pretrained = encoders["undo" if start == "undo" else "Q1"]
    new = Encoder(**pretrained.arguments, generator=run.generator(subset.seed, "encoder"))
    encoder = new if start in ("scratch", "random frozen") else copy.deepcopy(pretrained)
    if start in ("frozen", "random frozen"):
        frozen(encoder)
    return Classifier(encoder, Head(encoder.arguments["latent_dim"], generator=run.generator(subset.seed, "head")))


def loss(model: nn.Module, inputs: Tensor, targets: Tensor, config: Any) -> tuple[Tensor, dict[str, Tensor]]:
    """Return what is minimised, and all scores."""
    logits = model(inputs)  # (B, 10)
    # A mean over B of -sum t log softmax(logits); smoothing 0.1: t is 0.91 on the label, 0.01 elsewhere.
    smoothed = F.cross_entropy(logits, targets, label_smoothing=config.label_smoothing)
    return smoothed, classification_scores(logits, targets)


def figures(folder: Path, outcomes: Outcomes, end: str) -> dict[str, str]:
    """Plot what the question asks to see; return the captions by file, with ``end`` at their titles' end."""
    panels = {name: outcomes[name] for name in (*FROM_Q4, "fine-tuned, plain", "fine-tuned, augmented")}
    names = {start: [f"{start}, {shots} per digit" for shots in SHOTS] for start in CURVE}
    plain = {start: outcomes[f"{start}, plain"] for start in CURVE}  # has the shots that have no other name
    curve = {start: [few_shot.values(outcomes.get(of, plain[start])) for of in names[start]] for start in CURVE}
    *reading, worth = few_shot.worth(SHOTS, curve)
    gaps, read = map(few_shot.gap, panels.values()), (fmean(few_shot.values(outcomes[of])) for of in (*panels, SPREAD))
    overfitting = "Over-fitting by {:.1f} points, augmented {:.1f}; fine-tuned {:.1f}, augmented {:.1f}".format(*gaps)
    comparison = "Scratch {:.1%}, augmented {:.1%}; fine-tuned {:.1%}, augmented {:.1%}; spread {:.1%}".format(*read)
    captions = {
        "accuracy.png": f"{overfitting}{end}. The title is of all test images, the curves of the first"
        f" {few_shot.CURVE_IMAGES:,}",
        "comparison.png": f"{comparison}{end}. A dot is a subset; below the spread labels, what start and labels add"
        " in a shorter training",
        "curve.png": f"{worth}{end}. Without augmentation; a band is the range of the subsets",
    }
    plots.plot_few_shot_curves(folder / "accuracy.png", captions["accuracy.png"], panels, "accuracy")
    plots.plot_dots(folder / "comparison.png", captions["comparison.png"], outcomes, *FROM_Q4, *VARIANTS, *PARTS)
    plots.plot_label_curve(folder / "curve.png", captions["curve.png"], SHOTS, curve, reading)
    return captions


def main(config: Config) -> dict:
    """Load; for every variant and subset build, train, save, reload, measure; plot; return the summary."""
    folder_of_q4 = config.output_dir / "q4_few_shot"
    step = run.start(config, "q5_transfer", ("q1_autoencoder", "q1_undo", folder_of_q4.name))
    saved = [checkpoint.load(config.output_dir / of / "model.safetensors") for of in ("q1_autoencoder", "q1_undo")]
    encoders = {name: of.model.encoder.to(step.device) for name, of in zip(("Q1", "undo"), saved, strict=True)}
    sizes = {name: encoders["Q1"].arguments[name] for name in ("latent_dim", "hidden_relu")}
    if encoders["undo"].arguments != encoders["Q1"].arguments:
        raise run.InputError(f"got {encoders['undo'].arguments} in q1_undo, expected {sizes}: run it again like Q1")
    results_of_q4, q4 = few_shot.read(folder_of_q4, seed=config.seed, **sizes)
    outcomes = {variant: results_of_q4[variant] for variant in FROM_Q4}
    dataset = data.load(config.dataset, config.data_dir, step.device)
    of_q4 = (q4.plain_learning_rate, q4.plain_weight_decay), (q4.learning_rate, q4.weight_decay)
    regimes = dict(zip(("scratch", "augmented"), few_shot.regimes(q4, *of_q4), strict=True))
    regimes["plain"] = regimes["scratch"]._replace(learning_rate=config.learning_rate, weight_decay=config.weight_decay)
    for name, epochs in (("spread", config.spread_epochs), ("short spread", 2)):  # enough to compare
        regimes[name] = regimes["augmented"]._replace(images=epochs * len(dataset.train), batch_size=256)
    loss_fn = partial(loss, config=q4)
    first, *balanced = few_shot.subsets(dataset.train.targets, q4.shots, q4.subsets, config.seed)
    labels = label_spreading.compare(dataset.train, encoders, balanced)
    labels["Q4's answers"] = few_shot.answers(folder_of_q4, "scratch, augmented", dataset.train, balanced)

    def train_one(variant: str, subset: Subset) -> Outcome:
        start, regime, by = plan[variant]
        model = build(start, subset, encoders).to(step.device, memory_format=torch.channels_last)
        few = dataset.train[subset.indices]
        examples = data.Split(dataset.train.inputs, labels[by][subset.name]) if by else few
        seed, curve, averaged = subset.seed, variant in VARIANTS, variant in AVERAGED
        history = few_shot.fit(model, loss_fn, examples, few, dataset.test, regimes[regime], seed, curve)
        return few_shot.measured(step.folder, variant, subset, model, history, loss_fn, dataset, config, averaged)

    plan, jobs = VARIANTS | PARTS, [(variant, subset) for variant in VARIANTS for subset in balanced]
    jobs += [(variant, first) for variant in VARIANTS if variant != SPREAD] + [(part, balanced[0]) for part in PARTS]
    for (start, regime), shots in itertools.product(CURVE.items(), (few for few in SHOTS if few != q4.shots)):
        plan[f"{start}, {shots} per digit"] = (start, regime, None)
        larger = few_shot.subsets(dataset.train.targets, shots, q4.subsets, config.seed)[1:]
        jobs += [(f"{start}, {shots} per digit", subset) for subset in larger]
    outcomes |= few_shot.side_by_side(train_one, jobs, step.device)
    paired = [few_shot.compared(outcomes, *names) for names in COMPARISONS]
    answer = [few_shot.in_words(difference) for difference in paired]
    answer += [few_shot.overfitting(name, outcomes[name]) for name in ("fine-tuned, plain", *AVERAGED)]
    answer.append("one seed shares one encoder and has no interval: outputs/reference/report.html has those over seeds")
    numbers = few_shot.numbers(outcomes, (*VARIANTS, *PARTS))
    for by, of in labels.items():
        right = [label_spreading.share_right(of[subset.name], subset, dataset.train) for subset in balanced]
        answer.append(f"labels by {by}: {fmean(right):.2%} right")
        numbers += run.numbers(f"labels by {by}", {"accuracy": right}, "unlabelled")
    fits, texts = few_shot.records(outcomes), figures(step.folder, outcomes, f" (seed {config.seed})")
    return step.finish(dataset.fingerprint, fits, answer=answer, numbers=numbers, figures=texts, paired=paired)


if __name__ == "__main__":
    run.command_line(main, Config)
