"""How fast is the training loop, beside what most tutorials write: DataLoader, ToTensor, default AdamW and layout?

    python -m common.benchmark            # about a minute
    python -m common.benchmark --scale    # about 5 minutes: steps a minute on a Dask cluster of this machine

Model, loss and batch size are the same. The loops take turns, so that a machine whose speed drifts slows both.
"""

import contextlib
import copy
import dataclasses
import importlib.util
import multiprocessing
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import as_completed
from functools import partial
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from pathlib import Path
from timeit import timeit
from typing import Literal

import torch
from torch.utils.data import DataLoader, Subset
from torchvision import datasets, transforms

from common import data, download, run, train
from common.engines import Here, Task
from common.losses import classification_scores, reconstruction_errors
from common.models import Autoencoder, Classifier, Decoder, Encoder, Head, frozen

TURNS = 5  # of each loop, after one that is not counted
SCALE_STEPS = 8  # of about ten seconds


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    data_dir: Path = download.DATA_DIR
    """Folder of the raw data files; what is missing is fetched into it."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute; auto takes a GPU when there is one."""
    images: int = 6_400
    """Training images per turn, at most 55,000."""
    scale: bool = False
    """Measure instead how many steps a minute the workers of a Dask cluster on this machine make."""


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


def contests(config: Config, device: torch.device) -> tuple[int, dict[str, tuple[Callable, Callable]]]:
    """Return the images of a turn and, by model, a turn of the plain loop and one of this loop."""
    dataset = data.load("mnist", config.data_dir, device)
    images = min(config.images, len(dataset.train))
    settings = {"epochs": 1, "batch_size": 128, "learning_rate": 1e-3, "weight_decay": 1e-2, "seed": 0}  # as AdamW's
    plain = datasets.MNIST(config.data_dir, download=True, transform=transforms.ToTensor())  # unpacks what is there
    loader = DataLoader(Subset(plain, range(images)), settings["batch_size"], shuffle=True)
    encoder = frozen(Encoder().to(device))
    models = {  # the plain loop's model, and what this loop trains on: of a frozen encoder, latents made once
        "autoencoder": (Autoencoder(Encoder(), Decoder()), dataset.to_reconstruct()),
        "classifier": (Classifier(Encoder(), Head()), dataset),
        "decoder, encoder frozen": (Autoencoder(encoder, Decoder()), train.encode(encoder, dataset)),
    }
    turns = {}
    for name, (model, examples) in models.items():
        plain_turn = partial(plain_loop, model.to(device), loader, device)
        ours = copy.deepcopy(model.decoder if model.encoder is encoder else model).to(memory_format=torch.channels_last)
        turns[name] = (plain_turn, partial(train.fit, ours, loss_fn, examples.train[:images], {}, **settings))
    return images, turns


def medians(*turns: Callable) -> list[float]:
    """Let the loops take turns, and return the median seconds of each."""
    seconds = [[timeit(turn, number=1) for turn in turns] for _ in range(TURNS + 1)]
    return [statistics.median(of) for of in zip(*seconds[1:], strict=True)]


def one_of_many(config: Config, started: Barrier, rates: Queue) -> None:
    """Train each model with one thread, when all processes have come so far, and tell its images/s."""
    torch.set_num_threads(1)
    images, turns = contests(config, torch.device("cpu"))
    for name, (_, our_turn) in turns.items():
        started.wait()
        rates.put((name, images / medians(our_turn)[0]))


def side_by_side(config: Config, processes: int) -> dict[str, float]:
    """Return, by model, the images/s that so many processes of one thread each reach together."""
    context, total = multiprocessing.get_context("spawn"), Counter()
    started, rates = context.Barrier(processes), context.Queue()
    workers = [context.Process(target=one_of_many, args=(config, started, rates)) for _ in range(processes)]
    for worker in workers:
        worker.start()
    for _ in range(processes * 3):
        name, rate = rates.get(timeout=600)  # queue.Empty where one has died
        total[name] += rate
    return total


def loop(config: Config) -> None:
    """Print the rates of both loops, of this one with all threads, and of a process for each core."""
    device, threads = run.device(config.device), torch.get_num_threads()
    on_cpu = device.type == "cpu"
    images, turns = contests(config, device)  # has the data, which the processes read
    together = side_by_side(config, threads) if on_cpu else {}
    torch.set_num_threads(1 if on_cpu else threads)
    print(f"{device}, images/s, medians of {TURNS} turns; one thread on a CPU unless said")
    for name, (plain_turn, our_turn) in turns.items():
        plain_rate, our_rate = (images / seconds for seconds in medians(plain_turn, our_turn))
        line = f"{name:24} plain loop {plain_rate:6,.0f}   this loop {our_rate:6,.0f}   {our_rate / plain_rate:.1f}x"
        if on_cpu:
            torch.set_num_threads(threads)
            line += f"   {threads} threads {images / medians(our_turn)[0]:6,.0f}"
            torch.set_num_threads(1)
            line += f"   {threads} processes {together[name]:6,.0f}, {together[name] / threads:6,.0f} per core"
        print(line)


def scale(config: Config) -> None:
    """Print the small steps a minute that one process at a time makes, and 1, 2 and 4 workers of a Dask cluster."""
    if importlib.util.find_spec("distributed") is None:
        raise run.InputError("--scale: dask.distributed is not installed: pip install -r requirements-cluster.txt")
    import distributed

    from common.cluster import Cluster

    cores, rates = Here(None).count, {}
    for workers in (0, 1, 2, 4):
        with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as cleared:
            engine = Here(1)
            if workers:
                settings = {"threads_per_worker": 1, "dashboard_address": ":0", "local_directory": folder}
                local = cleared.enter_context(distributed.LocalCluster(n_workers=workers, processes=True, **settings))
                engine = Cluster(local.scheduler_address)
            options = [["--plain", "--epochs", "1", "--seed", str(seed)] for seed in range(SCALE_STEPS)]
            outputs = [Path(folder, f"seed{seed}") for seed in range(SCALE_STEPS)]
            task = partial(Task, "q2_classifier.py", folder="q2_plain", needs=(), data_dir=config.data_dir.resolve())
            tasks = [task(options=of, output_dir=output) for of, output in zip(options, outputs, strict=True)]
            started = time.perf_counter()
            try:
                futures = {engine.submit(task): task for task in tasks}
                for future in as_completed(futures):
                    if (ended := engine.ended(futures[future], future)).code:
                        raise run.RunError(ended.said)
            finally:
                engine.stop()
            rates[workers] = 60 * SCALE_STEPS / (time.perf_counter() - started)
        ideal = rates[0] * min(max(workers, 1), cores)
        name = f"{workers} workers" if workers else "no cluster, one at a time"
        print(f"{name:26} {rates[workers]:5.1f} steps a minute, {rates[workers] / ideal:4.0%} of ideal", flush=True)
    print(f"{60 / rates[1] - 60 / rates[0]:.2f} s of scheduling, sending and checking the data a step; {cores} cores")


def main(config: Config) -> None:
    """Measure the loop, or the cluster."""
    run.require_limits(config)
    (scale if config.scale else loop)(config)


if __name__ == "__main__":
    run.command_line(main, Config)
