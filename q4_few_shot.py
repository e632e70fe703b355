"""Q4: how far do 100 labelled images go, from scratch?

Trains classifier and autoencoder on class-balanced random subsets and on `first`, the first training images. Of
test images the classifier reads 81.4 ± 2.4 % plain, 96.7 ± 0.5 % augmented (30 subsets of 100, 3 of each of 10 seeds).

    python q4_few_shot.py    # 1.5 minutes of one CPU core

Needs nothing; fetches the data on first use.
Writes config.json, metrics.jsonl, summary.json, a checkpoint of every fit and *.png to <output-dir>/q4_few_shot/.
"""

import dataclasses
from functools import partial
from pathlib import Path
from statistics import fmean

import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor, nn

from common import data, examples, few_shot, plots, representation, run
from common.few_shot import Outcome, Outcomes, Subset
from common.losses import classification_scores, reconstruction_errors
from common.models import Autoencoder, Classifier, Decoder, Encoder, Head

PIXEL_CLASSIFIERS = {
    "nearest neighbour on pixels": KNeighborsClassifier(1),
    "logistic regression on pixels": LogisticRegression(max_iter=1_000),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(run.Options):
    subsets: int = 3
    """Class-balanced labelled subsets, 2 to 999, beside `first`, the first training images."""
    shots: int = 10
    """Labelled images per digit."""
    latent_dim: int = 12
    """Numbers that the encoder ends in, 2 to 784; 12 is this repository's assumption."""
    hidden_relu: bool = True
    """ReLU between two linear layers that follow one another; the report names none."""
    plain_iterations: int = 300
    """Training iterations without augmentation, about: each image is seen equally often."""
    plain_batch_size: int = 50
    """Images per training iteration without augmentation."""
    iterations: int = 1_500
    """Training iterations with augmentation, about."""
    batch_size: int = 100
    """Images per training iteration with augmentation."""
    plain_learning_rate: float = 0.04
    """Peak of the one-cycle schedule of a classifier without augmentation; from 0.08 on some fits fail."""
    plain_weight_decay: float = 1.0
    """AdamW's decoupled weight decay of a classifier without augmentation."""
    learning_rate: float = 0.01
    """Peak of the schedule with augmentation, and of an autoencoder, for a layer of fan-in 128."""
    weight_decay: float = 0.3
    """AdamW's decoupled weight decay with augmentation, and of an autoencoder."""
    label_smoothing: float = 0.1
    """Weight that the loss, not the metric, takes from the label and gives to all classes alike."""


def build(config: Config, variant: str, subset: Subset) -> Classifier | Autoencoder:
    """Compose an encoder that has seen nothing with a head, or with its mirror image; everything trains."""
    sizes = {"latent_dim": config.latent_dim, "hidden_relu": config.hidden_relu}
    encoder = Encoder(**sizes, generator=run.generator(subset.seed, "encoder"))
    if variant == "autoencoder":
        return Autoencoder(encoder, Decoder(**sizes, generator=run.generator(subset.seed, "decoder")))
    return Classifier(encoder, Head(config.latent_dim, generator=run.generator(subset.seed, "head")))


def loss(model: nn.Module, inputs: Tensor, targets: Tensor, config: Config) -> tuple[Tensor, dict[str, Tensor]]:
    """Return what is minimised, and all scores."""
    logits = model(inputs)  # (B, 10), of an autoencoder (B, 1, 28, 28)
    if isinstance(model, Autoencoder):
        errors = reconstruction_errors(logits, targets)
        return errors["bce"], errors  # -x log p - (1 - x) log(1 - p), p = sigmoid(logits), a mean over B * 784 pixels
    # A mean over B of -sum t log softmax(logits); smoothing 0.1: t is 0.91 on the label, 0.01 elsewhere.
    smoothed = F.cross_entropy(logits, targets, label_smoothing=config.label_smoothing)
    return smoothed, classification_scores(logits, targets)


def figures(folder: Path, config: Config, outcomes: Outcomes, frames: examples.Frames, shown: Tensor) -> dict[str, str]:
    """Plot what the question asks to see; return the captions by file."""
    count, seed = f"{10 * config.shots} labelled images", f"seed {config.seed}"
    classifiers = {variant: outcomes[variant] for variant in ("scratch, plain", "scratch, augmented")}
    gaps, read = zip(*((few_shot.gap(of), fmean(few_shot.values(of))) for of in classifiers.values()), strict=True)
    curves = f" ({seed}). The title is of all test images, the curves of the first {few_shot.CURVE_IMAGES:,}"
    strip, lowest = examples.overfitting(frames, outcomes["autoencoder"]["subset 1"].history, shown)
    captions = {
        "classifier.png": f"Q4 on {count}: over-fitting by {gaps[0]:.1f} points, augmented {gaps[1]:.1f}{curves}",
        "comparison.png": f"Q4: {count} from scratch are worth {read[0]:.1%}, with augmentation {read[1]:.1%} ({seed})."
        " A dot is a subset; at the right mean ± standard deviation of the balanced ones",
        "autoencoder_loss.png": f"Q4, {few_shot.overfitting('autoencoder', outcomes['autoencoder'], 'mse')}{curves}",
        "reconstructions.png": f"Q4: images never seen come back best at iteration {lowest:,} (subset 1, {seed})."
        " By their loss; after it the images trained on still get better, the others worse",
    }
    paths = [(folder / name, caption) for name, caption in captions.items()]
    plots.plot_few_shot_curves(*paths[0], classifiers, "cross_entropy", "accuracy")
    plots.plot_dots(*paths[1], outcomes, *PIXEL_CLASSIFIERS, *classifiers)
    plots.plot_few_shot_curves(*paths[2], {"autoencoder": outcomes["autoencoder"]}, "bce")
    plots.plot_images(*paths[3], strip)
    return captions


def main(config: Config) -> dict:
    """Load; for every variant and subset build, train, save, reload, measure; plot; return the summary."""
    step = run.start(config, "q4_few_shot")
    dataset = data.load(config.dataset, config.data_dir, step.device)
    test = dataset.test
    subsets = few_shot.subsets(dataset.train.targets, config.shots, config.subsets, config.seed)
    settings = (config.learning_rate, config.weight_decay)
    plain, augmented = few_shot.regimes(config, (config.plain_learning_rate, config.plain_weight_decay), settings)
    autoencoder = plain._replace(learning_rate=config.learning_rate, weight_decay=config.weight_decay)
    regimes = {"scratch, plain": plain, "scratch, augmented": augmented, "autoencoder": autoencoder}
    loss_fn, frames = partial(loss, config=config), {}
    shown = torch.cat([examples.shown(split).inputs for split in (dataset.train[subsets[1].indices], test)])

    def train_one(variant: str, subset: Subset) -> Outcome:
        source = dataset.to_reconstruct() if variant == "autoencoder" else dataset
        model = build(config, variant, subset).to(step.device, memory_format=torch.channels_last)
        few = source.train[subset.indices]
        watched = variant == "autoencoder" and subset.name == "subset 1"
        watch = examples.watch(frames, model, shown, examples.EVERY) if watched else None
        history = few_shot.fit(model, loss_fn, few, few, source.test, regimes[variant], subset.seed, watch=watch)
        averaged = variant == "scratch, augmented"
        return few_shot.measured(step.folder, variant, subset, model, history, loss_fn, source, config, averaged)

    jobs = [(variant, subset) for variant in regimes for subset in subsets]
    outcomes = few_shot.side_by_side(train_one, jobs, step.device)
    # What accuracy and error are to be compared with: what the pixels of the same few images give.
    pca, test_images = f"PCA-{config.latent_dim} of the same images", test.inputs.cpu().numpy()
    for subset in subsets:
        few = dataset.train[subset.indices]
        images = few.inputs.cpu().numpy()
        for name, baseline in PIXEL_CLASSIFIERS.items():
            baseline.fit(images.reshape(-1, 784), few.targets.cpu())
            accuracy = baseline.score(test_images.reshape(-1, 784), test.targets.cpu())
            outcomes.setdefault(name, {})[subset.name] = Outcome([], {"test": {"accuracy": accuracy}})
        reconstructions = representation.pca_code(images, test_images, config.latent_dim)[-1]
        errors = representation.errors(reconstructions, test_images)
        outcomes.setdefault(pca, {})[subset.name] = Outcome([], {"test": errors})
    answer = [few_shot.overfitting(variant, outcomes[variant]) for variant in ("scratch, plain", "scratch, augmented")]
    answer += [few_shot.overfitting("autoencoder", outcomes["autoencoder"], "mse")]
    answer += [f"{pca}: test MSE {fmean(few_shot.values(outcomes[pca], 'mse')):.4f}"]
    texts = figures(step.folder, config, outcomes, frames, shown)
    numbers = few_shot.numbers(outcomes, ("scratch, plain", "scratch, augmented", *PIXEL_CLASSIFIERS))
    return step.finish(dataset.fingerprint, few_shot.records(outcomes), answer=answer, numbers=numbers, figures=texts)


if __name__ == "__main__":
    run.command_line(main, Config)
