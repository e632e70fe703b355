"""Q5: what is Q1's encoder worth when labels are few?

Trains Q4's classifier on Q4's draws, with an encoder that starts from Q1's weights: frozen, fine-tuned, and fine-tuned
on labels that spread over the unlabelled images, along neighbours in the latents of Q1 and of its variant that undoes
warps. Every difference is paired, draw by draw. Fine-tuning gains 7.71 points without augmentation (95 % interval 6.65
to 8.76) and 0.37 with it (0.15 to 0.59); on spread labels the classifier reads 98.06 +- 0.16 % of the test images,
98.34 +- 0.16 % averaged over warped copies of each (100 labels, 15 balanced draws, 5 of each of 3 seeds). The settings,
those of common/few_shot.py, were chosen on the validation images with other draws.

    python q5_transfer.py            # 2.3 minutes on 2 CPU cores
    python q5_transfer.py --curve    # 6 minutes, also from 1 to 100 labels per digit

Needs the checkpoints of q1_autoencoder.py and q1_autoencoder.py --undo in the same output folder. The classifiers from
scratch are those of q4_few_shot.py where it has run with the same options, and are trained here otherwise.
Writes config.json, metrics.jsonl, summary.json, table.md, a checkpoint of every run, loss.png, accuracy.png,
comparison.png and, with --curve, curve.png to <output-dir>/q5_transfer/.
"""

import copy
import dataclasses
import re
import time
import warnings
from functools import partial
from pathlib import Path
from statistics import fmean

import numpy
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.neighbors import NearestNeighbors
from sklearn.semi_supervised import LabelSpreading
from torch import Tensor
from tqdm import tqdm

from common import checkpoint, data, few_shot, plots, run, train
from common.augment import STRONG_WARP
from common.few_shot import Draw, Outcome, Outcomes
from common.losses import classification_loss
from common.models import Autoencoder, Encoder, frozen

NEIGHBOURS = 10
SPREADING = {"alpha": 0.99, "max_iter": 50}  # alpha as in Zhou et al. 2004; more iterations label no better
LEVELS = {1, 2, 5, 10, 20, 50, 100}  # labels per digit in curve.png
CURVE_DRAWS = 3  # of the balanced draws, the first ones


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(few_shot.Options):
    spread_epochs: int = 2
    """Passes over the 55,000 training images with spread labels."""
    spread_batch_size: int = 256
    """Images per training iteration on spread labels."""
    curve: bool = False
    """Also train with 1 to 100 labels per digit, from scratch and fine-tuned."""

    def __post_init__(self) -> None:
        super().__post_init__()
        run.require(self, "spread_epochs", "spread_batch_size", least=1, most=10**9)


def scratch(draw: Draw, sizes: dict) -> Encoder:
    """Return Q4's encoder, which has seen nothing."""
    return Encoder(**sizes, generator=run.generator(draw.seed, "encoder"))


def pretrained(draw: Draw, q1: Autoencoder) -> Encoder:
    """Return a copy of Q1's encoder, the same one for every draw."""
    return copy.deepcopy(q1.encoder)


def neighbour_graph(points: NDArray) -> csr_matrix:
    """Return the symmetric weights (N, N) of each point's 10 nearest neighbours.

    exp(-d^2 / (s s')), where s is a point's distance to its tenth neighbour (Zelnik-Manor & Perona 2004), summed over
    the two directions.
    """
    distances, neighbours = NearestNeighbors(n_neighbors=NEIGHBOURS, algorithm="brute").fit(points).kneighbors()
    scale = distances[:, -1:]
    weights = numpy.exp(-(distances**2) / (scale * scale[neighbours, 0]))
    ends = numpy.arange(0, weights.size + 1, NEIGHBOURS)
    graph = csr_matrix((weights.ravel(), neighbours.ravel(), ends), shape=(len(points), len(points)))
    return graph + graph.T


def spread(graph: csr_matrix, draw: Draw, labels: NDArray) -> NDArray:
    """Return labels (N,) of all training images, spread from those of the draw over the graph (Zhou et al. 2004)."""
    indices = draw.indices.numpy()
    known = numpy.full(len(labels), -1)
    known[indices] = labels[indices]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # of the iterations
        spreading = LabelSpreading(kernel=lambda *_: graph, **SPREADING).fit(labels[:, None], known)
    return spreading.transduction_


