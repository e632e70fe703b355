"""Q1: what does an encoder keep when all of the image must come back?

Trains a convolutional autoencoder with 12 latents and draws its loss, its reconstructions and its latents. Nearly all
of a typical digit survives: test MSE 0.0087 +- 0.0002 and L1 0.0300 +- 0.0004 per pixel (3 seeds), where 12 principal
components give 0.0312 and 0.0948.

    python q1_autoencoder.py           # 1.3 minutes on 2 CPU cores
    python q1_autoencoder.py --undo    # 1.1 minutes: shown warped images, it draws the unwarped ones; Q5 reads it

Needs nothing; fetches the data on first use.
Writes config.json, metrics.jsonl, summary.json, model.pt, loss.png, reconstructions.png and latents.png to
<output-dir>/q1_autoencoder/, with --undo to <output-dir>/q1_autoencoder-undo/.
"""

import dataclasses
import time
from typing import Literal

import torch
import torch.nn.functional as F
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from torch import Tensor
from tqdm import tqdm

from common import checkpoint, data, plots, run, train
from common.augment import STRONG_WARP
from common.losses import reconstruction_loss, refuse_collapse
from common.models import Autoencoder, Decoder, Encoder, pixels

LATENTS_SHOWN = 2_500  # test images in latents.png: enough for the shape of the clusters, few enough for t-SNE


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(run.Options):
    undo: bool = False
    """Show the encoder warped images and ask for the unwarped ones; results go to q1_autoencoder-undo, for Q5."""
    latent_dim: int = 12
    """Numbers between encoder and decoder, 2 to 784; 12 is this repository's assumption."""
    hidden_relu: bool = True
    """ReLU between the two linear layers of encoder and decoder; the report names none."""
    loss: Literal["bce", "mse", "l1"] = "bce"
    """What is minimised, per pixel; the test set is always scored by L1 and MSE."""
    epochs: int = 7
    """Passes over the 55,000 training images, unless warps are undone."""
    undo_epochs: int = 4
    """Passes where warps are undone: there a step takes longer."""
    batch_size: int = 128
    """Images per training iteration."""
    learning_rate: float = 1e-2
    """Peak of the one-cycle schedule for a layer of fan-in 128; lower it if the loss is not finite."""
    matrix_learning_rate: float = 0.02
    """Peak of Muon's schedule for the weights between first and last layer; 0 leaves them to AdamW."""
    weight_decay: float = 0.05
    """AdamW's decoupled weight decay."""

    def __post_init__(self) -> None:
        super().__post_init__()
        run.require(self, "latent_dim", least=2, most=784)
        run.require(self, "epochs", "undo_epochs", "batch_size", least=1, most=10**9)
        run.require(self, "weight_decay", "matrix_learning_rate", least=0)
        run.require(self, "learning_rate", least=1e-9)


def build(config: Config) -> Autoencoder:
    """Compose the encoder and its mirror image; everything trains."""
    sizes = {"latent_dim": config.latent_dim, "hidden_relu": config.hidden_relu}
    encoder = Encoder(**sizes, generator=run.generator(config.seed, "encoder"))
    decoder = Decoder(**sizes, generator=run.generator(config.seed, "decoder"))
    return Autoencoder(encoder, decoder)


def redrawn(split: data.Split) -> data.Split:
    """Return the split with its images in the place of the labels: what is to come out."""
    return data.Split(split.images, split.images)


def errors(drawn: Tensor, images: Tensor) -> dict[str, float]:
    """Return L1 and MSE per pixel of reconstructions (N, 1, 28, 28)."""
    return {"l1": F.l1_loss(drawn, images).item(), "mse": F.mse_loss(drawn, images).item()}


def pca_reconstructions(train_images: Tensor, images: Tensor, dimensions: int) -> Tensor:
    """Reconstruct ``images`` from as many principal components, fitted on ``train_images``."""
    pca = PCA(dimensions, random_state=0).fit(train_images.flatten(1).cpu().numpy())
    drawn = pca.inverse_transform(pca.transform(images.flatten(1).cpu().numpy()))
    return torch.from_numpy(drawn).to(images).reshape(images.shape)


