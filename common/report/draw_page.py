"""Write draw.html, a self-contained page: draw a digit and see live what the networks make of it.

python -m common.report.draw_page    # seconds; needs the results of all five questions
"""

import base64
import dataclasses
from pathlib import Path
from typing import Any

import numpy
import pandas
import torch
from torch import Tensor, nn

from common import checkpoint, data, run, train
from common.download import DATA_DIR
from common.measures.names import MEASURES
from common.models import Autoencoder, Classifier, fingerprint, pixels
from common.report import numbers as tables
from common.report.numbers import BALANCED, Number
from common.report.pages import render, write_whole

NEEDS = ["q1_autoencoder", "q2_classifier", "q3_frozen_decoder", "q4_few_shot", "q5_transfer"]
LABELLED = f"{BALANCED} 1"  # the subset of those networks that had few labels
SLIDER_STDS = 3.5  # a slider's range, in standard deviations of its latent over the test images


@dataclasses.dataclass(frozen=True)
class Models:
    """The networks that answer; the last three had the labels of the subset LABELLED."""

    q1: Autoencoder
    q2: Classifier
    q3: Autoencoder
    scratch: Classifier
    fine_tuned: Classifier
    frozen: Classifier

    def networks(self) -> dict[str, nn.Module]:
        """Return what the page runs. Q3 shares Q2's encoder, "frozen" shares Q1's."""
        return {
            "q1_encoder": self.q1.encoder,
            "q1_decoder": self.q1.decoder,
            "q2_encoder": self.q2.encoder,
            "q2_head": self.q2.head,
            "q3_decoder": self.q3.decoder,
            "scratch_encoder": self.scratch.encoder,
            "scratch_head": self.scratch.head,
            "fine_tuned_encoder": self.fine_tuned.encoder,
            "fine_tuned_head": self.fine_tuned.head,
            "frozen_head": self.frozen.head,
        }


def load(output_dir: Path) -> Models:
    """Load the checkpoints; InputError unless Q3 and Q5 were built on the others."""
    q4, q5 = output_dir / "q4_few_shot", output_dir / "q5_transfer"
    labelled = LABELLED.replace(" ", "_")
    models = Models(
        q1=checkpoint.load(output_dir / "q1_autoencoder" / "model.safetensors"),
        q2=checkpoint.load(output_dir / "q2_classifier" / "model.safetensors"),
        q3=checkpoint.load(output_dir / "q3_frozen_decoder" / "model.safetensors"),
        scratch=checkpoint.load(q4 / f"scratch_{labelled}.safetensors"),
        fine_tuned=checkpoint.load(q5 / f"fine-tuned_{labelled}.safetensors"),
        frozen=checkpoint.load(q5 / f"frozen_{labelled}.safetensors"),
    )
    shared = [
        ("q3_frozen_decoder", models.q3, "q2_classifier", models.q2),
        ("q5_transfer", models.frozen, "q1_autoencoder", models.q1),
    ]
    for step, built, origin, needed in shared:
        if fingerprint(built.encoder) != fingerprint(needed.encoder):
            raise run.InputError(
                f"{output_dir / step}: got another encoder than that of {origin}, expected the"
                f" same: run {step}.py again"
            )
    return models


def describe(network: nn.Module) -> tuple[list[list[Any]], list[Tensor]]:
    """Return a network's layers as the page runs them, kind and sizes; and its tensors in order."""
    layers: list[list[Any]] = []
    tensors: list[Tensor] = []
    for layer in network.modules():
        if isinstance(layer, nn.Linear):
            layers.append(["linear", layer.in_features, layer.out_features])
        elif isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
            is_up = isinstance(layer, nn.ConvTranspose2d)
            kind = "up" if is_up else "down"
            extra = layer.output_padding[0] if is_up else 0
            # Kernels are square.
            sizes = [layer.kernel_size[0], layer.stride[0], layer.padding[0], extra]
            layers.append([kind, layer.in_channels, layer.out_channels, *sizes])
        elif isinstance(layer, nn.ReLU):
            layers.append(["relu"])
        elif not isinstance(layer, (nn.Flatten, nn.Unflatten)) and not list(layer.children()):
            raise TypeError(f"got a layer {type(layer).__name__}, which the page cannot run")
        tensors += layer.parameters(recurse=False)  # the weight, then the bias
    return layers, tensors


def choose_images(
    test: data.Split, probabilities: Tensor, distances: Tensor
) -> dict[str, list[int]]:
    """Return which test images the page offers, one of each digit: indices by caption.

    By Q2's probabilities (N, 10), and the distances (N,) between what Q1 and Q3 draw.
    """
    confidences, predicted = probabilities.max(1)
    is_right = predicted == test.labels
    in_order = -torch.arange(len(test))
    rows = {
        "The first of each digit": highest_of_each_digit(in_order, test.labels),
        "Q1 and Q3 differ most, Q2 is right": highest_of_each_digit(
            distances, torch.where(is_right, test.labels, -1)
        ),
        "Q2 is wrong, and most certain": highest_of_each_digit(
            confidences, torch.where(is_right, -1, test.labels)
        ),
    }
    return {caption: indices for caption, indices in rows.items() if indices}