def accuracy_of_unlabelled(found: NDArray, draw: Draw, labels: NDArray) -> float:
    """Return the share of right labels among the training images that are not of the draw."""
    return float(numpy.delete(found == labels, draw.indices.numpy()).mean())


def fit_spread(
    draw: Draw,
    labels: dict[str, Tensor],
    undoing: Autoencoder,
    dataset: data.Dataset,
    config: Config,
    folder: Path,
) -> Outcome:
    """Fine-tune the undoing encoder and a new head on all training images under their spread labels."""
    name = f"spread_{draw.name}".replace(" ", "_")
    model = few_shot.classifier(pretrained(draw, undoing), draw, dataset.train.images.device)
    history = train.fit(
        model,
        partial(classification_loss, smoothing=config.label_smoothing),
        data.Split(dataset.train.images, labels[draw.name]),
        {"examples": dataset.train[draw.indices], "test": dataset.test},
        epochs=config.spread_epochs,
        batch_size=config.spread_batch_size,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        seed=draw.seed,
        transform=STRONG_WARP,
        snapshot=folder / f"{name}_{run.SNAPSHOT}",
    )
    path = folder / f"{name}.pt"
    return few_shot.outcome(path, model, history, classification_loss, draw, dataset, config, averaged=True)


# What is compared, draw by draw: the first against the second.
COMPARISONS = [
    ("frozen/plain", "random frozen/plain"),
    ("frozen/augmented", "random frozen/augmented"),
    ("frozen/plain", "scratch/plain"),
    ("frozen/augmented", "scratch/augmented"),
    ("fine-tuned/plain", "scratch/plain"),
    ("fine-tuned/augmented", "scratch/augmented"),
    ("spread/augmented", "scratch/augmented"),
]


def effect(difference: dict[str, float]) -> str:
    """Word a paired difference of accuracies."""
    low, high = 100 * difference["low"], 100 * difference["high"]
    word = "gain" if low > 0 else "loss" if high < 0 else "difference, its sign uncertain,"
    return f"a {word} of {100 * difference['mean']:+.2f} points (95 % interval {low:+.2f} to {high:+.2f})"


def verdicts(differences: dict[str, dict[str, float]], labels: int) -> list[str]:
    """Say what pretraining is worth, worded from the paired differences."""
    regimes = {regime: differences[f"fine-tuned/{regime} - scratch/{regime}"] for regime in few_shot.REGIMES}
    sentences = [
        f"With {labels} labels, starting from Q1's encoder is {effect(regimes['plain'])} without augmentation and"
        f" {effect(regimes['augmented'])} with it, against the same classifier from scratch"
    ]
    spread = differences["spread/augmented - scratch/augmented"]
    averaged = differences["spread/augmented - scratch/augmented, averaged"]
    sentences.append(
        f"Using the unlabelled images a second time, to spread the labels, is {effect(spread)}; with answers averaged"
        f" over warps {effect(averaged)}"
    )
    return sentences


def equal_shots(levels: list[int], scratch: NDArray, transfer: float, shots: int) -> str:
    """Say with how many labels per digit the curve from scratch reaches the accuracy ``transfer`` has with ``shots``.

    ``scratch`` are mean accuracies (len(levels),), interpolated over the logarithm of the labels.
    """
    rising = numpy.maximum.accumulate(scratch)
    if transfer <= rising[levels.index(shots)]:
        return f"with {shots} per digit: no gain over scratch"
    if transfer > rising[-1]:
        return f"{shots} per digit fine-tuned equal more than {levels[-1]} from scratch"
    equal = numpy.exp(numpy.interp(transfer, rising, numpy.log(levels)))
    return f"{shots} per digit fine-tuned equal {equal:.0f} from scratch"


