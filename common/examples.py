"""Images to look at: reconstructions in the course of training, on the way between two images, read as other digits."""

from collections.abc import Callable, Collection
from pathlib import Path

import numpy
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load as parse_tensors
from safetensors.torch import save as serialise_tensors
from torch import Tensor, nn

from common import train
from common.data import Split, first_of_each_digit
from common.models import pixels
from common.run import InputError

NAME = "frames.safetensors"  # in a folder of results
ITERATIONS, EVERY = (10, 50, 200, 1_000), range(1, 10**9)
DIGITS_SHOWN = 5
WALKS, WALK_STEPS = ((2, 7), (4, 9)), 7
MISREAD_DIGITS, MISREAD_SHOWN = (2, 7), 8  # of each
Groups = dict[str, dict[str, Tensor]]  # title -> row's name -> images, as plots.plot_images takes them
Readings = dict[str, dict[str, NDArray]]  # likewise, a digit for each image
Frames = dict[int, Tensor]  # iteration -> reconstructions (N, 1, 28, 28) in [0, 1], float32 on the CPU


def shown(split: Split) -> Split:
    """Return the first image of each of the last five digits, which differ more than the others."""
    return split[first_of_each_digit(split.targets)[-DIGITS_SHOWN:]]


def reconstruct(model: nn.Module, images: Tensor) -> Tensor:
    """Return what an autoencoder makes of images (N, 1, 28, 28), in [0, 1] on the CPU."""
    return pixels(train.apply(model, images)).cpu()


def watch(
    frames: Frames, model: nn.Module, images: Tensor, iterations: Collection[int] = ITERATIONS
) -> Callable[[int], None]:
    """Return a ``watch`` of ``train.fit`` that adds reconstructions of ``images`` to ``frames`` at ``iterations``."""

    def add(iteration: int) -> None:
        if iteration in iterations:
            frames[iteration] = reconstruct(model, images)

    return add


def save(path: Path, frames: Frames) -> None:
    """Write frames; equal ones give equal bytes."""
    path.write_bytes(serialise_tensors({str(iteration): images.contiguous() for iteration, images in frames.items()}))


def load(path: Path) -> Frames:
    """Return what ``save`` wrote; InputError if that cannot be read."""
    try:
        tensors = parse_tensors(path.read_bytes())
    except (OSError, SafetensorError) as error:
        raise InputError(f"cannot use {path} ({' '.join(str(error).split())}): run its script again") from error
    return {int(iteration): tensors[iteration] for iteration in sorted(tensors, key=int)}


def training(models: dict[str, nn.Module], frames: dict[str, Frames], images: Tensor) -> Groups:
    """Return, by model, the images, its ``frames`` of the iterations that all have, and what it makes of them now."""
    iterations = [iteration for iteration in ITERATIONS if all(iteration in of for of in frames.values())]
    return {
        name: {"original": images.cpu()}
        | {f"iteration\n{iteration:,}": frames[name][iteration] for iteration in iterations}
        | {"the end": reconstruct(model, images)}
        for name, model in models.items()
    }


def overfitting(frames: Frames, history: list[dict], images: Tensor) -> tuple[Groups, int]:
    """Return ``images``, the first half labelled, the others of the test set, and their ``frames`` at the iteration of
    the lowest loss on test images in the ``history`` of ``few_shot.fit`` and at four others of it; and that iteration.
    """
    lowest = min(history[1:], key=lambda record: record["test"]["bce"])["step"]
    rows = {"original": images.cpu()}
    for step in sorted({lowest, *(record["step"] for record in history[:0:-3][:4])}):
        rows["lowest test loss:\n" * (step == lowest) + f"iteration {step:,}"] = frames[step]
    halves = {name: row.chunk(2) for name, row in rows.items()}
    titles = ("labelled images, trained on", "test images")
    return {title: {name: of[half] for name, of in halves.items()} for half, title in enumerate(titles)}, lowest


def read(reader: nn.Module, images: Tensor) -> NDArray:
    """Return the digits that ``reader`` takes images (N, 1, 28, 28) for, (N,)."""
    return train.apply(reader, images.to(next(reader.parameters()).device)).argmax(1).cpu().numpy()


def walks(models: dict[str, nn.Module], test: Split, reader: nn.Module) -> tuple[Groups, Readings]:
    """Return, for some pairs of digits, what each model's decoder draws on the straight line between the latents of the
    first test images of the two, and what it is read as.
    """
    first, groups = test.inputs[first_of_each_digit(test.targets)], {}
    share = torch.linspace(0, 1, WALK_STEPS, device=first.device)[:, None]
    for start, end in WALKS:
        rows = groups.setdefault(f"from a {start} to a {end}", {})
        for name, model in models.items():
            from_latents, to_latents = train.apply(model.encoder, first[[start, end]])  # (D,) each
            latents = torch.lerp(from_latents, to_latents, share)  # (steps, D)
            rows[name] = pixels(train.apply(model.decoder, latents)).cpu()
    return groups, {title: {name: read(reader, of) for name, of in rows.items()} for title, rows in groups.items()}


def misread(
    reconstructions: dict[str, NDArray], labels: NDArray, reader: nn.Module
) -> tuple[tuple[Groups, Readings, Readings], tuple[int, int, int]]:
    """Return originals, Q1's and Q3's reconstructions of some test images of two digits, what the latter are read as,
    and the labels. All originals are read rightly. Of each digit those stand first, up to a half, of which Q1's is read
    as another digit and Q3's is not; the rest are the first others. Then: of how many that are read rightly only Q1's
    is read as another digit, and only Q3's.
    """
    asked = numpy.flatnonzero(numpy.isin(labels, MISREAD_DIGITS))
    asked = asked[read(reader, torch.from_numpy(reconstructions["original"][asked])) == labels[asked]]
    readings = {name: read(reader, torch.from_numpy(reconstructions[name][asked])) for name in ("Q1", "Q3")}
    wrong, chosen = {name: of != labels[asked] for name, of in readings.items()}, []
    q1_alone = wrong["Q1"] & ~wrong["Q3"]
    for digit in MISREAD_DIGITS:
        turned, others = (numpy.flatnonzero((labels[asked] == digit) & of) for of in (q1_alone, ~q1_alone))
        turned = turned[: MISREAD_SHOWN // 2]
        chosen += [*turned, *others[: MISREAD_SHOWN - len(turned)]]
    rows = {name: torch.from_numpy(reconstructions[name][asked[chosen]]) for name in ("original", *readings)}
    beside = {name: of[chosen] for name, of in readings.items()}, dict.fromkeys(readings, labels[asked[chosen]])
    counts = len(asked), int(q1_alone.sum()), int((wrong["Q3"] & ~wrong["Q1"]).sum())
    return ({"": rows}, *({"": of} for of in beside)), counts
