"""The one training loop, and evaluation."""

import dataclasses
import math
from collections.abc import Callable, Collection, Iterator

import pandas
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset
from tqdm import tqdm

from common.models import fan_in
from common.run import RunError, generator

# (model, inputs, targets) -> (loss to minimise, named metrics): scalars, each a mean over the
# batch. Or the loss alone, which is then the one metric, "loss".
Metrics = dict[str, Tensor | float]
Loss = Callable[[nn.Module, Tensor, Tensor], tuple[Tensor, Metrics] | Tensor]
# (inputs, generator on their device) -> inputs
Transform = Callable[[Tensor, torch.Generator], Tensor]

# Chosen on Q1's validation error, over AdamW's usual 0.999 and OneCycleLR's usual warm-up of 30 %
# and half a cosine.
BETAS = (0.9, 0.95)
# Share of the steps in which the learning rate rises to its peak; then it falls linearly.
WARM_UP = 0.1
REFERENCE_FAN_IN = 128  # layers this wide train at Recipe.learning_rate itself
STEPS_PER_READ = 20  # reading a loss waits for a GPU, so not at every step
EVALUATION_BATCH = 500  # fits a processor's cache


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a model is trained."""

    epochs: int
    batch_size: int
    # Peak of AdamW's one-cycle schedule, for a layer of fan-in 128.
    learning_rate: float
    # AdamW's, decoupled.
    weight_decay: float
    # Peak of Muon's schedule, if not 0: then it trains the weights of linear layers.
    muon_learning_rate: float = 0.0
    # Of the inputs, drawn anew for each batch.
    transform: Transform | None = None
    # When to evaluate held-out data, 0 being before training: after every epoch unless given.
    record_epochs: Collection[int] | None = None
    # Called with the step's number whenever that is done; must not change the model.
    after_record: Callable[[int], None] | None = None


def fit(
    model: nn.Module,
    loss: Loss,
    train: TensorDataset,
    held_out: dict[str, TensorDataset],
    recipe: Recipe,
    seed: int,
) -> pandas.DataFrame:
    """Train ``model`` in place on ``train`` (inputs, targets) and return the history.

    AdamW and, where the recipe says so, Muon (Jordan et al. 2024) over what requires gradients,
    under a one-cycle learning rate (Smith & Topin 2018). The order of an epoch and its transforms
    draw from generators made of ``seed`` and the epoch's number.

    The history is tidy: step (training steps taken so far), split, measure, value. It holds each
    metric of ``loss`` at every step, as split "train", and of all of each held-out split, before
    training and after each recorded epoch. Raises RunError when a loss is not finite, ValueError
    when nothing is trainable or there is nothing to train or to evaluate on.
    """
    for split, examples in {"train": train, **held_out}.items():
        require_examples(examples, split)
    steps = recipe.epochs * math.ceil(len(train) / recipe.batch_size)
    record_epochs = recipe.record_epochs
    if record_epochs is None:
        record_epochs = range(recipe.epochs + 1)
    optimisers = make_optimisers(model, recipe)
    schedules = [one_cycle(optimiser, steps) for optimiser in optimisers]

    step = 0
    unread: list[Tensor] = []  # loss and metrics of the last steps, still on the device
    rows: list[tuple] = []  # of the history

    def record() -> None:
        for split, examples in held_out.items():
            for measure, value in evaluate(model, loss, examples).items():
                rows.append((step, split, measure, value))
        if recipe.after_record:
            recipe.after_record(step)

    if 0 in record_epochs:
        record()
    with tqdm(total=steps, unit=" steps", leave=False, disable=None) as progress:
        for epoch in range(1, recipe.epochs + 1):
            model.train()
            for inputs, targets in batches(train, recipe, seed, epoch):
                batch_loss, metrics = loss_and_metrics(loss, model, inputs, targets)

                for optimiser in optimisers:
                    optimiser.zero_grad()
                batch_loss.backward()
                for optimiser, schedule in zip(optimisers, schedules, strict=True):
                    optimiser.step()
                    schedule.step()

                step += 1
                unread.append(torch.stack([batch_loss, *metrics.values()]).detach())
                if len(unread) == STEPS_PER_READ or step == steps:
                    rows += read_steps(unread, list(metrics), step, recipe)
                    progress.set_postfix_str(f"{rows[-1][2]} {rows[-1][3]:.4f}", refresh=False)
                    progress.update(len(unread))
                    unread.clear()
            if epoch in record_epochs:
                record()

    return pandas.DataFrame(rows, columns=["step", "split", "measure", "value"])


def loss_and_metrics(
    loss: Loss, model: nn.Module, inputs: Tensor, targets: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the loss of a batch, and its metrics as tensors beside it.

    ValueError unless the loss is one number.
    """
    result = loss(model, inputs, targets)
    batch_loss, metrics = (result, {}) if isinstance(result, Tensor) else result
    if batch_loss.numel() != 1:
        raise ValueError(
            f"loss: got a tensor of shape {tuple(batch_loss.shape)}, expected one number: a mean"
            " over the batch"
        )
    batch_loss = batch_loss.reshape(())
    tensors = {}
    for name, value in (metrics or {"loss": batch_loss}).items():
        tensors[name] = torch.as_tensor(value, device=batch_loss.device)
    return batch_loss, tensors