def spread_everywhere(
    encoders: dict[str, Encoder], dataset: data.Dataset, draws: list[Draw]
) -> tuple[dict[str, NDArray], Outcomes]:
    """Spread each draw's labels over graphs of the training images: by the latents of each encoder, over all of these
    at once and, as controls, by principal components of the pixels, as many as latents and four times as many.

    Returns the labels by all latents, by name of the draw, and the accuracy of all on the "unlabelled" images.
    """
    labels = dataset.train.labels.cpu().numpy()
    pixels = dataset.train.images.flatten(1).cpu().numpy()
    points = {name: train.apply(encoder, dataset.train.images).cpu().numpy() for name, encoder in encoders.items()}
    count = next(iter(points.values())).shape[1]
    components = PCA(min(4 * count, pixels.shape[1]), random_state=0).fit_transform(pixels)
    points |= {f"PCA-{kept}": components[:, :kept] for kept in (count, components.shape[1])}
    graphs = {
        name: neighbour_graph(where)
        for name, where in tqdm(points.items(), desc="neighbours", leave=False, disable=None)
    }
    graphs["both latents"] = sum(graphs[name] for name in encoders)
    spread_labels, right = {}, {}
    for name, graph in tqdm(graphs.items(), desc="spreading labels", leave=False, disable=None):
        spread_labels[name] = {draw.name: spread(graph, draw, labels) for draw in draws}
        right[name] = {
            draw.name: Outcome(
                [], {"unlabelled": {"accuracy": accuracy_of_unlabelled(spread_labels[name][draw.name], draw, labels)}}
            )
            for draw in draws
        }
    return spread_labels["both latents"], right


def label_curve(
    starts: dict, outcomes: Outcomes, dataset: data.Dataset, config: Config, folder: Path
) -> dict[int, dict[str, list[float]]]:
    """Train from scratch and fine-tune with 1 to 100 labels per digit: labels -> variant -> test accuracy of each draw.

    With as many labels as ``outcomes`` have, those are taken.
    """
    accuracies = {}
    for shots in sorted(LEVELS | {config.shots}):
        options = dataclasses.replace(config, shots=shots, draws=min(CURVE_DRAWS, config.draws))
        draws = few_shot.draws(dataset.train.labels, options)[1:]
        found = outcomes
        if shots != config.shots:
            where = folder / "curve" / f"{shots}_per_digit"
            where.mkdir(parents=True, exist_ok=True)
            found = few_shot.classify(starts, draws, dataset, options, where, evaluated=False)
        accuracies[shots] = {
            f"{start}/{regime}": [found[f"{start}/{regime}"][draw.name].metrics["test"]["accuracy"] for draw in draws]
            for start in starts
            for regime in few_shot.REGIMES
        }
    return accuracies


def draw_label_curve(
    path: Path, curve: dict[int, dict[str, list[float]]], dataset: data.Dataset, shots: int
) -> list[str]:
    """Draw the curve and say for each regime how many labels from scratch ``shots`` fine-tuned equal."""
    levels = list(curve)
    panels = {
        regime: {
            start: numpy.array([curve[level][f"{start}/{regime}"] for level in levels])
            for start in ("scratch", "fine-tuned")
        }
        for regime in few_shot.REGIMES
    }
    notes = {
        regime: equal_shots(levels, found["scratch"].mean(1), found["fine-tuned"].mean(1)[levels.index(shots)], shots)
        for regime, found in panels.items()
    }
    plots.label_curve(
        path,
        levels,
        panels,
        f"How many labels is pretraining worth? Mean and range of {panels['plain']['scratch'].shape[1]} draws",
        f"accuracy on {len(dataset.test):,} test images",
        notes,
    )
    return [f"{regime}: {note}" for regime, note in notes.items()]


