"""Q1: what does an encoder keep when the whole image must come back?

Trains a convolutional autoencoder with 12 latents on the mean absolute error (L1) per pixel.

Mean ± standard deviation of 10 seeds, per pixel of the 10,000 test images:

                 l1                mse
    Q1           0.0271 ± 0.0002   0.0096 ± 0.0001
    PCA-12       0.0948            0.0312
    mean image   0.1503            0.0675

Run:     python q1_autoencoder.py
Needs:   nothing; fetches the data on first use
Writes:  outputs/q1_autoencoder/: model.safetensors, numbers.csv, history.csv, loss.png,
         reconstructions.png
Further: studies/reconstruction_loss.py (MSE and cross-entropy),
         studies/architecture.py (layers, channels, latents)
"""

import dataclasses
from functools import partial
from pathlib import Path

import pandas
import torch
from torch import Tensor, nn

from common import checkpoint, data, run, train
from common.figures import curves, images
from common.losses import ReconstructionLoss, reconstruction_loss, refuse_collapse
from common.measures import names, reconstructions
from common.models import Autoencoder, Decoder, Encoder, pixels


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(run.Options):
    latent_dim: int = 12
    """Numbers that an image is encoded in; the exercise says about 12."""
    loss: ReconstructionLoss = "l1"
    """What is minimised, per pixel; the exercise prescribes L1. Scores are L1 and MSE whatever it
    is.
    """
    epochs: int = 10
    """Passes over the 55,000 training images."""
    batch_size: int = 128
    """Images per training step."""
    learning_rate: float = 1e-2
    """Peak of the one-cycle schedule; lower it if the loss is not finite."""
    muon_learning_rate: float = 0.02
    """Peak of Muon's schedule, for the weights of linear layers; 0 leaves them to AdamW."""
    weight_decay: float = 0.05
    """AdamW's decoupled weight decay."""


def build(config: Config) -> Autoencoder:
    """Compose the encoder and its mirror image. Nothing is frozen."""
    encoder = Encoder(config.latent_dim, generator=run.generator(config.seed, "encoder"))
    decoder = Decoder(config.latent_dim, generator=run.generator(config.seed, "decoder"))
    return Autoencoder(encoder, decoder)


def loss(
    model: nn.Module, images: Tensor, targets: Tensor, name: str
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return what is minimised, and the metrics to record; targets are the images themselves."""
    logits = model(images)  # (B, 1, 28, 28) -> (B, 12) -> (B, 1, 28, 28)
    # With p = sigmoid(logits), a mean over B * 784 pixels of |p - target|.
    return reconstruction_loss(logits, targets, name)


def recipe(config: Config) -> train.Recipe:
    """Return how the autoencoder is trained; Q3 trains its decoder likewise."""
    return train.Recipe(
        epochs=config.epochs,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        muon_learning_rate=config.muon_learning_rate,
    )


def plot_loss(
    path: Path, history: pandas.DataFrame, config: Config, levels: dict[str, float]
) -> None:
    """Plot the report's loss graph."""
    last = history[(history.split == "test") & (history.measure == config.loss)].value.iloc[-1]
    title = "Q1's loss falls on test images as it does on training images"
    caption = f"At the end {last:.4f} per pixel on test images"
    if levels:
        caption += "; " + ", ".join(f"{name} {level:.4f}" for name, level in levels.items())
        if last < min(levels.values()):
            title = "Q1 soon reconstructs digits better than principal components do, and goes on"
            title += " improving"
    curves.plot_training(
        path,
        title,
        f"{caption} (seed {config.seed}).",
        history,
        config.loss,
        levels,
    )


def main(config: Config) -> None:
    results = run.start("q1_autoencoder", config)
    mnist = data.load(config.dataset, config.data_dir, results.device, config.quick)

    # Train, then measure what is on disk.
    model = build(config).to(results.device, memory_format=torch.channels_last)
    minimised = partial(loss, name=config.loss)
    test = mnist.test.to_reconstruct()
    history = train.fit(
        model, minimised, mnist.train.to_reconstruct(), {"test": test}, recipe(config), config.seed
    )
    model = checkpoint.save_and_reload(results.folder / "model.safetensors", model)
    validation = train.evaluate(model, minimised, mnist.validation.to_reconstruct())
    refuse_collapse(validation["mse"], mnist)
    results.log_history(history, model="Q1")
    results.log(validation, model="Q1", split="validation")
    results.log(train.evaluate(model, minimised, test), model="Q1", split="test")

    # Baselines: the best linear autoencoder of as many numbers, and one image for all.
    originals = mnist.test.images.cpu().numpy()
    train_images = mnist.train.images.cpu().numpy()
    pca = f"PCA-{config.latent_dim}"
    from_pca = reconstructions.pca_reconstruct(train_images, originals, config.latent_dim)
    mean_image = train_images.mean(0, keepdims=True).repeat(len(originals), axis=0)
    results.log(reconstructions.errors(from_pca, originals), model=pca, split="test")
    results.log(reconstructions.errors(mean_image, originals), model="mean image", split="test")

    # Figures: the first test image of each digit, whatever comes of it.
    scores = (
        results.numbers.query("split == 'test' and measure == @config.loss")
        .set_index("model")
        .value
    )
    levels = {} if config.loss == "bce" else scores[[pca, "mean image"]].to_dict()
    l1 = results.numbers.query("split == 'test' and measure == 'l1'").set_index("model").value
    with run.drawing():
        plot_loss(results.folder / "loss.png", history, config, levels)
        shown = data.first_of_each_digit(mnist.test.labels).flatten()
        rows = [
            images.Row("original", mnist.test.images[shown]),
            images.Row("Q1", pixels(train.apply(model, mnist.test.images[shown]))),
            images.Row(pca, torch.from_numpy(from_pca[shown])),
        ]
        enough = "are not" if l1["Q1"] < l1[pca] else "are too"
        images.plot_rows(
            results.folder / "reconstructions.png",
            f"{config.latent_dim} numbers are enough to redraw a digit; as many principal"
            f" components {enough}",
            f"The first test image of each digit, redrawn from {config.latent_dim} numbers (seed"
            f" {config.seed}).",
            rows,
        )

    print(f"test L1 {l1['Q1']:.4f} per pixel from {config.latent_dim} numbers; {pca} {l1[pca]:.4f}")
    print(names.table(results.numbers, ["Q1", pca, "mean image"], ["l1", "mse"]))
    results.finish(mnist.sha256)


if __name__ == "__main__":
    run.command_line(main, Config)
