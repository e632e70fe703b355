"""What the models minimise, for every script alike."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.data import Dataset
from common.models import pixels
from common.run import RunError


def reconstruction_loss(
    model: nn.Module, inputs: Tensor, images: Tensor, minimise: str
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the loss and the metrics "l1", "mse" and "bce" of a model whose logits redraw ``images`` (B, 1, 28, 28).

    Each is a mean over batch and pixels; ``minimise`` names the one that is the loss. L1 collapses if minimised from
    the start, and MSE can: most pixels are black, so all black comes first, and there the gradient of the sigmoid is
    gone. Binary cross-entropy on logits keeps its gradient (pixel minus target), so it is minimised until a batch's
    L1 is under half of that of all black, and whenever it slips back.
    """
    logits = model(inputs)  # (B, 1, 28, 28)
    drawn = pixels(logits)
    metrics = {
        "l1": F.l1_loss(drawn, images),
        "mse": F.mse_loss(drawn, images),
        "bce": F.binary_cross_entropy_with_logits(logits, images),
    }
    started = metrics["l1"] < images.mean() / 2
    return torch.where(started, metrics[minimise], metrics["bce"]), metrics


def classification_loss(
    model: nn.Module, images: Tensor, labels: Tensor, smoothing: float = 0.0
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the cross-entropy in nats as the loss, and the metrics "cross_entropy" and "accuracy" (a fraction), each
    a mean over the batch.

    The loss, not the metric, takes ``smoothing`` of each label's weight and gives it to all classes alike (Szegedy et
    al. 2016).
    """
    logits = model(images)  # (B, 10)
    cross_entropy = F.cross_entropy(logits, labels)
    loss = F.cross_entropy(logits, labels, label_smoothing=smoothing) if smoothing else cross_entropy
    return loss, {"cross_entropy": cross_entropy, "accuracy": (logits.argmax(1) == labels).float().mean()}


def refuse_collapse(mse: float, dataset: Dataset) -> None:
    """Raise RunError unless a validation MSE is below that of the training images' mean image."""
    images = dataset.validation.images
    blank = F.mse_loss(dataset.train.images.mean(0).expand_as(images), images).item()
    if not mse < blank:  # true for nan
        raise RunError(
            f"collapsed: validation MSE {mse:.4f} is no better than the mean image's {blank:.4f}; no result was"
            " written: try another --learning-rate, more --epochs or --loss bce in Q1"
        )
