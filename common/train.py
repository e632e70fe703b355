"""The one training loop and the one evaluation: fit and evaluate."""

import io
import math
import threading
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from common import checkpoint
from common.data import Dataset, Split, batches
from common.models import fan_in
from common.muon import Muon
from common.run import RunError, generator, write

# (model, images, labels) -> (loss, metrics): the loss is a scalar with a gradient, the metrics are named scalars to
# report; each is a mean over the batch.
LossFunction = Callable[[nn.Module, Tensor, Tensor], tuple[Tensor, dict[str, Tensor]]]
# (images, generator on their device) -> images
Transform = Callable[[Tensor, torch.Generator], Tensor]

# Chosen on Q1's validation MSE, over AdamW's usual 0.999 and OneCycleLR's usual warm-up of 30 % and half a cosine.
BETAS = (0.9, 0.95)
WARM_UP = 0.1  # fraction of the steps in which the learning rate rises to its peak; then it falls linearly
REFERENCE_FAN_IN = 128  # layers this wide take --learning-rate itself
STEPS_PER_LOOK = 20  # a look at the losses waits for the device, so not at every step
STOPPING = threading.Event()  # set: every run in flight is to end at its next batch
EVALUATION_BATCH = 500  # keeps to the cache of a CPU; the result does not depend on it beyond rounding


def fit(
    model: nn.Module,
    loss_fn: LossFunction,
    examples: Split,
    evaluated: dict[str, Split],
    *,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    weight_decay: float,
    seed: int,
    matrix_learning_rate: float = 0.0,
    transform: Transform | None = None,
    snapshot: Path | None = None,
) -> list[dict]:
    """Train ``model`` in place on ``examples`` and return one record per epoch.

    AdamW under a one-cycle learning rate that rises to ``learning_rate`` and falls to nearly zero (Smith & Topin
    2018), smaller for wide layers (``_optimisers``), over the parameters that require gradients; with a
    ``matrix_learning_rate``, the weights between the first layer and the last are Muon's under that rate. Each epoch
    visits every example once; its order, and ``transform`` if given, draw from generators made of ``seed`` and the
    epoch's number.

    A record holds ``epoch``, ``step`` (training iterations so far), ``learning_rate``, ``train`` (each metric at
    every step of the epoch) and under each name in ``evaluated`` that split's metrics, by ``evaluate``.

    With ``snapshot``, the state after each epoch is kept in that file, and a run that finds it there goes on from it to
    the same bits; that it is a run with the same options is ``run.start``'s to see to. No generator is in it, since
    each epoch makes its own.

    Raises RunError when the loss is not finite, ValueError when nothing is trainable.
    """
    optimisers = _optimisers(model, learning_rate, matrix_learning_rate, weight_decay)
    images = len(examples)
    device = examples.images.device
    steps = math.ceil(images / batch_size)
    schedules = [
        torch.optim.lr_scheduler.OneCycleLR(
            optimiser,
            [group["lr"] for group in optimiser.param_groups],
            total_steps=epochs * steps,
            pct_start=WARM_UP,
            anneal_strategy="linear",
            cycle_momentum=False,
        )
        for optimiser in optimisers
    ]
    state = {"model": model}
    for number, pair in enumerate(zip(optimisers, schedules, strict=True)):
        state |= {f"{name} {number}": part for name, part in zip(("optimiser", "schedule"), pair, strict=True)}
    history = _resume(state, snapshot)

    bar = {"total": epochs * images, "initial": len(history) * images, "unit": " images", "unit_scale": True}
    with tqdm(**bar, leave=False, disable=None) as progress:  # disable=None: quiet when not on a terminal
        for epoch in range(len(history) + 1, epochs + 1):
            model.train()
            noise = generator(seed, f"transform/{epoch}", device)
            values, rates, looked = [], [], 0
            for indices in batches(examples, batch_size, generator(seed, f"batches/{epoch}")):
                if STOPPING.is_set():
                    raise KeyboardInterrupt
                batch = examples[indices]
                inputs = batch.images if transform is None else transform(batch.images, noise)
                loss, metrics = loss_fn(model, inputs, batch.labels)
                for optimiser in optimisers:
                    optimiser.zero_grad()
                loss.backward()
                rates.append(optimisers[0].param_groups[0]["lr"] / optimisers[0].param_groups[0]["factor"])
                for optimiser, schedule in zip(optimisers, schedules, strict=True):
                    optimiser.step()
                    schedule.step()
                values.append(torch.stack([loss.detach(), *(value.detach() for value in metrics.values())]))
                if len(values) % STEPS_PER_LOOK == 0 or len(values) == steps:
                    losses = torch.stack(values[looked:])[:, 0].tolist()
                    _stop_unless_finite(losses, rates[looked:], epoch, (epoch - 1) * steps + looked + 1, learning_rate)
                    looked = len(values)
                    progress.set_postfix_str(f"epoch {epoch}/{epochs}, loss {losses[-1]:.4f}", refresh=False)
                    progress.update(min(((epoch - 1) * images + looked * batch_size), epoch * images) - progress.n)
            record = {"epoch": epoch, "step": epoch * steps, "learning_rate": rates[-1]}
            record["train"] = dict(zip(metrics, torch.stack(values)[:, 1:].T.tolist(), strict=True))
            record |= {name: evaluate(model, loss_fn, split) for name, split in evaluated.items()}
            history.append(record)
            if snapshot:
                saved = io.BytesIO()
                torch.save({name: part.state_dict() for name, part in state.items()} | {"history": history}, saved)
                write(snapshot, saved.getvalue())
    return history


