"""Q2: what does the same encoder learn when only the class must come out?

Trains a classifier, Q1's encoder and a small head. It reads 99.42 ± 0.07 % of the test images (10 seeds), 99.48 ± 0.05
when its answers are averaged over 16 warped copies of each; on pixels, 3 nearest neighbours read 96.92 % and logistic
regression 91.93 %.

    python q2_classifier.py            # 1.0 minutes of one CPU core
    python q2_classifier.py --plain    # 0.7 minutes: neither warps nor label smoothing, as a control for Q3

Needs nothing; fetches the data on first use.
Writes config.json, metrics.jsonl, summary.json, model.safetensors and *.png to <output-dir>/q2_classifier/, with
--plain to <output-dir>/q2_plain/.
"""

import dataclasses
from functools import partial
from pathlib import Path

import numpy
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import confusion_matrix
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor, nn
from tqdm import tqdm

from common import checkpoint, data, plots, run, train
from common.augment import Averaged, warp
from common.losses import classification_scores
from common.models import Classifier, Encoder, Head

MISTAKES_SHOWN = 24
COPIES = 16  # warped, of each test image, over which answers are averaged


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(run.Options):
    plain: bool = False
    """Neither warp the training images nor smooth their labels, as a control for Q3; results go to q2_plain."""
    latent_dim: int = 12
    """Numbers that the encoder ends in, 2 to 784; 12 is this repository's assumption."""
    hidden_relu: bool = True
    """ReLU between two linear layers that follow one another; the report names none."""
    epochs: int = 10
    """Passes over the 55,000 training images."""
    batch_size: int = 256
    """Images per training iteration."""
    learning_rate: float = 5e-3
    """Peak of the one-cycle schedule for a layer of fan-in 128; lower it if the loss is not finite."""
    weight_decay: float = 1e-2
    """AdamW's decoupled weight decay."""
    label_smoothing: float = 0.1
    """Weight that the loss, not the metric, takes from the label and gives to all classes alike; 0 with --plain."""


def build(config: Config) -> Classifier:
    """Compose Q1's encoder, from the same initial weights, and a head."""
    sizes = {"latent_dim": config.latent_dim, "hidden_relu": config.hidden_relu}
    encoder = Encoder(**sizes, generator=run.generator(config.seed, "encoder"))
    head = Head(config.latent_dim, generator=run.generator(config.seed, "head"))
    # Nothing is frozen: the question is what the encoder learns.
    return Classifier(encoder, head)


def loss(model: nn.Module, inputs: Tensor, targets: Tensor, config: Config) -> tuple[Tensor, dict[str, Tensor]]:
    """Return what is minimised, and all scores."""
    logits = model(inputs)  # (B, 10)
    # A mean over B of -sum t log softmax(logits); smoothing 0.1: t is 0.91 on the label, 0.01 elsewhere.
    smoothed = F.cross_entropy(logits, targets, label_smoothing=0.0 if config.plain else config.label_smoothing)
    return smoothed, classification_scores(logits, targets)


def figures(folder: Path, config: Config, history: list[dict], model: nn.Module, test: data.Split) -> dict[str, str]:
    """Plot what the question asks to see; return the captions by file."""
    name = "Plain Q2" if config.plain else "Q2"
    labels = test.targets.cpu()
    confidences, predicted = train.apply(model, test.inputs).cpu().softmax(1).max(1)
    wrong = torch.nonzero(predicted != labels)[:, 0]
    worst = wrong[confidences[wrong].argsort(descending=True)][:MISTAKES_SHOWN]
    counts = confusion_matrix(labels, predicted, labels=range(10))
    true, read = divmod((counts * (1 - numpy.eye(10, dtype=int))).argmax(), 10)
    mistakes = f"{name} (seed {config.seed}) misreads {len(wrong):,} of {len(labels):,} test images"
    end, why = history[-1]["test"], "; it trains on warped ones. These are harder, so that test curves may look better"
    why = ". The distance between train and test is over-fitting" if config.plain else why
    captions = {
        "loss.png": f"{name} (seed {config.seed}): cross-entropy {end['cross_entropy']:.4f} on test images{why}",
        "accuracy.png": f"{name} (seed {config.seed}) reads {end['accuracy']:.2%} of the test images{why}",
        "confusion.png": f"{mistakes}, most often a {true} as {read}: {counts[true, read]} times. White: read rightly",
        "mistakes.png": f"{mistakes}: the {len(worst)} of which it is most sure. Above, the label and what it"
        " is read as; below, with what probability",
    }
    plots.plot_curves(folder / "loss.png", captions["loss.png"], history, "cross_entropy")
    plots.plot_curves(folder / "accuracy.png", captions["accuracy.png"], history, "accuracy")
    plots.plot_confusion(folder / "confusion.png", captions["confusion.png"], counts)
    shown = (test.inputs.cpu()[worst], labels[worst], predicted[worst], confidences[worst])
    plots.plot_mistakes(folder / "mistakes.png", captions["mistakes.png"], *shown)
    return captions


def main(config: Config) -> dict:
    """Load, build, train, save, reload, measure, plot; return the summary."""
    step = run.start(config, "q2_plain" if config.plain else "q2_classifier")
    dataset = data.load(config.dataset, config.data_dir, step.device)
    model = build(config).to(step.device, memory_format=torch.channels_last)
    loss_fn = partial(loss, config=config)
    history = train.fit(
        model,
        loss_fn,
        dataset.train,
        dataset.held_out,
        epochs=config.epochs,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        seed=config.seed,
        # Anew every epoch: shift, rotation, scale, shear and elastic, each a little.
        transform=None if config.plain else warp,
    )
    model = checkpoint.reloaded(step.folder / "model.safetensors", model, config, history[-1])
    metrics = train.evaluate(model, loss_fn, dataset.test)
    metrics["averaged_accuracy"] = train.evaluate(Averaged(model, COPIES), loss_fn, dataset.test)["accuracy"]
    name, headline = ("plain Q2", ()) if config.plain else ("Q2", ("accuracy", "averaged_accuracy"))
    numbers = run.numbers(name, metrics, "test", headline)
    numbers += run.numbers(name, history[-1]["validation"], "validation")
    answer = [f"test accuracy {metrics['accuracy']:.2%}, averaged over warps {metrics['averaged_accuracy']:.2%}"]
    # Plain baselines, with which these numbers are to be compared.
    baselines = {} if config.plain else {
        "3 nearest neighbours on pixels": KNeighborsClassifier(3),
        "logistic regression on pixels": LogisticRegression(C=0.01, tol=1e-3),  # in seconds; not tuned
    }  # fmt: skip
    rows, test_rows = (split.inputs.flatten(1).cpu().numpy() for split in (dataset.train, dataset.test))
    for name, baseline in tqdm(baselines.items(), desc="baselines", leave=False, disable=None):
        baseline.fit(rows, dataset.train.targets.cpu())
        accuracy = baseline.score(test_rows, dataset.test.targets.cpu())
        numbers += run.numbers(name, {"accuracy": accuracy}, "test", ("accuracy",))
        answer.append(f"{name}: {accuracy:.2%}")
    captions = figures(step.folder, config, history, model, dataset.test)
    return step.finish(dataset.fingerprint, history, answer=answer, numbers=numbers, figures=captions)


if __name__ == "__main__":
    run.command_line(main, Config)
