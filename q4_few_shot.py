"""Q4: how far do 100 labelled images go, from scratch?

Trains Q2's classifier and Q1's autoencoder anew on 100 images: on the report's subset, which is the
first 100 training images, and on class-balanced random subsets, over which mean and deviation are
taken.

Mean ± standard deviation over the balanced subsets of 10 seeds, three each, and of the report's:

                                    accuracy        accuracy/report
    scratch                         76.24% ± 2.59   66.60% ± 1.83
    logistic regression on pixels   75.32% ± 2.09   67.53%

                  l1                l1/report
    autoencoder   0.0830 ± 0.0027   0.0873 ± 0.0031
    PCA-12        0.1029 ± 0.0010   0.1030

PCA-12 is fitted to the same 100 images.

Run:     python q4_few_shot.py
Needs:   nothing; fetches the data on first use
Writes:  outputs/q4_few_shot/: a checkpoint of every fit, numbers.csv, history.csv, classifier.png,
         autoencoder_loss.png, reconstructions.png
Further: studies/augmentation.py (with warped images), studies/label_curve.py (1 to 100 labels per
         digit)
"""

import dataclasses

import pandas
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from tqdm import tqdm

from common import checkpoint, data, few_shot, run, train
from common.few_shot import REPORT, Subset
from common.figures import curves, images
from common.losses import classification_metrics, reconstruction_loss
from common.measures import names, reconstructions
from common.measures.overfitting import overfitting
from common.models import Autoencoder, Classifier, Decoder, Encoder, Head, pixels

CURVE_IMAGES = 2_000  # test images in the curves; accuracies and errors are of all
SHOWN = 5  # labelled and test images in reconstructions.png


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(run.Options):
    latent_dim: int = 12
    """Numbers that an image is encoded in; the same as Q1's."""
    subsets: int = 3
    """Class-balanced labelled subsets, beside the report's."""
    shots: int = 10
    """Labelled images per digit in a balanced subset."""
    iterations: int = 300
    """Training steps of each fit, about: whole passes over the subset."""
    batch_size: int = 50
    """Images per training step."""
    learning_rate: float = 0.04
    """Peak of the classifier's one-cycle schedule; from 0.08 on some fits fail."""
    weight_decay: float = 1.0
    """AdamW's decoupled weight decay for the classifier."""
    autoencoder_learning_rate: float = 0.0025
    """Peak of the autoencoder's one-cycle schedule."""
    autoencoder_weight_decay: float = 0.03
    """AdamW's decoupled weight decay for the autoencoder."""


def build_classifier(latent_dim: int, seed: int) -> Classifier:
    """Compose a new encoder and a new head."""
    encoder = Encoder(latent_dim, generator=run.generator(seed, "encoder"))
    return Classifier(encoder, Head(latent_dim, generator=run.generator(seed, "head")))


def build_autoencoder(latent_dim: int, seed: int) -> Autoencoder:
    """Compose a new encoder and a new decoder."""
    encoder = Encoder(latent_dim, generator=run.generator(seed, "encoder"))
    return Autoencoder(encoder, Decoder(latent_dim, generator=run.generator(seed, "decoder")))


