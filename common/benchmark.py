"""How fast is the training loop, beside what most tutorials write: DataLoader, ToTensor, default AdamW and layout?

    python -m common.benchmark

Model, loss and batch size are the same. The loops take turns, so that a machine whose speed drifts slows both.
"""

import copy
import dataclasses
import statistics
from functools import partial
from pathlib import Path
from timeit import timeit
from typing import Literal

import torch
from torch.utils.data import DataLoader, Subset
from torchvision import datasets, transforms

from common import data, download, run, train
from common.losses import classification_scores, reconstruction_errors
from common.models import Autoencoder, Classifier, Decoder, Encoder, Head, frozen

TURNS = 5  # of each loop, after one that is not counted


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    data_dir: Path = download.DATA_DIR
    """Folder of the raw data files; what is missing is fetched into it."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute; auto takes a GPU when there is one."""
    images: int = 6_400
    """Training images per turn, at most 55,000."""


def loss_fn(model: torch.nn.Module, inputs: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, dict]:
    """Return Q1's loss and errors where the targets are images, Q2's, without smoothing, where they are labels."""
    is_image = targets.is_floating_point()
    scores = (reconstruction_errors if is_image else classification_scores)(model(inputs), targets)
    return scores["bce" if is_image else "cross_entropy"], scores


def plain_loop(model: torch.nn.Module, loader: DataLoader, device: torch.device) -> float:
    optimiser = torch.optim.AdamW(model.parameters())
    model.train()
    for images, labels in loader:
        targets = images if isinstance(model, Autoencoder) else labels
        loss, _ = loss_fn(model, images.to(device), targets.to(device))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return loss.item()  # waits for a GPU, as the end of train.fit does


def main(config: Config) -> None:
    """Let the loops take turns with each model and print their medians."""
    run.require_limits(config)
    device = run.device(config.device)
    dataset = data.load("mnist", config.data_dir, device)
    images = min(config.images, len(dataset.train))
    settings = {"epochs": 1, "batch_size": 128, "learning_rate": 1e-3, "weight_decay": 1e-2, "seed": 0}  # as AdamW's
    plain = datasets.MNIST(config.data_dir, download=True, transform=transforms.ToTensor())  # unpacks what is there
    loader = DataLoader(Subset(plain, range(images)), settings["batch_size"], shuffle=True)
    encoder = frozen(Encoder().to(device))
    contests = {  # the plain loop's model, and what this loop trains on: of a frozen encoder, latents made once
        "autoencoder": (Autoencoder(Encoder(), Decoder()), dataset.to_reconstruct()),
        "classifier": (Classifier(Encoder(), Head()), dataset),
        "decoder, encoder frozen": (Autoencoder(encoder, Decoder()), train.encode(encoder, dataset)),
    }
    print(f"{device}, {torch.get_num_threads()} threads, images/s, medians of {TURNS} turns:")
    for name, (model, examples) in contests.items():
        plain_turn = partial(plain_loop, model.to(device), loader, device)
        ours = copy.deepcopy(model.decoder if model.encoder is encoder else model).to(memory_format=torch.channels_last)
        our_turn = partial(train.fit, ours, loss_fn, examples.train[:images], {}, **settings)
        turns = [(timeit(plain_turn, number=1), timeit(our_turn, number=1)) for _ in range(TURNS + 1)]
        plain_rate, our_rate = (images / statistics.median(seconds) for seconds in zip(*turns[1:], strict=True))
        print(f"{name:24} plain loop {plain_rate:6,.0f}   this loop {our_rate:6,.0f}   {our_rate / plain_rate:.1f}x")


if __name__ == "__main__":
    run.command_line(main, Config)