def require_examples(examples: TensorDataset, name: str) -> None:
    """Raise ValueError if there are none."""
    if len(examples) == 0:
        raise ValueError(f"{name}: got no examples, expected at least one")


def batches(
    train: TensorDataset, recipe: Recipe, seed: int, epoch: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield an epoch's inputs and targets in shuffled order; the last batch may be smaller."""
    device = train.tensors[0].device
    order = torch.randperm(len(train), generator=generator(seed, f"batches/{epoch}"))
    transform_generator = generator(seed, f"transform/{epoch}", device)
    for indices in order.to(device).split(recipe.batch_size):
        inputs, targets = train[indices]
        if recipe.transform:
            inputs = recipe.transform(inputs, transform_generator)
        yield inputs, targets


def read_steps(unread: list[Tensor], measures: list[str], step: int, recipe: Recipe) -> list[tuple]:
    """Return the history's rows of the last steps, up to ``step``; RunError if a loss is not
    finite.
    """
    rows = []
    first = step - len(unread) + 1
    for at, (loss, *values) in enumerate(torch.stack(unread).tolist(), first):
        if not math.isfinite(loss):
            remedy = f"try a lower learning rate than {recipe.learning_rate:g}"
            raise RunError(f"the loss is {loss} at step {at}; no result was written: {remedy}")
        for measure, value in zip(measures, values, strict=True):
            rows.append((at, "train", measure, value))
    return rows


@torch.inference_mode()
def evaluate(model: nn.Module, loss: Loss, examples: TensorDataset) -> dict[str, float]:
    """Return each metric of ``loss``, a mean over all ``examples`` (inputs, targets), in evaluation
    mode.
    """
    require_examples(examples, "evaluate")
    was_training = model.training
    model.eval()
    totals: dict[str, float] = {}
    for start in range(0, len(examples), EVALUATION_BATCH):
        inputs, targets = examples[start : start + EVALUATION_BATCH]
        _, metrics = loss_and_metrics(loss, model, inputs, targets)
        for name, value in metrics.items():
            totals[name] = totals.get(name, 0.0) + value.item() * len(inputs)
    model.train(was_training)
    return {name: total / len(examples) for name, total in totals.items()}


def apply(function: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
    """Return ``function`` of inputs (N, ...), in batches and without gradients."""
    with torch.inference_mode():
        outputs = [function(batch) for batch in inputs.split(EVALUATION_BATCH)]
    # Outside, since autograd takes nothing that was made in inference mode.
    return torch.cat(outputs)


def make_optimisers(model: nn.Module, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Return AdamW over what requires gradients and, if the recipe has a rate for it, Muon over
    linear weights.

    AdamW's steps are equally large for every weight, so a layer's output moves in proportion to its
    fan-in. Weights therefore train at ``learning_rate`` times sqrt(128 / fan-in), at most 4 times;
    biases at ``learning_rate``.
    """
    muon_weights = []
    groups: dict[float, list[nn.Parameter]] = {}  # AdamW's, by their factor of the learning rate
    for layer in model.modules():
        for name, parameter in layer.named_parameters(recurse=False):
            is_weight = name == "weight"
            if not parameter.requires_grad:
                continue
            if recipe.muon_learning_rate and is_weight and isinstance(layer, nn.Linear):
                muon_weights.append(parameter)
                continue
            terms = fan_in(layer) if is_weight else None
            factor = min(math.sqrt(REFERENCE_FAN_IN / terms), 4.0) if terms else 1.0
            groups.setdefault(factor, []).append(parameter)

    if not groups and not muon_weights:
        raise ValueError(
            "got a model without trainable parameters, expected at least one: is all of it frozen?"
        )
    by_rate = [
        {"params": group, "lr": recipe.learning_rate * factor} for factor, group in groups.items()
    ]
    optimisers: list[torch.optim.Optimizer] = []
    if by_rate:
        adamw = torch.optim.AdamW(
            by_rate, betas=BETAS, weight_decay=recipe.weight_decay, fused=True
        )
        optimisers.append(adamw)
    if muon_weights:
        optimisers.append(
            torch.optim.Muon(muon_weights, lr=recipe.muon_learning_rate, weight_decay=0.0)
        )
    return optimisers


def one_cycle(optimiser: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.OneCycleLR:
    """Return the schedule in which each group's learning rate rises to its own, the peak, and falls
    to nearly zero.
    """
    return torch.optim.lr_scheduler.OneCycleLR(
        optimiser,
        max_lr=[group["lr"] for group in optimiser.param_groups],
        total_steps=steps,
        # A tenth of ten steps is one: a rise of no length.
        pct_start=WARM_UP if steps > 1 / WARM_UP else 0.0,
        anneal_strategy="linear",
        cycle_momentum=False,
    )
