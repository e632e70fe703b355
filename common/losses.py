"""What reconstructions and classifications are scored by, and what no run may end with: the mean image."""

import torch
import torch.nn.functional as F
from torch import Tensor

from common.data import Dataset
from common.models import pixels
from common.run import RunError


def reconstruction_errors(logits: Tensor, images: Tensor) -> dict[str, Tensor]:
    """Return "l1", "mse" and "bce" (nats) of sigmoid(logits) against images (B, 1, 28, 28) in [0, 1]: pixel means."""
    reconstructions = pixels(logits)
    return {
        "l1": F.l1_loss(reconstructions, images),
        "mse": F.mse_loss(reconstructions, images),
        "bce": _binary_cross_entropy(logits, images),
    }


def _binary_cross_entropy(logits: Tensor, images: Tensor) -> Tensor:
    """F.binary_cross_entropy_with_logits, three times as fast on a CPU, where its log1p takes one number at a time.

    Its gradient is the same to float32's rounding, but at a logit of exactly 0, where it is -x in the place of 0.5 - x.
    """
    return (F.relu(logits) - logits * images - logits.abs().sigmoid().log()).mean()


def minimised(errors: dict[str, Tensor], images: Tensor, name: str) -> Tensor:
    """Return ``errors[name]``, or BCE while the batch's MSE is no better than the mean image's.

    L1 collapses if minimised from the start, and MSE can: most pixels are black, so all black comes first, and there
    the gradient of the sigmoid is gone. BCE on logits keeps its gradient (pixel minus target). A run that never gets
    past its mean image is refused (``refuse_collapse``), so that no loss is silently another one.
    """
    if name == "bce":
        return errors["bce"]
    mean_image_mse = images.var(0, correction=min(1, len(images) - 1)).mean()  # no lower in small batches, but in one
    return torch.where(errors["mse"] < mean_image_mse, errors[name], errors["bce"])


def classification_scores(logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Return "cross_entropy" (nats) and "accuracy" (a fraction) of logits (B, K) for labels (B,), means over B."""
    accuracy = (logits.argmax(1) == labels).float().mean()
    return {"cross_entropy": F.cross_entropy(logits, labels), "accuracy": accuracy}


def refuse_collapse(mse: float, dataset: Dataset) -> None:
    """Raise RunError unless a validation MSE is below that of the training images' mean image."""
    images = dataset.validation.inputs
    blank = F.mse_loss(dataset.train.inputs.mean(0).expand_as(images), images).item()
    if not mse < blank:  # true for nan
        raise RunError(
            f"collapsed: validation MSE {mse:.4f} is no better than the mean image's {blank:.4f}; no result was"
            " written: try another --learning-rate, more --epochs or --loss bce in Q1"
        )