def main(config: Config) -> dict:
    """Train, save, reload, measure, draw; return the summary."""
    started = time.perf_counter()
    device = run.device(config)
    dataset = data.load(config.dataset, config.data_dir, device)
    provenance = run.provenance(config, __file__, device, dataset.fingerprint, upstream={})
    folder = run.start(config, "q1_autoencoder-undo" if config.undo else __file__, provenance)

    model = build(config).to(device, memory_format=torch.channels_last)

    def loss_fn(model: Autoencoder, inputs: Tensor, images: Tensor) -> tuple[Tensor, dict]:
        return reconstruction_loss(model, inputs, images, config.loss)

    history = train.fit(
        model,
        loss_fn,
        redrawn(dataset.train),
        {name: redrawn(split) for name, split in dataset.held_out.items()},
        epochs=config.undo_epochs if config.undo else config.epochs,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        seed=config.seed,
        matrix_learning_rate=config.matrix_learning_rate,
        transform=STRONG_WARP if config.undo else None,
        snapshot=folder / run.SNAPSHOT,
    )

    refuse_collapse(history[-1]["validation"]["mse"], dataset)
    checkpoint.save(folder / "model.pt", model, config, history[-1])

    saved = checkpoint.load(folder / "model.pt")
    model = saved.model.to(device, memory_format=torch.channels_last)
    images, labels = dataset.test.images, dataset.test.labels
    metrics = train.evaluate(model, loss_fn, redrawn(dataset.test))
    mean_image = errors(dataset.train.images.mean(0).expand_as(images), images)
    pca = errors(pca_reconstructions(dataset.train.images, images, config.latent_dim), images)

    unit = run.UNITS[config.loss]
    title = "Q1 autoencoder that undoes warps" if config.undo else "Q1 autoencoder"
    plots.curves(folder / "loss.png", history, config.loss, f"{title}: loss over training iterations", unit)
    shown = torch.cat([torch.nonzero(labels == digit)[:1, 0] for digit in range(10)])
    drawn = pixels(train.apply(model, images[shown]))
    plots.reconstructions(
        folder / "reconstructions.png",
        [{"original": images[shown].cpu(), f"{config.latent_dim} latents": drawn.cpu()}],
        labels[shown],
        f"{title}: first test image of each digit, and its reconstruction",
    )
    codes = train.apply(model.encoder, images[:LATENTS_SHOWN]).cpu().numpy()
    projections = {"two principal components": PCA(2), "t-SNE": TSNE(random_state=config.seed)}
    plots.latents(
        folder / "latents.png",
        {
            name: projection.fit_transform(codes)
            for name, projection in tqdm(projections.items(), desc="latents", leave=False, disable=None)
        },
        labels[:LATENTS_SHOWN].cpu().numpy(),
        f"{title}: latents of {LATENTS_SHOWN:,} test images",
    )

    summary = {
        "metrics": run.quoted(metrics, "test") | run.quoted(history[-1]["validation"], "validation"),
        "baselines": run.quoted(mean_image, "test", "mean_image") | run.quoted(pca, "test", f"pca_{config.latent_dim}"),
        "seconds": time.perf_counter() - started,
        "checkpoint_sha256": saved.sha256,
    }
    run.finish(folder, provenance, history, summary)
    print(f"test MSE {metrics['mse']:.4f}, L1 {metrics['l1']:.4f}", end="; ")
    print(f"PCA with {config.latent_dim} components: MSE {pca['mse']:.4f}, L1 {pca['l1']:.4f}", end="; ")
    print(f"mean image: MSE {mean_image['mse']:.4f}, L1 {mean_image['l1']:.4f}")
    print(f"figures and numbers: {folder}")
    return summary


if __name__ == "__main__":
    run.command_line(main, Config)
