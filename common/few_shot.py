"""Labelled subsets of the training images, and when to measure while training on them."""

import dataclasses
import re

import torch
from torch import Tensor

from common.data import FIRST_IMAGES
from common.run import InputError, generator

REPORT = "report"  # name of the report's subset
# Records are at epochs 1, 1.4, 2, 2.8, ...: equally far apart on a logarithmic axis.
RECORD_RATIO = 2**0.5


@dataclasses.dataclass(frozen=True)
class Subset:
    """Labelled images: indices (N,) into the training split. Initial weights and batches draw from
    ``seed`` too.
    """

    name: str  # "report", "balanced 1", "balanced 2", ...
    seed: int
    indices: Tensor

    def file_name(self, model: str) -> str:
        """Return the name of the checkpoint of a model that was trained on this subset."""
        return re.sub(r"[^\w-]+", "_", f"{model} {self.name}") + ".safetensors"


def labelled_subsets(labels: Tensor, shots: int, count: int, seed: int) -> list[Subset]:
    """Return the report's subset, then ``count`` class-balanced ones of ``shots`` random images per
    digit.

    The report's are the exercise's, the first 100 training images, 5 to 14 of a digit: the same
    images for every seed.
    """
    subsets = [Subset(REPORT, 1000 * seed, torch.arange(FIRST_IMAGES))]
    for number in range(1, count + 1):
        subset_seed = 1000 * seed + number
        subsets.append(
            Subset(f"balanced {number}", subset_seed, balanced(labels, shots, subset_seed))
        )
    return subsets


def balanced(labels: Tensor, shots: int, seed: int) -> Tensor:
    """Draw ``shots`` indices per digit from ``labels`` (N,) at random: (10 * shots,) int64, digits
    0 to 9 in turn.

    The first 10 * k of one seed are its subset of k shots. InputError when a digit has fewer images
    than asked.
    """
    columns = []
    for digit in range(10):
        members = torch.nonzero(labels.cpu() == digit).flatten()
        if shots > len(members):
            raise InputError(
                f"--shots: got {shots}, expected 1 to {len(members)}, the images of digit {digit}"
            )
        order = torch.randperm(len(members), generator=generator(seed, f"balanced draw/{digit}"))
        columns.append(members[order[:shots]])
    return torch.stack(columns, dim=1).flatten()  # (shots, 10) -> (10 * shots,)


def epochs_for(iterations: int, images: int, batch_size: int) -> int:
    """Return how many passes over so many images take about ``iterations`` training steps."""
    steps_per_epoch = max(1, round(images / batch_size))
    return max(1, round(iterations / steps_per_epoch))


def record_epochs(epochs: int) -> set[int]:
    """Return 0, ..., epochs/2, epochs/1.4, epochs: records that are about equally far apart on a
    logarithmic axis.
    """
    record_at = {0}
    epoch = float(epochs)
    while epoch >= 1:
        record_at.add(round(epoch))
        epoch /= RECORD_RATIO
    return record_at
