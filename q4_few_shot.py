"""Q4: how far do 100 labelled images go, from scratch?

Trains the classifier and the autoencoder on few examples: on several class-balanced draws of the labelled images, and
on `first`, the first training images. They read 80.5 +- 2.6 % of the test images without augmentation and 95.5 +- 0.8 %
with it (100 labels, 15 draws, 5 of each of 3 seeds). The settings, those of common/few_shot.py, were chosen on the
validation images with other draws.

    python q4_few_shot.py    # 1.2 minutes on 2 CPU cores

Needs nothing; fetches the data on first use. Where q1_autoencoder.py has run, its test error stands beside.
Writes config.json, metrics.jsonl, summary.json, a checkpoint of every run, loss.png, accuracy.png, comparison.png,
autoencoder_loss.png, autoencoder_comparison.png and reconstructions.png to <output-dir>/q4_few_shot/.
"""

import dataclasses
import time
from functools import partial
from pathlib import Path
from statistics import fmean, stdev

import torch
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor

from common import checkpoint, data, few_shot, plots, run, train
from common.few_shot import Draw, Outcome
from common.losses import reconstruction_loss
from common.models import Autoencoder, Decoder, Encoder, pixels

CURVE_IMAGES = 2_000  # test images in the autoencoder's loss graph: all 10,000 would take longer than its training


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(few_shot.Options):
    latent_dim: int = 12
    """Numbers between encoder and head, and encoder and decoder, 2 to 784; 12 is this repository's assumption."""
    hidden_relu: bool = True
    """ReLU between the two linear layers of encoder and decoder; the report names none."""

    def __post_init__(self) -> None:
        super().__post_init__()
        run.require(self, "latent_dim", least=2, most=784)


def scratch(draw: Draw, config: Config) -> Encoder:
    """Return an encoder that has seen nothing."""
    return Encoder(config.latent_dim, hidden_relu=config.hidden_relu, generator=run.generator(draw.seed, "encoder"))


def loss_fn(model: Autoencoder, images: Tensor, labels: Tensor) -> tuple[Tensor, dict]:
    """Return the autoencoder's loss, Q1's default."""
    return reconstruction_loss(model, images, images, "bce")


def autoencode(draw: Draw, dataset: data.Dataset, config: Config, folder: Path) -> Outcome:
    """Train an autoencoder on the images of a draw, save, reload and measure it."""
    name = f"autoencoder_{draw.name}".replace(" ", "_")
    few = dataset.train[draw.indices]
    encoder = scratch(draw, config)
    model = Autoencoder(encoder, Decoder(**encoder.arguments, generator=run.generator(draw.seed, "decoder")))
    model.to(few.images.device, memory_format=torch.channels_last)
    examples, epochs = few_shot.repeated(few, config, "plain")
    history = train.fit(
        model,
        loss_fn,
        examples,
        {"examples": few, "test": dataset.test[:CURVE_IMAGES]},
        epochs=epochs,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        seed=draw.seed,
        snapshot=folder / f"{name}_{run.SNAPSHOT}",
    )
    return few_shot.outcome(folder / f"{name}.pt", model, history, loss_fn, draw, dataset, config)


def pixel_baselines(few: data.Split, test: data.Split) -> dict[str, dict[str, float]]:
    """Return the test accuracy of classifiers that know only the pixels of the labelled images."""
    baselines = {
        "nearest_neighbour": KNeighborsClassifier(1),
        "logistic_regression": LogisticRegression(max_iter=1_000),
    }
    few_pixels, test_pixels = (split.images.flatten(1).cpu().numpy() for split in (few, test))
    few_labels, test_labels = (split.labels.cpu().numpy() for split in (few, test))
    return {
        name: {"accuracy": baseline.fit(few_pixels, few_labels).score(test_pixels, test_labels)}
        for name, baseline in baselines.items()
    }


def pca_errors(few: data.Split, test: data.Split, dimensions: int) -> dict[str, float]:
    """Return L1 and MSE per pixel of test images redrawn from principal components of the few images."""
    pca = PCA(min(dimensions, len(few)), random_state=0).fit(few.images.flatten(1).cpu().numpy())
    images = test.images.flatten(1).cpu().numpy()
    differences = pca.inverse_transform(pca.transform(images)) - images
    return {"l1": float(abs(differences).mean()), "mse": float((differences**2).mean())}


def verdicts(outcomes: few_shot.Outcomes) -> list[str]:
    """Say of each variant what the balanced draws reach and by how much they over-fit."""
    sentences = []
    for variant, by_draw in outcomes.items():
        metric = "mse" if variant == "autoencoder" else "accuracy"
        own, test = (few_shot.values(by_draw, metric, split) for split in ("examples", "test"))
        if variant == "autoencoder":
            text = f"test MSE {fmean(test):.4f} +- {stdev(test):.4f}, {fmean(test) / fmean(own):.1f} times that of its"
            sentences.append(f"{variant}: {text} own examples")
        else:
            text = f"test accuracy {fmean(test):.1%} +- {100 * stdev(test):.1f}, its own examples {fmean(own):.1%}"
            text += f", over-fitting by {100 * (fmean(own) - fmean(test)):.1f} points"
            if averaged := few_shot.values(by_draw, "averaged_accuracy"):
                text += f"; averaged over warps {fmean(averaged):.1%} +- {100 * stdev(averaged):.1f}"
            sentences.append(f"{variant}: {text}")
    return sentences