def classifier_loss(
    model: nn.Module, images: Tensor, labels: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return what the classifier minimises, and the metrics to record; as in Q2."""
    metrics = classification_metrics(model(images), labels)
    return metrics["cross_entropy"], metrics  # nats, mean over B


def autoencoder_loss(
    model: nn.Module, images: Tensor, targets: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return what the autoencoder minimises, and the metrics to record; as in Q1."""
    return reconstruction_loss(model(images), targets, "l1")


def recipe(config: Config, learning_rate: float, weight_decay: float, images: int) -> train.Recipe:
    """Return how to train for about ``config.iterations`` steps on so many ``images``."""
    epochs = few_shot.epochs_for(config.iterations, images, config.batch_size)
    return train.Recipe(
        epochs=epochs,
        batch_size=config.batch_size,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        record_epochs=few_shot.record_epochs(epochs),
    )


def train_classifier(
    subset: Subset, mnist: data.Dataset, config: Config
) -> tuple[Classifier, pandas.DataFrame]:
    """Train a classifier on a labelled subset; return it and its history."""
    labelled = mnist.train[subset.indices]
    model = build_classifier(config.latent_dim, subset.seed).to(labelled.images.device)
    # Curves on labelled and on test images: the distance between them is over-fitting.
    held_out = {
        "labelled": labelled.to_classify(),
        "test": mnist.test[:CURVE_IMAGES].to_classify(),
    }
    how = recipe(config, config.learning_rate, config.weight_decay, len(labelled))
    history = train.fit(model, classifier_loss, labelled.to_classify(), held_out, how, subset.seed)
    return model, history


def train_autoencoder(
    subset: Subset, mnist: data.Dataset, config: Config
) -> tuple[Autoencoder, pandas.DataFrame, dict[int, Tensor]]:
    """Train an autoencoder on the images of a labelled subset.

    Return it, its history, and by step its reconstructions of a few labelled and a few test images.
    """
    labelled = mnist.train[subset.indices]
    model = build_autoencoder(config.latent_dim, subset.seed).to(labelled.images.device)
    held_out = {
        "labelled": labelled.to_reconstruct(),
        "test": mnist.test[:CURVE_IMAGES].to_reconstruct(),
    }
    shown = images_shown(labelled, mnist.test)
    frames = {}

    def watch(step: int) -> None:
        frames[step] = pixels(train.apply(model, shown)).cpu()

    how = recipe(
        config, config.autoencoder_learning_rate, config.autoencoder_weight_decay, len(labelled)
    )
    how = dataclasses.replace(how, after_record=watch)
    history = train.fit(
        model, autoencoder_loss, labelled.to_reconstruct(), held_out, how, subset.seed
    )
    return model, history, frames


def images_shown(labelled: data.Split, test: data.Split) -> Tensor:
    """Return the first labelled and the first test image of each of the digits from 5 on."""
    chosen = []
    for split in (labelled, test):
        chosen.append(split.images[data.first_of_each_digit(split.labels)[-SHOWN:, 0]])
    return torch.cat(chosen)


def log_baselines(results: run.Results, subset: Subset, mnist: data.Dataset) -> None:
    """Log the baselines: a linear classifier and a linear autoencoder of the same images."""
    labelled = mnist.train[subset.indices]
    train_images, test_images = labelled.images.cpu().numpy(), mnist.test.images.cpu().numpy()
    linear = LogisticRegression(max_iter=1_000)
    linear.fit(train_images.reshape(len(train_images), -1), labelled.labels.cpu().numpy())
    accuracy = linear.score(
        test_images.reshape(len(test_images), -1), mnist.test.labels.cpu().numpy()
    )
    results.log(
        {"accuracy": accuracy}, "logistic regression on pixels", split="test", subset=subset.name
    )
    dimensions = results.config.latent_dim
    from_pca = reconstructions.pca_reconstruct(train_images, test_images, dimensions)
    errors = reconstructions.errors(from_pca, test_images)
    results.log(errors, f"PCA-{dimensions}", split="test", subset=subset.name)


def plot_classifier(results: run.Results) -> None:
    """Plot the report's graphs of the classifier, loss and accuracy, on both kinds of subsets."""
    means = balanced_means(results.numbers, "scratch")
    labelled = balanced_means(results.numbers, "scratch", "labelled")["accuracy"]
    gain = means["gain_after_fitted"]
    then = "still gets better" if gain > 0.01 else "gets little better"
    learnt = f"All labelled images are right from step {means['fitted_step']:.0f} on; after it the"
    if labelled < 1:
        learnt = f"{labelled:.1%} of the labelled images are right in the end; after that the"
    curves.plot_few_shot(
        results.folder / "classifier.png",
        f"The classifier learns its {10 * results.config.shots} labels by heart, and then {then} on"
        " test images",
        f"{learnt} accuracy on test images changes by {100 * gain:+.1f} points. Curves are of the"
        f" first {CURVE_IMAGES:,} test images; of all, {means['accuracy']:.1%} are right in the end"
        f" (seed {results.config.seed}).",
        results.history,
        ["scratch"],
        ["cross_entropy", "accuracy"],
    )


def plot_autoencoder(
    results: run.Results, frames: dict[int, Tensor], subset: Subset, mnist: data.Dataset
) -> None:
    """Plot the autoencoder's loss, and what it draws in the course of training on one subset."""
    history = results.history
    curves.plot_few_shot(
        results.folder / "autoencoder_loss.png",
        "The autoencoder redraws the images it was trained on far better than others",
        f"Curves are of the first {CURVE_IMAGES:,} test images (seed {results.config.seed}).",
        history,
        ["autoencoder"],
        ["l1"],
    )

    of_subset = history[(history.model == "autoencoder") & (history.subset == subset.name)]
    lowest = overfitting(of_subset, "l1")["lowest_loss_step"]
    rows = [images.Row("original", images_shown(mnist.train[subset.indices], mnist.test))]
    steps = sorted(frames)
    for step in sorted({*steps[1::4], steps[-1], lowest}):
        name = f"step {step}"
        if step == lowest:
            name += "\n(lowest test loss)"
        rows.append(images.Row(name, frames[step]))
    images.plot_rows(
        results.folder / "reconstructions.png",
        "The autoencoder redraws the images it was trained on, and all others like one of them",
        f"The first labelled and the first test image of each digit from 5 to 9, {subset.name}"
        f" (seed {results.config.seed}).",
        rows,
        column_titles=("labelled images, trained on", "test images"),
    )


def balanced_means(numbers: pandas.DataFrame, model: str, split: str = "test") -> pandas.Series:
    """Return a model's numbers on a split, means over the balanced subsets."""
    chosen = (numbers.model == model) & (numbers.split == split) & (numbers.subset != REPORT)
    return numbers[chosen].groupby("measure").value.mean()


def main(config: Config) -> None:
    results = run.start("q4_few_shot", config)
    mnist = data.load(config.dataset, config.data_dir, results.device, config.quick)
    subsets = few_shot.labelled_subsets(
        mnist.train.labels, config.shots, config.subsets, config.seed
    )

    frames = {}
    for subset in tqdm(subsets, "subsets", leave=False, disable=None):
        labelled = mnist.train[subset.indices]

        classifier, history = train_classifier(subset, mnist, config)
        path = results.folder / subset.file_name("scratch")
        classifier = checkpoint.save_and_reload(path, classifier)
        results.log_history(history, "scratch", subset.name)
        results.log(overfitting(history, "cross_entropy"), "scratch", "test", subset.name)
        for split, examples in (("labelled", labelled), ("test", mnist.test)):
            measures = train.evaluate(classifier, classifier_loss, examples.to_classify())
            results.log(measures, "scratch", split, subset.name)

        autoencoder, history, frames[subset.name] = train_autoencoder(subset, mnist, config)
        path = results.folder / subset.file_name("autoencoder")
        autoencoder = checkpoint.save_and_reload(path, autoencoder)
        results.log_history(history, "autoencoder", subset.name)
        results.log(overfitting(history, "l1"), "autoencoder", "test", subset.name)
        for split, examples in (("labelled", labelled), ("test", mnist.test)):
            measures = train.evaluate(autoencoder, autoencoder_loss, examples.to_reconstruct())
            results.log(measures, "autoencoder", split, subset.name)

        log_baselines(results, subset, mnist)

    with run.drawing():
        plot_classifier(results)
        plot_autoencoder(results, frames[subsets[1].name], subsets[1], mnist)

    models = ["scratch", "logistic regression on pixels", "autoencoder", f"PCA-{config.latent_dim}"]
    accuracy = balanced_means(results.numbers, "scratch")["accuracy"]
    print(f"test accuracy {accuracy:.2%} from {10 * config.shots} labels, from scratch")
    print(names.table(results.numbers, models, ["accuracy", "l1", "last_over_lowest_loss"]))
    results.finish(mnist.sha256)


if __name__ == "__main__":
    run.command_line(main, Config)