@torch.inference_mode()
def evaluate(model: nn.Module, loss_fn: LossFunction, split: Split) -> dict[str, float]:
    """Return each metric of ``loss_fn`` averaged over the images of ``split``, in evaluation mode, without gradients.

    Every image weighs the same, whatever the size of the batch it falls in. The model's mode is left as it was.
    """
    was_training = model.training
    model.eval()
    total = 0
    for start in range(0, len(split), EVALUATION_BATCH):
        if STOPPING.is_set():
            raise KeyboardInterrupt
        batch = split[start : start + EVALUATION_BATCH]
        _, metrics = loss_fn(model, batch.images, batch.labels)
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
    layers = [layer for layer in model.modules() if fan_in(layer)]
    matrices = [layer.weight for layer in layers[1:-1] if layer.weight.requires_grad] if matrix_learning_rate else []
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
    by_rate = [{"params": found, "lr": learning_rate * factor, "factor": factor} for factor, found in groups.items()]
    optimisers = [torch.optim.AdamW(by_rate, learning_rate, BETAS, weight_decay=weight_decay, fused=True)]
    return optimisers + ([Muon(matrices, matrix_learning_rate)] if matrices else [])


def _stop_unless_finite(losses: list[float], rates: list[float], epoch: int, first_step: int, peak: float) -> None:
    for step, (loss, rate) in enumerate(zip(losses, rates, strict=True), first_step):
        if not math.isfinite(loss):
            raise RunError(
                f"the loss is {loss} in epoch {epoch}, step {step}, at learning rate {rate:.2g}; no result was written:"
                f" try --learning-rate {peak / 3:.2g}"
            )


def apply(function: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
    """Return ``function`` of inputs (N, ...), in batches and without gradients."""
    with torch.inference_mode():
        outputs = [function(batch) for batch in inputs.split(EVALUATION_BATCH)]
    return torch.cat(outputs)  # outside, since autograd takes nothing that was made in inference mode


def encode(encoder: nn.Module, dataset: Dataset) -> Dataset:
    """Return the dataset that a decoder trains on: latents (N, D) in the place of images, images in that of labels.

    Done once for a frozen encoder, this saves its forward pass at every step.
    """
    splits = (dataset.train, dataset.validation, dataset.test)
    return Dataset(*(Split(apply(encoder, split.images), split.images) for split in splits), dataset.fingerprint)


def _resume(state: dict, path: Path | None) -> list[dict]:
    if path is None or not path.exists():
        return []
    try:
        saved, _ = checkpoint.read(path)
    except ValueError as error:
        print(f"starting over: {error}")
        return []
    for name, part in state.items():
        part.load_state_dict(saved[name])
    return saved["history"]
