"""Q1: what does an encoder keep when all of the image must come back?

Trains a convolutional autoencoder with 12 latents. Nearly all of a typical digit survives: test MSE 0.0086 ± 0.0001 and
L1 0.0298 ± 0.0002 per pixel (10 seeds), where 12 principal components give 0.0312 and 0.0948.

    python q1_autoencoder.py           # 1.6 minutes of one CPU core
    python q1_autoencoder.py --undo    # 0.9 minutes: shown warped images, it gives back the unwarped ones; for Q5

Needs nothing; fetches the data on first use.
Writes config.json, metrics.jsonl, summary.json, model.safetensors, frames.safetensors (for Q3) and *.png to
<output-dir>/q1_autoencoder/, and with --undo to <output-dir>/q1_undo/.
"""

import dataclasses
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from common import checkpoint, data, examples, plots, representation, run, train
from common.augment import STRONG_WARP
from common.losses import minimised, reconstruction_errors, refuse_collapse
from common.models import Autoencoder, Decoder, Encoder


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(run.Options):
    undo: bool = False
    """Show the encoder warped images and ask for the unwarped ones; results go to q1_undo, for Q5."""
    latent_dim: int = 12
    """Numbers that the encoder ends in, 2 to 784; 12 is this repository's assumption."""
    hidden_relu: bool = True
    """ReLU between two linear layers that follow one another; the report names none."""
    loss: Literal["bce", "mse", "l1"] = "bce"
    """What is minimised, per pixel; the test set is always scored by L1 and MSE."""
    epochs: int | None = None
    """Passes over the 55,000 training images; 8, or 4 with --undo, where a step takes longer, unless given."""
    batch_size: int = 128
    """Images per training iteration."""
    learning_rate: float = 1e-2
    """Peak of the one-cycle schedule for a layer of fan-in 128; lower it if the loss is not finite."""
    matrix_learning_rate: float = 0.02
    """Peak of Muon's schedule for the weights of linear layers; 0 leaves them to AdamW."""
    weight_decay: float = 0.05
    """AdamW's decoupled weight decay."""


def build(config: Config) -> Autoencoder:
    """Compose the encoder and its mirror image."""
    sizes = {"latent_dim": config.latent_dim, "hidden_relu": config.hidden_relu}
    encoder = Encoder(**sizes, generator=run.generator(config.seed, "encoder"))
    decoder = Decoder(**sizes, generator=run.generator(config.seed, "decoder"))
    # Nothing is frozen: the question is what the encoder learns.
    return Autoencoder(encoder, decoder)


def loss(model: nn.Module, inputs: Tensor, targets: Tensor, config: Config) -> tuple[Tensor, dict[str, Tensor]]:
    """Return what is minimised, and all scores."""
    logits = model(inputs)  # (B, 1, 28, 28)
    # Means over B * 784 pixels x, with p = sigmoid(logits): mse (p - x)^2, l1 |p - x|, bce -x log p - (1-x) log(1-p).
    errors = reconstruction_errors(logits, targets)
    # BCE has its minimum at p = x too, and unlike L1 and MSE it has a gradient where all is black.
    return minimised(errors, targets, config.loss), errors


