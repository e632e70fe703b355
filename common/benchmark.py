"""How fast is the training loop? Measured against the plain loop, in the same run.

    python -m common.benchmark

The plain loop is what most tutorials write: a DataLoader over torchvision's MNIST with ToTensor, the default memory
layout, the default AdamW. Model, batch size and loss are the same. The loops take turns and medians are compared, so
that a machine whose speed drifts slows both. The matmul share is the floating-point rate of a training step over that
of a 2048 x 2048 matrix product. Prints one table; writes nothing.
"""

import dataclasses
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset
from torch.utils.flop_counter import FlopCounterMode
from torchvision.datasets import MNIST
from torchvision.transforms import ToTensor
from tqdm import trange

from common import data, run, train
from common.download import DATA_DIR
from common.losses import classification_scores, reconstruction_errors
from common.models import Autoencoder, Classifier, Decoder, Encoder, Head, frozen


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    data_dir: Path = DATA_DIR
    """Folder of the raw data files; what is missing is fetched into it."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute; auto takes a GPU when there is one."""
    batch_size: int = 128
    """Images per training iteration, in both loops."""
    images: int = 6_400
    """Training images per turn, at most 55,000."""
    rounds: int = 5
    """Turns of each loop, after one that is not counted."""

    def __post_init__(self) -> None:
        run.require_limits(self)


def reconstruct(model: nn.Module, inputs: Tensor, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Return Q1's default loss and metrics; with a plain loader's labels as targets, the inputs are the images."""
    errors = reconstruction_errors(model(inputs), images if images.dim() == 4 else inputs)
    return errors["bce"], errors


def classify(model: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Return Q2's loss, without smoothing, and metrics."""
    logits = model(images)
    return F.cross_entropy(logits, labels), classification_scores(logits, labels)


def plain_loop(model: nn.Module, loss_fn: train.LossFunction, loader: DataLoader, device: torch.device) -> None:
    """Train for one epoch the way most tutorials do."""
    optimiser = torch.optim.AdamW(model.parameters(), 1e-3)
    model.train()
    for images, labels in loader:
        loss, _ = loss_fn(model, images.to(device), labels.to(device))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()


def our_loop(model: nn.Module, loss_fn: train.LossFunction, split: data.Split, batch_size: int) -> None:
    """Train for one epoch with the loop that the scripts use."""
    settings = {"epochs": 1, "batch_size": batch_size, "learning_rate": 1e-3, "weight_decay": 1e-2, "seed": 0}
    train.fit(model, loss_fn, split, {}, **settings)


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Return how long ``work`` takes, the device's share included."""
    started = time.perf_counter()
    work()
    if device.type != "cpu":
        torch.accelerator.synchronize()
    return time.perf_counter() - started


def main(config: Config) -> None:
    """Measure both loops with each model and print the table."""
    device = run.device(config.device)
    dataset = data.load("mnist", config.data_dir, device)
    images = min(config.images, len(dataset.train))
    plain_dataset = MNIST(config.data_dir, download=True, transform=ToTensor())  # "download" only unpacks: all is there
    loader = DataLoader(Subset(plain_dataset, range(images)), config.batch_size, shuffle=True)
    matrix = torch.randn(2048, 2048, device=device)

    encoder = frozen(Encoder().to(device))
    # name -> loss, the plain loop's model, this loop's, and what this loop trains on
    contests = {
        "autoencoder": (reconstruct, *(Autoencoder(Encoder(), Decoder()) for _ in "12"), dataset.to_reconstruct()),
        "classifier": (classify, *(Classifier(Encoder(), Head()) for _ in "12"), dataset),
        "decoder, encoder frozen": (
            reconstruct, Autoencoder(encoder, Decoder()), Decoder(), train.encode(encoder, dataset),
        ),
    }  # fmt: skip
    print(f"{device}, {torch.get_num_threads()} threads, batch {config.batch_size}, medians of {config.rounds} turns")
    print(f"{'images/s':24}{'plain loop':>12}{'this loop':>12}{'ratio':>7}{'matmul share':>14}")
    for name, (loss_fn, plain_model, our_model, trained_on) in contests.items():
        plain_model.to(device)
        our_model.to(device, memory_format=torch.channels_last)
        batch = trained_on.train[: config.batch_size]
        with FlopCounterMode(display=False) as counter:
            loss_fn(our_model, batch.inputs, batch.targets)[0].backward()
        work = {
            "plain": partial(plain_loop, plain_model, loss_fn, loader, device),
            "ours": partial(our_loop, our_model, loss_fn, trained_on.train[:images], config.batch_size),
            "matmul": partial(torch.mm, matrix, matrix),
        }
        turns = trange(config.rounds + 1, desc=name, leave=False, disable=None)
        rounds = [{part: seconds(do, device) for part, do in work.items()} for _ in turns]
        took = {part: statistics.median(turn[part] for turn in rounds[1:]) for part in work}
        plain, ours = images / took["plain"], images / took["ours"]
        share = (ours * counter.get_total_flops() / len(batch)) / (2 * len(matrix) ** 3 / took["matmul"])
        print(f"{name:24}{plain:>12,.0f}{ours:>12,.0f}{ours / plain:>6.1f}x{share:>14.0%}")


if __name__ == "__main__":
    run.command_line(main, Config)
