"""The one training loop and the one evaluation: fit and evaluate."""

import math
import threading
from collections.abc import Callable, Collection, Iterator

import torch
from torch import Tensor, nn
from tqdm import tqdm

from common.data import Dataset, Split, batches
from common.models import fan_in
from common.run import RunError, generator

# (model, inputs, targets) -> (loss with a gradient, named metrics): scalars, each a mean over the batch
LossFunction = Callable[[nn.Module, Tensor, Tensor], tuple[Tensor, dict[str, Tensor]]]
# (inputs, generator on their device) -> inputs
Transform = Callable[[Tensor, torch.Generator], Tensor]

# Chosen on Q1's validation MSE, over AdamW's usual 0.999 and OneCycleLR's usual warm-up of 30 % and half a cosine.
BETAS = (0.9, 0.95)
WARM_UP = 0.1  # fraction of the steps in which the learning rate rises to its peak; then it falls linearly
REFERENCE_FAN_IN = 128  # layers this wide take --learning-rate itself
STEPS_PER_LOOK = 20  # a look at the losses waits for the device, so not at every step
EVALUATION_BATCH = 500  # keeps to the cache of a CPU


def fit(
    model: nn.Module, loss_fn: LossFunction, split: Split, held_out: dict[str, Split], *, epochs: int, batch_size: int,
    learning_rate: float, weight_decay: float, seed: int, matrix_learning_rate: float = 0.0,
    transform: Transform | None = None, looks: Collection[int] | None = None,
    watch: Callable[[int], None] | None = None,
) -> list[dict]:  # fmt: skip
    """Train ``model`` in place on ``split`` and return a record for each epoch, or for those in ``looks`` and the last.

    AdamW under a one-cycle learning rate that rises to ``learning_rate`` and falls to nearly zero (Smith & Topin
    2018), smaller for wide layers (``_optimisers``), over the parameters that require gradients; with a
    ``matrix_learning_rate``, the weights of linear layers are Muon's under that rate (Jordan et al. 2024). The order of
    an epoch, and ``transform`` of its inputs if given, draw from generators made of ``seed`` and the epoch's number.
    ``watch`` is called with the number of each iteration, from 1, when its step is taken; it must not change the model.

    A record holds epoch (0 is before training), step (training iterations so far), learning_rate, train (each metric at
    every step of the epoch) and under each name in ``held_out`` that split's metrics. Raises RunError when the loss is
    not finite, ValueError when nothing is trainable.
    """
    steps = math.ceil(len(split) / batch_size)
    optimisers = _optimisers(model, learning_rate, matrix_learning_rate, weight_decay)
    schedules = [_one_cycle(optimiser, epochs * steps) for optimiser in optimisers]
    looks = {epochs, *(range(1, epochs + 1) if looks is None else looks)}

    def measured(epoch: int, rate: float, metrics: dict[str, list[float]]) -> list[dict]:
        if epoch not in looks:
            return []
        record = {"epoch": epoch, "step": epoch * steps, "learning_rate": rate, "train": metrics}
        return [record | {name: evaluate(model, loss_fn, part) for name, part in held_out.items()}]

    history = measured(0, 0.0, {})
    alone = threading.current_thread() is threading.main_thread()  # fits side by side have one bar together
    with tqdm(total=epochs * steps, unit=" steps", leave=False, disable=None if alone else True) as progress:
        for epoch in range(1, epochs + 1):
            model.train()
            progress.set_description(f"epoch {epoch}/{epochs}", refresh=False)
            examples = _examples(split, batch_size, transform, seed, epoch)
            rate, metrics = _epoch(model, loss_fn, examples, schedules, epoch, steps, progress, watch)
            history += measured(epoch, rate, metrics)
    return history


def _examples(split: Split, batch_size: int, transform: Transform | None, seed: int, epoch: int) -> Iterator:
    """Yield the batches of an epoch: inputs, transformed anew, and targets."""
    noise = generator(seed, f"transform/{epoch}", split.inputs.device)
    for indices in batches(split, batch_size, generator(seed, f"batches/{epoch}")):
        batch = split[indices]
        yield batch.inputs if transform is None else transform(batch.inputs, noise), batch.targets