def figures(
    folder: Path, config: Config, history: list[dict], model: nn.Module, test: data.Split, baselines: dict[str, NDArray]
) -> dict[str, str]:  # fmt: skip
    """Plot what the question asks to see; return the captions by file."""
    levels = {name: representation.errors(of, test.inputs.cpu().numpy())["mse"] for name, of in baselines.items()}
    pca, digits = next(iter(baselines)), data.first_of_each_digit(test.targets)
    shown, end = test.inputs[digits], f"test MSE {history[-1]['test']['mse']:.4f} (seed {config.seed})"
    if config.undo:
        warped = STRONG_WARP(shown, run.generator(config.seed, "warps shown", shown.device))
        latents = train.apply(model.encoder, test.inputs)
        nearest = torch.cdist(latents[:1_000], latents).topk(2, largest=False).indices[:, 1]  # the first is the image
        same = (test.targets[nearest] == test.targets[:1_000]).float().mean()
        nearest = torch.cdist(latents[digits], latents).topk(2, largest=False).indices[:, 1]
        captions = {
            "loss.png": f"Q1 that undoes warps: {end} on images without a warp. Training images are warped anew every"
            " epoch, validation and test images are not, and nothing is to be undone there: the curves need not agree",
            "reconstructions.png": f"Warps undone: of the first 1,000 test images {same:.1%} have their nearest latents"
            f" from the same digit (seed {config.seed}). The first test image of each digit: as it is, warped,"
            " what the decoder makes of that, and the test image with the nearest latents",
        }
        rows = {"plain": shown, "augmented:\nwarped": warped, "undo:\noutput": examples.reconstruct(model, warped)}
        rows["spread:\nnearest"] = test.inputs[nearest]
    else:
        captions = {
            "loss.png": f"Q1: {end}, where {config.latent_dim} principal components leave {levels[pca]:.4f}. Beside"
            " them the training images' mean image; validation and test lie on each other",
            "reconstructions.png": f"A digit redrawn from {config.latent_dim} numbers by Q1: {end}; by as many"
            f" principal components {levels[pca]:.4f}. The first test image of each digit",
        }
        rows = {"original": shown, "Q1": examples.reconstruct(model, shown)}
        rows[pca] = torch.from_numpy(baselines[pca][digits])
    plots.plot_curves(folder / "loss.png", captions["loss.png"], history, "mse", levels)
    groups = {"": {name: images.cpu() for name, images in rows.items()}}
    plots.plot_images(folder / "reconstructions.png", captions["reconstructions.png"], groups)
    return captions


def main(config: Config) -> dict:
    """Load, build, train, save, reload, measure, plot; return the summary."""
    if config.loss != "bce" and config.batch_size == 1:
        raise run.InputError(f"--batch-size: got 1, expected 2 or more with --loss {config.loss} (losses.minimised)")
    step = run.start(config, "q1_undo" if config.undo else "q1_autoencoder")
    labelled = data.load(config.dataset, config.data_dir, step.device)
    dataset = labelled.to_reconstruct()  # what is to come out are images, never warped
    model = build(config).to(step.device, memory_format=torch.channels_last)
    loss_fn, frames = partial(loss, config=config), {}
    history = train.fit(
        model,
        loss_fn,
        dataset.train,
        dataset.held_out,
        epochs=config.epochs or (4 if config.undo else 8),
        batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        seed=config.seed,
        matrix_learning_rate=config.matrix_learning_rate,
        transform=STRONG_WARP if config.undo else None,
        watch=examples.watch(frames, model, examples.shown(labelled.test).inputs),
    )
    examples.save(step.folder / examples.NAME, frames)
    refuse_collapse(history[-1]["validation"]["mse"], dataset)
    model = checkpoint.reloaded(step.folder / "model.safetensors", model, config, history[-1])
    metrics = train.evaluate(model, loss_fn, dataset.test)
    # Plain baselines, with which these numbers are to be compared.
    train_images, test_images = dataset.train.inputs.cpu().numpy(), dataset.test.inputs.cpu().numpy()
    baselines = {
        f"PCA-{config.latent_dim}": representation.pca_code(train_images, test_images, config.latent_dim)[-1],
        "mean image": train_images.mean(0, keepdims=True).repeat(len(test_images), 0),
    }
    name, headline = ("Q1 that undoes warps", ()) if config.undo else ("Q1", ("mse", "l1"))
    numbers = run.numbers(name, metrics, "test", headline)
    numbers += run.numbers(name, history[-1]["validation"], "validation")
    answer = [f"{name}: test MSE {metrics['mse']:.4f}, L1 {metrics['l1']:.4f} per pixel"]
    for name, reconstructions in baselines.items():
        errors = representation.errors(reconstructions, test_images)
        numbers += run.numbers(name, errors, "test", headline)
        answer += [f"{name}: MSE {errors['mse']:.4f}, L1 {errors['l1']:.4f}"]
    captions = figures(step.folder, config, history, model, labelled.test, baselines)
    return step.finish(dataset.fingerprint, history, answer=answer, numbers=numbers, figures=captions)


if __name__ == "__main__":
    run.command_line(main, Config)
