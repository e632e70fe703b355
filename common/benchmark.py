"""How fast is the training loop, beside what most tutorials write?

    python -m common.benchmark                 # about a minute
    python -m common.benchmark --time-to-99    # a quarter of an hour more

That is a DataLoader over PIL images and ToTensor, AdamW and the memory layout with their defaults.
Model, loss, batch size and images are the same. The loops take turns, so that a machine whose speed
drifts slows both. The second command also says how long Q2 trains, for as few epochs as will do,
until 99 % of the validation images are classified rightly.
"""

import copy
import dataclasses
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset
from torchvision.transforms.functional import to_pil_image, to_tensor

from common import data, download, run, train
from common.losses import classification_metrics, reconstruction_loss
from common.models import Autoencoder, Classifier, Decoder, Encoder, Head, freeze

TURNS = 5  # of each loop, after one that is not counted
GOAL = 0.99
SEEDS = range(5)
MOST_EPOCHS = 10
BATCH_SIZE = 128
RECIPE = train.Recipe(
    epochs=1,
    batch_size=BATCH_SIZE,
    learning_rate=1e-3,  # AdamW's default, as is the weight decay
    weight_decay=1e-2,
    record_epochs=(),
)
Q2_RECIPE = train.Recipe(epochs=8, batch_size=256, learning_rate=2e-2, weight_decay=0.3)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    dataset: download.DatasetName = "mnist"
    """Which images."""
    data_dir: Path = download.DATA_DIR
    """Folder of the raw data files; what is missing is fetched into it."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute; auto takes a GPU when there is one."""
    images: int = 6_400
    """Training images per turn, at most all of them."""
    time_to_99: bool = False
    """Also train Q2 for 1, 2, 3 ... epochs until its mean accuracy over 5 seeds is 99 %."""

    def __post_init__(self) -> None:
        run.require_limits(self)


@dataclasses.dataclass(frozen=True)
class Contest:
    """A model, trained for one epoch by either loop."""

    name: str
    plain_turn: Callable[[], object]
    our_turn: Callable[[], object]


class PilImages(Dataset):
    """Images as PIL images turned into tensors one by one, as torchvision.datasets.MNIST's are."""

    def __init__(self, split: data.Split):
        self._images = [to_pil_image(image) for image in split.images.cpu()]
        self._labels = split.labels.tolist()

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return to_tensor(self._images[index]), self._labels[index]


def loss(model: nn.Module, inputs: Tensor, targets: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Return Q1's loss where the targets are images, Q2's where they are labels."""
    outputs = model(inputs)
    if targets.is_floating_point():
        return reconstruction_loss(outputs, targets, "l1")
    metrics = classification_metrics(outputs, targets)
    return metrics["cross_entropy"], metrics


def plain_loop(model: nn.Module, loader: DataLoader, device: torch.device) -> float:
    """Train for one epoch as most tutorials do, and return the last loss."""
    optimiser = torch.optim.AdamW(model.parameters())
    model.train()
    for images, labels in loader:
        inputs = images.to(device)
        targets = inputs if isinstance(model, Autoencoder) else labels.to(device)
        batch_loss, _ = loss(model, inputs, targets)
        optimiser.zero_grad()
        batch_loss.backward()
        optimiser.step()
    return batch_loss.item()  # waits for a GPU, as the end of train.fit does


def contests(split: data.Split, device: torch.device) -> list[Contest]:
    """Return the three kinds of training: an autoencoder, a classifier, a decoder."""
    loader = DataLoader(PilImages(split), BATCH_SIZE, shuffle=True)

    def contest(
        name: str, whole: nn.Module, trained: nn.Module, examples: TensorDataset
    ) -> Contest:
        """Let the plain loop train ``whole``, and this one ``trained``, which may be a part."""
        ours = copy.deepcopy(trained).to(memory_format=torch.channels_last)
        return Contest(
            name,
            plain_turn=lambda: plain_loop(whole, loader, device),
            our_turn=lambda: train.fit(ours, loss, examples, {}, RECIPE, seed=0),
        )

    autoencoder = Autoencoder(Encoder(), Decoder()).to(device)
    classifier = Classifier(Encoder(), Head()).to(device)
    on_frozen = Autoencoder(freeze(Encoder()), Decoder()).to(device)
    # A frozen encoder's latents are made once.
    latents = train.apply(on_frozen.encoder, split.images)
    return [
        contest("autoencoder", autoencoder, autoencoder, split.to_reconstruct()),
        contest("classifier", classifier, classifier, split.to_classify()),
        contest(
            "decoder, encoder frozen",
            on_frozen,
            on_frozen.decoder,
            TensorDataset(latents, split.images),
        ),
    ]


def median_seconds(contest: Contest) -> tuple[float, float]:
    """Let the loops take turns, and return the median seconds of the plain one and of ours."""
    plain, ours = [], []
    for _ in range(1 + TURNS):
        for turn, seconds in ((contest.plain_turn, plain), (contest.our_turn, ours)):
            started = time.perf_counter()
            turn()
            seconds.append(time.perf_counter() - started)
    return statistics.median(plain[1:]), statistics.median(ours[1:])


def time_to_goal(mnist: data.Dataset, device: torch.device) -> None:
    """Train Q2 with its own recipe, stretched over ever more epochs, until GOAL is reached; print
    the accuracies, means over SEEDS, and the median seconds of training alone.
    """
    for epochs in range(1, MOST_EPOCHS + 1):
        accuracies, seconds = [], []
        for seed in SEEDS:
            encoder = Encoder(generator=run.generator(seed, "encoder"))
            model = Classifier(encoder, Head(generator=run.generator(seed, "head")))
            model = model.to(device, memory_format=torch.channels_last)
            examples = mnist.train.to_classify()
            recipe = dataclasses.replace(Q2_RECIPE, epochs=epochs)
            started = time.perf_counter()
            train.fit(model, loss, examples, {}, recipe, seed)
            seconds.append(time.perf_counter() - started)
            on_validation = train.evaluate(model, loss, mnist.validation.to_classify())
            on_test = train.evaluate(model, loss, mnist.test.to_classify())
            accuracies.append([on_validation["accuracy"], on_test["accuracy"]])
        validation, test = torch.tensor(accuracies).mean(0).tolist()
        print(
            f"Q2, {epochs} epochs: {validation:.2%} of the validation and {test:.2%} of the test"
            f" images (means of {len(SEEDS)} seeds) in {statistics.median(seconds):.0f} s"
        )
        if validation >= GOAL:
            return


def main(config: Config) -> None:
    """Print the rates of both loops, and their ratio in this very run."""
    device = run.select_device(config.device)
    dataset = data.load(config.dataset, config.data_dir, device)
    split = dataset.train[: config.images]
    threads = f", {torch.get_num_threads()} threads" if device.type == "cpu" else ""
    print(f"images/s on {device}{threads}, medians of {TURNS} turns of {len(split):,} images")
    for contest in contests(split, device):
        plain, ours = median_seconds(contest)
        print(
            f"{contest.name:24} plain loop {len(split) / plain:6,.0f}"
            f"   this loop {len(split) / ours:6,.0f}   {plain / ours:.1f}x"
        )
    if config.time_to_99:
        time_to_goal(dataset, device)


if __name__ == "__main__":
    run.command_line(main, Config)