def _epoch(
    model: nn.Module, loss_fn: LossFunction, examples: Iterator, schedules: list, epoch: int, steps: int,
    progress: tqdm, watch: Callable[[int], None] | None,
) -> tuple[float, dict[str, list[float]]]:  # fmt: skip
    """Take a step for each batch, and return the last learning rate and each metric at every step."""
    values, rates, looked = [], [], 0
    group = schedules[0].optimizer.param_groups[0]
    for inputs, targets in examples:
        loss, metrics = loss_fn(model, inputs, targets)
        for schedule in schedules:
            schedule.optimizer.zero_grad()
        loss.backward()
        rates.append(group["lr"] / group["factor"])
        for schedule in schedules:
            schedule.optimizer.step()
            schedule.step()
        values.append(torch.stack([loss.detach(), *(value.detach() for value in metrics.values())]))
        if watch:
            watch((epoch - 1) * steps + len(values))
        if len(values) % STEPS_PER_LOOK == 0 or len(values) == steps:
            losses = torch.stack(values[looked:])[:, 0].tolist()
            for step, loss in enumerate(losses, looked):
                if not math.isfinite(loss):
                    where = f"epoch {epoch}, step {(epoch - 1) * steps + step + 1}, at learning rate {rates[step]:.2g}"
                    remedy = f"try --learning-rate {group['max_lr'] / group['factor'] / 3:.2g}"
                    raise RunError(f"the loss is {loss} in {where}; no result was written: {remedy}")
            progress.set_postfix_str(f"loss {losses[-1]:.4f}", refresh=False)
            progress.update(len(values) - looked)
            looked = len(values)
    return rates[-1], dict(zip(metrics, torch.stack(values)[:, 1:].T.tolist(), strict=True))


@torch.inference_mode()
def evaluate(model: nn.Module, loss_fn: LossFunction, split: Split) -> dict[str, float]:
    """Return each metric of ``loss_fn``, a mean over the examples of ``split``, in evaluation mode."""
    was_training = model.training
    model.eval()
    total = 0
    for start in range(0, len(split), EVALUATION_BATCH):
        batch = split[start : start + EVALUATION_BATCH]
        _, metrics = loss_fn(model, batch.inputs, batch.targets)
        total += torch.stack(list(metrics.values())).cpu().double() * len(batch)
    model.train(was_training)
    return dict(zip(metrics, (total / len(split)).tolist(), strict=True))


def _optimisers(
    model: nn.Module, learning_rate: float, matrix_learning_rate: float, weight_decay: float
) -> list[torch.optim.Optimizer]:
    """Return AdamW, with a group for each peak of the learning rate, and Muon if it has a rate and weights.

    AdamW's steps are equally large for every weight, so a layer's output moves in proportion to its fan-in. Weights
    take ``learning_rate`` times sqrt(128 / fan-in), at most 4 times; biases take ``learning_rate``.
    """
    linear = [layer.weight for layer in model.modules() if isinstance(layer, nn.Linear)] if matrix_learning_rate else []
    matrices = [weight for weight in linear if weight.requires_grad]
    orthogonal = set(matrices)
    groups: dict[float, list] = {}
    for layer in model.modules():
        for name, parameter in layer.named_parameters(recurse=False):
            terms = fan_in(layer) if name == "weight" else None
            factor = min(math.sqrt(REFERENCE_FAN_IN / terms), 4.0) if terms else 1.0
            if parameter.requires_grad and parameter not in orthogonal:
                groups.setdefault(factor, []).append(parameter)
    if not groups:
        raise ValueError("got a model without trainable parameters, expected at least one: is all of it frozen?")
    by_rate = [{"params": group, "lr": learning_rate * factor, "factor": factor} for factor, group in groups.items()]
    optimisers = [torch.optim.AdamW(by_rate, learning_rate, BETAS, weight_decay=weight_decay, fused=True)]
    return optimisers + ([torch.optim.Muon(matrices, matrix_learning_rate, weight_decay=0.0)] if matrices else [])


def _one_cycle(optimiser: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.OneCycleLR:
    peaks = [group["lr"] for group in optimiser.param_groups]
    rise = WARM_UP if steps > 1 / WARM_UP else 0.0  # a tenth of ten steps is one, a rise of no length: 0 / 0
    settings = {"total_steps": steps, "pct_start": rise, "anneal_strategy": "linear", "cycle_momentum": False}
    return torch.optim.lr_scheduler.OneCycleLR(optimiser, peaks, **settings)


def apply(function: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
    """Return ``function`` of inputs (N, ...), in batches and without gradients."""
    with torch.inference_mode():
        outputs = [function(batch) for batch in inputs.split(EVALUATION_BATCH)]
    return torch.cat(outputs)  # outside, since autograd takes nothing that was made in inference mode


def encode(encoder: nn.Module, dataset: Dataset) -> Dataset:
    """Return the dataset of a decoder on a frozen encoder: latents (N, D), computed once, and the images as targets."""
    splits = (dataset.train, dataset.validation, dataset.test)
    return Dataset(*(Split(apply(encoder, split.inputs), split.inputs) for split in splits), dataset.fingerprint)