def main(config: Config) -> dict:
    """Train on every draw, save, reload, measure, draw; return the summary."""
    started = time.perf_counter()
    device = run.device(config)
    q1_path = config.output_dir / "q1_autoencoder" / "model.pt"
    q1 = checkpoint.load(q1_path, Autoencoder, config.dataset) if q1_path.exists() else None
    dataset = data.load(config.dataset, config.data_dir, device)
    provenance = run.provenance(config, __file__, device, dataset.fingerprint, {q1_path: q1.sha256} if q1 else {})
    folder = run.start(config, __file__, provenance)
    draws = few_shot.draws(dataset.train.labels, config)

    outcomes = few_shot.classify({"scratch": partial(scratch, config=config)}, draws, dataset, config, folder)
    redraw = partial(autoencode, dataset=dataset, config=config, folder=folder)
    redrawn = few_shot.in_threads(redraw, draws, dataset, "autoencoders")
    outcomes["autoencoder"] = {draw.name: found for draw, found in zip(draws, redrawn, strict=True)}

    baselines: few_shot.Outcomes = {}
    for draw in draws:
        few = dataset.train[draw.indices]
        found = pixel_baselines(few, dataset.test) | {"pca": pca_errors(few, dataset.test, config.latent_dim)}
        for name, metrics in found.items():
            baselines.setdefault(name, {})[draw.name] = Outcome([], {"test": metrics})

    count = f"{len(draws[1].indices)} images"
    classifiers = {
        variant.replace("/", ", "): by_draw for variant, by_draw in outcomes.items() if variant != "autoencoder"
    }
    few_shot.draw_curves(folder, classifiers, f"Q4 classifier from scratch on {count}")
    rows = {f"{name.replace('_', ' ')} on pixels": by_draw for name, by_draw in baselines.items() if name != "pca"}
    few_shot.draw_comparison(folder / "comparison.png", rows | classifiers, f"Q4: what {count} are worth", dataset)
    by_draw = outcomes["autoencoder"]
    plots.train_against_test(
        folder / "autoencoder_loss.png",
        {"plain": [by_draw[draw.name].history for draw in [*draws[1:], draws[0]]]},
        "bce",
        f"Q4 autoencoder on {count}: loss over training iterations",
        run.UNITS["bce"],
        columns=1,
    )
    errors = {
        f"Q4, {count}": outcomes["autoencoder"],
        f"PCA-{config.latent_dim} of the same images": baselines["pca"],
    }
    errors = {
        name: {metric: fmean(few_shot.values(by_draw, metric)) for metric in ("mse", "l1")}
        for name, by_draw in errors.items()
    }
    if q1:
        errors[f"Q1, {len(dataset.train):,} images"] = q1.summary["test"]
    plots.bars(
        folder / "autoencoder_comparison.png",
        {
            f"test {run.UNITS[metric].split(',')[0]}": {name: found[metric] for name, found in errors.items()}
            for metric in ("mse", "l1")
        },
        f"Q4 autoencoder, mean of {config.draws} draws",
        columns=2,
    )
    model = checkpoint.load(folder / "autoencoder_draw_1.pt").model.to(device)
    test_shown = torch.cat([torch.nonzero(dataset.test.labels == digit)[:1, 0] for digit in range(10)])
    originals = {"training image": dataset.train.images[draws[1].indices[:10]]}  # a balanced draw starts 0, 1, ... 9
    originals["test image"] = dataset.test.images[test_shown]
    plots.reconstructions(
        folder / "reconstructions.png",
        [
            {name: images.cpu(), "redrawn": pixels(train.apply(model, images)).cpu()}
            for name, images in originals.items()
        ],
        torch.arange(10),
        f"Q4 autoencoder of {count}: it redraws them, and turns others into them",
    )

    conclusions = verdicts(outcomes)
    summary = {
        "metrics": few_shot.quoted(outcomes),
        "baselines": few_shot.quoted(baselines) | (run.quoted(q1.summary["test"], "test", "q1") if q1 else {}),
        "verdicts": conclusions,
        "draws": few_shot.metrics_by_draw(outcomes | baselines),
        "seconds": time.perf_counter() - started,
    }
    run.finish(folder, provenance, few_shot.records(outcomes), summary)
    print(*conclusions, sep="\n")
    print("; ".join(f"test MSE, {name}: {found['mse']:.4f}" for name, found in errors.items()))
    print(f"figures and numbers: {folder}")
    return summary


if __name__ == "__main__":
    run.command_line(main, Config)
