"""Write outputs/draw.html, one self-contained page: draw a digit, and see live what each network makes of it.

python -m common.draw_page    # seconds; needs the results of Q1, Q2 and Q3, and says what is missing
"""

import dataclasses
from base64 import b64encode
from pathlib import Path
from typing import Any

import numpy
import torch
from jinja2 import Template
from numpy.typing import NDArray
from torch import Tensor, nn

from common import cards, checkpoint, data, report, run, train
from common.download import DATA_DIR
from common.models import Autoencoder, Classifier, digest, pixels

NEEDS = {"q1_autoencoder": Autoencoder, "q2_classifier": Classifier, "q3_frozen_decoder": Autoencoder}
WRITING = ("slant", "thickness")  # what of a handwriting the page's first sentence tells
SLIDER_STDS = 3.5  # a slider's range, in standard deviations of its latent over the test images


def describe(network: nn.Module) -> tuple[list[list[Any]], list[Tensor]]:
    """Return a network's layers as the page's JavaScript runs them, kind and sizes, and its tensors in that order."""
    layers: list[list[Any]] = []
    tensors = []
    for layer in network.modules():
        if isinstance(layer, nn.Linear):
            layers.append(["linear", layer.in_features, layer.out_features])
        elif isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
            kind, extra = ("up", layer.output_padding[0]) if isinstance(layer, nn.ConvTranspose2d) else ("down", 0)
            square = (sizes[0] for sizes in (layer.kernel_size, layer.stride, layer.padding))
            layers.append([kind, layer.in_channels, layer.out_channels, *square, extra])
        elif isinstance(layer, nn.ReLU):
            layers.append(["relu"])
        elif not (isinstance(layer, (nn.Identity, nn.Unflatten)) or list(layer.children())):
            raise TypeError(f"got a layer {type(layer).__name__}, which the page cannot run")
        tensors += layer.parameters(recurse=False)  # the weight, then the bias
    return layers, tensors


def load(output_dir: Path) -> dict[str, checkpoint.Checkpoint]:
    """Return the three steps' checkpoints; InputError if one is missing, or Q3's was made from others."""
    loaded = {step: checkpoint.load(output_dir / step / "model.safetensors", kind) for step, kind in NEEDS.items()}
    _, q2, q3 = (of.model for of in loaded.values())
    if len({of.config["dataset"] for of in loaded.values()}) > 1 or digest(q2.encoder) != digest(q3.encoder):
        got = f"{output_dir / 'q3_frozen_decoder'}: got a decoder for another Q2"
        raise run.InputError(f"{got}, expected that of q2_classifier: run q3_frozen_decoder.py again")
    return loaded


def shown_images(
    test: data.Split, probabilities: Tensor, reconstructions: tuple[Tensor, Tensor]
) -> dict[str, list[dict[str, Any]]]:
    """Return the test images that the page offers, in three rows of one for each digit where there is one."""
    confidences, predicted = probabilities.max(1)
    right = predicted == test.targets
    differences = (reconstructions[0] - reconstructions[1]).square().flatten(1).mean(1)
    order = -torch.arange(len(test))
    rows = {
        "The first of each digit": (order, order <= 0),
        "Q1 and Q3 differ most, Q2 is right": (differences, right),
        "Q2 is wrong, and most certain": (confidences, ~right),
    }
    chosen = {}
    for caption, (scores, allowed) in rows.items():
        members = [torch.nonzero(allowed & (test.targets == digit)).flatten() for digit in range(10)]
        indices = [int(of_digit[scores[of_digit].argmax()]) for of_digit in members if len(of_digit)]
        chosen[caption] = [
            {"label": int(test.targets[index]), "pixels": _base64(test.inputs[index].mul(255).round(), "u1")}
            for index in indices
        ]
    return {caption: images for caption, images in chosen.items() if images}


def contents(loaded: dict[str, checkpoint.Checkpoint], test: data.Split) -> dict[str, Any]:
    """Return all that the page's script needs: layers, float16 weights, test images, the ranges of the sliders."""
    q1, q2, q3 = (of.model for of in loaded.values())
    networks = {"q1_encoder": q1.encoder, "q1_decoder": q1.decoder, "q2_encoder": q2.encoder, "q2_head": q2.head}
    described = {name: describe(network) for name, network in (networks | {"q3_decoder": q3.decoder}).items()}
    weights = [tensor.detach().flatten() for _, tensors in described.values() for tensor in tensors]
    latents = train.apply(q1.encoder, test.inputs)
    reconstructions = tuple(pixels(train.apply(model, test.inputs)) for model in (q1, q3))
    std, mean = torch.std_mean(latents, 0)
    return {
        "networks": [[name, layers] for name, (layers, _) in described.items()],  # in the order of the weights
        "weights": _base64(torch.cat(weights), "<f2"),
        "images": list(shown_images(test, train.apply(q2, test.inputs).softmax(1), reconstructions).items()),
        "sliders": torch.stack([mean - SLIDER_STDS * std, mean, mean + SLIDER_STDS * std], 1).tolist(),
    }


def kept(output_dir: Path) -> dict[str, Any]:
    """Return what of a handwriting Q1's and Q3's latents tell, R² over the seeds there are, and how many these are."""
    pooled = report.pool(report.read(output_dir))["numbers"]
    by_key = {cards.key(number): cards.summarise(number) for number in pooled}
    try:
        numbers = {
            what: [by_key["q3_frozen_decoder", model, f"{what}_neighbours_r2", "test"] for model in ("Q1", "Q3")]
            for what in WRITING
        }
    except KeyError as error:
        folder, name = output_dir / "q3_frozen_decoder", error.args[0][2]
        raise run.InputError(f"{folder}: got no {name}, expected one: run q3_frozen_decoder.py again") from error
    return {"seeds": numbers[WRITING[0]][0]["n"]} | {
        what: [entry["mean"] for entry in entries] for what, entries in numbers.items()
    }


def write(output_dir: Path, data_dir: Path = DATA_DIR) -> Path:
    """Write draw.html from the checkpoints and numbers in ``output_dir``, and return its path."""
    loaded = load(output_dir)
    config = loaded["q1_autoencoder"].config
    test = data.load(config["dataset"], data_dir).test
    source = Path(__file__).with_name("draw_page.html").read_text("utf-8")
    template = Template(source, autoescape=True, trim_blocks=True)
    text = template.render(page=contents(loaded, test), kept=kept(output_dir), config=config)
    return report.write_whole(output_dir / "draw.html", text)


def _base64(values: Tensor, kind: str) -> str:
    array: NDArray = values.numpy().astype(numpy.dtype(kind))
    return b64encode(array.tobytes()).decode()


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
