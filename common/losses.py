"""What is minimised and recorded, and the collapse that no run may end with."""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from common.data import Dataset
from common.models import pixels
from common.run import RunError

ReconstructionLoss = Literal["l1", "mse", "bce"]


def reconstruction_loss(
    logits: Tensor, images: Tensor, name: ReconstructionLoss
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the loss of that name and the metrics to record, of decoder logits against images (B,
    1, 28, 28).

    All are means over B * 784 pixels in [0, 1]: "l1" absolute and "mse" squared error, "bce"
    cross-entropy in nats.

    L1 minimised from the start falls into all black and stays there: most pixels are black, and
    where the sigmoid is at 0 it passes no gradient on. MSE can do so too. Cross-entropy on logits
    keeps its gradient, pixel minus target. So it is minimised in the place of the others while a
    batch is no better than its own mean image, which is over within about 100 steps. A Q1 or Q3
    that never gets past its mean image is refused (``refuse_collapse``).
    """
    reconstructions = pixels(logits)
    metrics = {
        "l1": F.l1_loss(reconstructions, images),
        "mse": F.mse_loss(reconstructions, images),
    }
    if name == "bce":
        metrics["bce"] = binary_cross_entropy(logits, images)
        return metrics["bce"], metrics

    is_past_mean_image = metrics["mse"] < images.var(0, correction=min(1, len(images) - 1)).mean()
    loss = metrics[name] if is_past_mean_image else binary_cross_entropy(logits, images)
    return loss, metrics


def binary_cross_entropy(logits: Tensor, images: Tensor) -> Tensor:
    """Return F.binary_cross_entropy_with_logits, three times as fast on a CPU, where log1p takes
    one number at a time.

    The gradient is the same to float32's rounding, but at a logit of exactly 0, where it is -x in
    the place of 0.5 - x.
    """
    return (F.relu(logits) - logits * images - logits.abs().sigmoid().log()).mean()


def classification_metrics(logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Return "cross_entropy" (nats) and "accuracy" (a fraction) of logits (B, K) for labels (B,),
    means over B.
    """
    return {
        "cross_entropy": F.cross_entropy(logits, labels),
        "accuracy": (logits.argmax(1) == labels).float().mean(),
    }


def refuse_collapse(mse: float, dataset: Dataset) -> None:
    """Raise RunError unless a validation MSE is below that of the training images' mean image."""
    images = dataset.validation.images
    mean_image_mse = F.mse_loss(dataset.train.images.mean(0).expand_as(images), images).item()
    if not mse < mean_image_mse:  # true for nan
        raise RunError(
            f"collapsed: validation MSE {mse:.4f} is no better than the mean image's"
            f" {mean_image_mse:.4f}; no result was written: try another learning rate, more"
            " epochs or binary cross-entropy"
        )