def highest_of_each_digit(scores: Tensor, labels: Tensor) -> list[int]:
    """Return the index of the highest score among each digit's images; others do not count."""
    chosen = []
    for digit in range(10):
        members = torch.nonzero(labels == digit)[:, 0]
        if len(members):
            chosen.append(int(members[scores[members].argmax()]))
    return chosen


def contents(models: Models, test: data.Split) -> dict[str, Any]:
    """Return what the page's script needs: layers, weights, test images, ranges of the sliders."""
    described, weights = [], []
    for name, network in models.networks().items():
        layers, tensors = describe(network)
        described.append([name, layers])
        weights += [tensor.detach().flatten() for tensor in tensors]

    probabilities = train.apply(models.q2, test.images).softmax(1)
    by_q1 = pixels(train.apply(models.q1, test.images))
    by_q3 = pixels(train.apply(models.q3, test.images))
    distances = (by_q1 - by_q3).square().flatten(1).mean(1)
    rows = []
    for caption, indices in choose_images(test, probabilities, distances).items():
        images = []
        for index in indices:
            levels = test.images[index].mul(255).round()
            images.append({"label": int(test.labels[index]), "pixels": encode(levels, "u1")})
        rows.append([caption, images])

    deviation, mean = torch.std_mean(train.apply(models.q1.encoder, test.images), dim=0)
    low, high = mean - SLIDER_STDS * deviation, mean + SLIDER_STDS * deviation
    return {
        "networks": described,  # in the order of the weights
        "weights": encode(torch.cat(weights), "<f2"),
        "images": rows,
        "sliders": torch.stack([low, mean, high], dim=1).tolist(),
    }


def encode(values: Tensor, kind: str) -> str:
    """Return values of a numpy type as base64."""
    return base64.b64encode(values.numpy().astype(numpy.dtype(kind)).tobytes()).decode()


def measured(numbers: pandas.DataFrame, seed: int) -> dict[str, str]:
    """Return the numbers that the page states: over the seeds, or of the networks that answer."""
    texts = {}
    for model in ("Q1", "Q3"):
        for feature in ("slant", "thickness"):
            slope = Number("q3_frozen_decoder", model, f"{feature}_slope")
            value = tables.per_seed(numbers, slope).mean()
            texts[f"{model}_{feature}"] = f"{value:.0%}" if feature == "slant" else f"{value:.2f}"

    # Measured of Q2 itself, if that study was run.
    calibration = Number("studies/augmented_classifier", "Q2, plain", "calibration_error")
    texts["calibration"] = text(numbers, calibration)

    # Accuracies are those of the very networks.
    of_seed = numbers[numbers.seed == seed]
    texts["Q2"] = text(of_seed, Number("q2_classifier", "Q2", "accuracy"))
    of_subset = of_seed[of_seed.subset == LABELLED]
    for name, step, model in (
        ("scratch", "q4_few_shot", "scratch"),
        ("fine_tuned", "q5_transfer", "fine-tuned"),
        ("frozen", "q5_transfer", "frozen"),
    ):
        texts[name] = text(of_subset, Number(step, model, "accuracy", BALANCED))
    return texts


def text(numbers: pandas.DataFrame, number: Number) -> str:
    """Return a number's mean over the seeds as text, "" if there is none."""
    values = tables.per_seed(numbers, number)
    return MEASURES[number.measure].format(values.mean()) if len(values) else ""


def write(output_dir: Path, data_dir: Path = DATA_DIR) -> Path:
    """Write draw.html from what the five questions left in ``output_dir``, and return its path."""
    published = tables.read(output_dir)
    missing = [f"python {step}.py" for step in NEEDS if step not in published.firsts]
    if missing:
        raise run.InputError(
            f"{output_dir}: got no results that belong together of some questions, expected all"
            f" five: run {'; '.join(missing)} (again)"
        )
    options = published.firsts["q1_autoencoder"].config["options"]
    test = data.load(options["dataset"], data_dir).test
    content = {
        "page": contents(load(output_dir), test),
        "measured": measured(published.numbers, options["seed"]),
        "options": options,
        "labels": 10 * published.firsts["q4_few_shot"].config["options"]["shots"],
        "seeds": published.numbers.seed.nunique(),
    }
    return write_whole(output_dir / "draw.html", render("draw_page.html", content))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    output_dir: Path = run.REPOSITORY / "outputs"
    """Folder of the results."""
    data_dir: Path = DATA_DIR
    """Folder of the raw data files; what is missing is fetched into it."""


def main(config: Config) -> None:
    """Write the page and say where it is."""
    print(f"draw a digit: {write(config.output_dir, config.data_dir)}")


if __name__ == "__main__":
    run.command_line(main, Config)
