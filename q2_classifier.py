"""Q2: what does the same encoder learn when only the class must come out?

Trains a classifier, Q1's encoder and a head of two layers, with cross-entropy on the images as they
are.

Mean ± standard deviation of 10 seeds, on the 10,000 test images:

                                    accuracy        cross_entropy
    Q2                              99.13% ± 0.08   0.028 ± 0.001
    logistic regression on pixels   91.93%          -

Run:     python q2_classifier.py
Needs:   nothing; fetches the data on first use
Writes:  outputs/q2_classifier/: model.safetensors, numbers.csv, history.csv, loss.png,
         accuracy.png, mistakes.png
Further: studies/augmented_classifier.py (with warped images and label smoothing)
"""

import dataclasses
from pathlib import Path

import pandas
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from common import checkpoint, data, run, train
from common.figures import curves, images
from common.losses import classification_metrics
from common.measures import names
from common.models import Classifier, Encoder, Head

MISTAKES_SHOWN = 16


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(run.Options):
    latent_dim: int = 12
    """Numbers that an image is encoded in; the same as Q1's."""
    epochs: int = 8
    """Passes over the 55,000 training images."""
    batch_size: int = 256
    """Images per training step."""
    learning_rate: float = 2e-2
    """Peak of the one-cycle schedule; lower it if the loss is not finite."""
    weight_decay: float = 0.3
    """AdamW's decoupled weight decay."""


def build(config: Config) -> Classifier:
    """Compose Q1's encoder, from the same initial weights, and a head. Nothing is frozen."""
    encoder = Encoder(config.latent_dim, generator=run.generator(config.seed, "encoder"))
    head = Head(config.latent_dim, generator=run.generator(config.seed, "head"))
    return Classifier(encoder, head)


def loss(model: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Return what is minimised, and the metrics to record."""
    logits = model(images)  # (B, 1, 28, 28) -> (B, 12) -> (B, 10)
    metrics = classification_metrics(logits, labels)
    return metrics["cross_entropy"], metrics  # nats, mean over B


def recipe(config: Config) -> train.Recipe:
    """Return how the classifier is trained."""
    return train.Recipe(
        epochs=config.epochs,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
    )


def plot_curves(folder: Path, history: pandas.DataFrame, seed: int) -> None:
    """Plot the report's two graphs: loss and accuracy, on training and test images."""
    last = history[history.split == "test"].groupby("measure").value.last()
    curves.plot_training(
        folder / "loss.png",
        "Q2's loss ends far lower on training images than on test images: it over-fits",
        f"At the end {last['cross_entropy']:.4f} nats on test images (seed {seed}).",
        history,
        "cross_entropy",
    )
    share = "nearly all" if last["accuracy"] > 0.97 else "most"
    curves.plot_training(
        folder / "accuracy.png",
        f"Q2 soon classifies {share} test images rightly, and its training images still better",
        f"At the end {last['accuracy']:.2%} of the test images (seed {seed}).",
        history,
        "accuracy",
    )


def plot_mistakes(path: Path, model: Classifier, test: data.Split, seed: int) -> None:
    """Plot the misclassified test images of which the classifier is most sure."""
    labels = test.labels.cpu()
    probabilities, predicted = train.apply(model, test.images).cpu().softmax(1).max(1)
    wrong = torch.nonzero(predicted != labels)[:, 0]
    shown = wrong[probabilities[wrong].argsort(descending=True)][:MISTAKES_SHOWN]
    texts = []
    for index in shown.tolist():
        sure = f"{100 * probabilities[index]:.4g}% sure"
        texts.append((f"{labels[index]} as {predicted[index]}", sure))
    images.plot_mistakes(
        path,
        "Of some of its mistakes Q2 is nearly sure",
        f"The {len(shown)} of {len(wrong)} misclassified test images with the highest probability"
        f" of the wrong digit, among {len(labels):,} test images (seed {seed}).",
        test.images[shown],
        texts,
    )


def main(config: Config) -> None:
    results = run.start("q2_classifier", config)
    mnist = data.load(config.dataset, config.data_dir, results.device, config.quick)

    # Train, then measure what is on disk.
    model = build(config).to(results.device, memory_format=torch.channels_last)
    test = mnist.test.to_classify()
    history = train.fit(
        model, loss, mnist.train.to_classify(), {"test": test}, recipe(config), config.seed
    )
    model = checkpoint.save_and_reload(results.folder / "model.safetensors", model)
    results.log_history(history, model="Q2")
    for split in ("train", "validation", "test"):
        examples = getattr(mnist, split).to_classify()
        results.log(train.evaluate(model, loss, examples), model="Q2", split=split)

    # Baseline: a linear classifier on pixels, not tuned.
    baseline = LogisticRegression(C=0.01, tol=1e-3)
    baseline.fit(mnist.train.images.flatten(1).cpu().numpy(), mnist.train.labels.cpu().numpy())
    pixels = mnist.test.images.flatten(1).cpu().numpy()
    accuracy = baseline.score(pixels, mnist.test.labels.cpu().numpy())
    results.log({"accuracy": accuracy}, model="logistic regression on pixels", split="test")

    with run.drawing():
        plot_curves(results.folder, history, config.seed)
        plot_mistakes(results.folder / "mistakes.png", model, mnist.test, config.seed)

    models = ["Q2", "logistic regression on pixels"]
    score = results.numbers.query("model == 'Q2' and split == 'test'").set_index("measure").value
    print(f"test accuracy {score['accuracy']:.2%}")
    print(names.table(results.numbers, models, ["accuracy", "cross_entropy"]))
    results.finish(mnist.sha256)


if __name__ == "__main__":
    run.command_line(main, Config)