def main(config: Config) -> dict:
    """Train on every draw, save, reload, measure, compare, draw; return the summary."""
    started = time.perf_counter()
    device = run.device(config)
    paths = [config.output_dir / name / "model.pt" for name in ("q1_autoencoder", "q1_autoencoder-undo")]
    q1, undoing = (checkpoint.load(path, Autoencoder, config.dataset) for path in paths)
    sizes = q1.model.encoder.arguments
    dataset = data.load(config.dataset, config.data_dir, device)
    upstream = {path: saved.sha256 for path, saved in zip(paths, (q1, undoing), strict=True)}
    provenance = run.provenance(config, __file__, device, dataset.fingerprint, upstream)
    folder = run.start(config, __file__, provenance)
    draws = few_shot.draws(dataset.train.labels, config)
    for saved in (q1, undoing):
        saved.model.to(device, memory_format=torch.channels_last)

    from_scratch = {"scratch": partial(scratch, sizes=sizes)}
    fine_tuned = {"fine-tuned": partial(pretrained, q1=q1.model)}
    untrained = {
        "random frozen": lambda draw: frozen(scratch(draw, sizes)),
        "frozen": lambda draw: frozen(pretrained(draw, q1.model)),
    }
    outcomes = few_shot.finished(config.output_dir / "q4_few_shot", provenance, sizes)
    if outcomes is None:
        print("no finished q4_few_shot.py with these options: its classifiers are trained here")
        outcomes = few_shot.classify(from_scratch, draws, dataset, config, folder)
    outcomes |= few_shot.classify(untrained | fine_tuned, draws, dataset, config, folder)

    encoders = {"latents": q1.model.encoder, "undoing latents": undoing.model.encoder}
    spread_labels, right = spread_everywhere(encoders, dataset, draws)
    as_tensors = {name: torch.from_numpy(found).to(device) for name, found in spread_labels.items()}
    train_one = partial(
        fit_spread, labels=as_tensors, undoing=undoing.model, dataset=dataset, config=config, folder=folder
    )
    found = few_shot.in_threads(train_one, draws, dataset, "classifiers on spread labels")
    outcomes["spread/augmented"] = {draw.name: each for draw, each in zip(draws, found, strict=True)}
    accuracies = {name: few_shot.values(by_draw) for name, by_draw in outcomes.items()}
    differences = {
        f"{after} - {before}": few_shot.paired(accuracies[after], accuracies[before]) for after, before in COMPARISONS
    }
    averaged = [few_shot.values(outcomes[f"{start}/augmented"], "averaged_accuracy") for start in ("spread", "scratch")]
    differences["spread/augmented - scratch/augmented, averaged"] = few_shot.paired(*averaged)

    labelled = len(draws[1].indices)
    few_shot.draw_curves(
        folder,
        {
            f"{name}, {regime}": outcomes[f"{start}/{regime}"]
            for start, name in (("scratch", "Q4, scratch"), ("fine-tuned", "Q5, fine-tuned"))
            for regime in few_shot.REGIMES
        },
        f"{labelled} labelled images, from scratch and with Q1's encoder",
    )
    order = sorted(outcomes, key=lambda variant: (variant.split("/")[1] == "augmented", fmean(accuracies[variant])))
    rows = {variant.replace("/", ", "): outcomes[variant] for variant in order}
    title = f"What Q1's encoder adds to {labelled} labelled images"
    few_shot.draw_comparison(folder / "comparison.png", rows, title, dataset)
    run.write(folder / "table.md", few_shot.table(rows))

    conclusions = verdicts(differences, labelled)
    shares = [f"{fmean(few_shot.values(found, split='unlabelled')):.1%} by {name}" for name, found in right.items()]
    conclusions.append(f"Of the labels spread over the unlabelled images are right: {', '.join(shares)}")
    spread_right = {f"spread_{re.sub('[ -]', '_', name.lower())}": by_draw for name, by_draw in right.items()}
    summary = {
        "metrics": few_shot.quoted(outcomes),
        "baselines": few_shot.quoted(spread_right),
        "paired": differences,
        "verdicts": conclusions,
        "draws": few_shot.metrics_by_draw(outcomes | spread_right),
    }
    if config.curve:
        curve = label_curve(from_scratch | fine_tuned, outcomes, dataset, config, folder)
        conclusions += draw_label_curve(folder / "curve.png", curve, dataset, config.shots)
        for shots, by_variant in curve.items():
            for variant, found in by_variant.items():
                summary["metrics"] |= run.quoted({"accuracy": found}, "test", f"{shots}_per_digit/{variant}")
    summary["seconds"] = time.perf_counter() - started
    run.finish(folder, provenance, few_shot.records(outcomes), summary)
    print((folder / "table.md").read_text("utf-8"), end="")
    print(*conclusions, sep="\n")
    print(f"figures and numbers: {folder}")
    return summary


if __name__ == "__main__":
    run.command_line(main, Config)
