"""Q3: what can a decoder recover from an encoder that was trained only to tell digits apart?

Freezes Q2's encoder, trains a new decoder on its latents with Q1's recipe, and measures the report's claims against Q1,
beside a Q2 without warps and smoothing, a random encoder and PCA. Of the variance within a digit it keeps 0.34 ± 0.01,
on that other Q2 0.46 ± 0.01, Q1 0.84, PCA-12 0.41, the random encoder 0.26 ± 0.06 (10 seeds; a digit's mean image: 0).

    python q3_frozen_decoder.py           # 3.2 minutes of one CPU core
    python q3_frozen_decoder.py --wide    # a decoder of four times the weights, as a control

Needs the results of q1_autoencoder.py, q2_classifier.py and q2_classifier.py --plain in the same output folder.
Writes config.json, metrics.jsonl, summary.json, model.safetensors and *.png to <output-dir>/q3_frozen_decoder/, with
--wide to <output-dir>/q3_wide/.
"""

import dataclasses
from functools import partial
from pathlib import Path

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from common import checkpoint, data, plots, representation, run, train
from common.losses import minimised, reconstruction_errors, refuse_collapse
from common.models import Autoencoder, Classifier, Decoder, Encoder, digest, frozen, pixels

ROWS_SHOWN = 3  # images of each digit in comparison.png
STD_RATIO = "reconstructions: standard\ndeviation kept (1: all)"
# Figure -> the claim, and measure -> its panel and how Q3's must compare with Q1's for the claim to hold.
CLAIMS = {
    "claim_a.png": ("(a) Q1's latents keep how a digit was written, Q3's which digit it is", {
        "within_digit_variance_explained": ["variance within a digit\nexplained (1: all)", "lower"],
        "slant_neighbours_r2": ["slant within a digit,\nneighbours, R²", "lower"],
        "thickness_neighbours_r2": ["thickness within a digit,\nneighbours, R²", "lower"],
        "linear_probe_accuracy": ["which digit, linear probe,\naccuracy", "higher"],
    }),
    "claim_b.png": ("(b) Variability within a digit is higher in Q1", {
        "within_class_std_ratio": [STD_RATIO, "lower"],
        "latent_within_class_share": ["latents: within-digit\nshare of the variance", "lower"],
    }),
    "claim_c.png": ("(c) Digits are about as well separated in Q3, or slightly better", {
        "reading_accuracy": ["reconstructions: accuracy\nof an independent reader", "about the same or higher"],
        "latent_silhouette": ["latents: silhouette\n(1: far apart)", "about the same or higher"],
    }),
    None: ("The reason given for (c): Q3 is more heterogeneous", {"within_class_std_ratio": [STD_RATIO, "higher"]}),
}  # fmt: skip
JUDGED = ["Q3", "Q3 on plain Q2"]  # against Q1; the second is the control whose encoder saw no warps, no smoothing


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(run.Options):
    wide: bool = False
    """A decoder of twice the widths, four times the weights, as a control; results go to q3_wide."""
    epochs: int | None = None
    """Passes over the latents of the 55,000 training images, for each decoder; as many as Q1's unless given."""


def build(config: Config, encoder: Encoder) -> Autoencoder:
    """Put a new decoder, from Q1's initial weights, on a frozen encoder."""
    # Frozen, since the question is what the encoder has kept that was trained for another purpose.
    sizes = dict(encoder.arguments)
    if config.wide:
        sizes |= {"channels": tuple(2 * width for width in sizes["channels"]), "hidden": 2 * sizes["hidden"]}
    return Autoencoder(frozen(encoder), Decoder(**sizes, generator=run.generator(config.seed, "decoder")))


def loss(model: nn.Module, inputs: Tensor, targets: Tensor, minimise: str) -> tuple[Tensor, dict[str, Tensor]]:
    """Return what is minimised, and all scores."""
    logits = model(inputs)  # (B, D) -> (B, 1, 28, 28)
    # Means over B * 784 pixels x, with p = sigmoid(logits): mse (p - x)^2, l1 |p - x|, bce -x log p - (1-x) log(1-p).
    errors = reconstruction_errors(logits, targets)
    # Q1's loss, so that the errors can be compared.
    return minimised(errors, targets, minimise), errors


def figures(
    folder: Path, config: Config, history: list[dict], minimise: str, reconstructions: dict[str, NDArray],
    measures: dict[str, dict[str, float]], test: data.Split,
) -> dict[str, str]:  # fmt: skip
    """Plot what the question asks to see; return the titles by file."""
    titles = {
        "loss.png": "Q3 decoder on the frozen classifier encoder: loss over training iterations",
        "comparison.png": f"{ROWS_SHOWN} random test images of each digit, reconstructed by Q1 and by Q3",
    }
    plots.plot_curves(folder / "loss.png", history, minimise, titles["loss.png"])
    rows = data.balanced(test.targets, ROWS_SHOWN, config.seed).view(ROWS_SHOWN, 10)
    blocks = [{name: torch.from_numpy(reconstructions[name][row]) for name in ("original", "Q1", "Q3")} for row in rows]
    plots.plot_reconstructions(folder / "comparison.png", blocks, torch.arange(10), titles["comparison.png"])
    for name, (claim, panels) in CLAIMS.items():
        shown = {
            panel: {model: of[key] for model, of in measures.items() if key in of} for key, (panel, _) in panels.items()
        }
        if name:
            titles[name] = f"{claim}; {len(test):,} test images"
            plots.plot_bars(folder / name, shown, titles[name], reference="original")
    return titles


def main(config: Config) -> dict:
    """Load, build, train, save, reload, measure, plot; return the summary."""
    needs = {"q1_autoencoder": Autoencoder, "q2_classifier": Classifier, "q2_plain": Classifier}
    step = run.start(config, "q3_wide" if config.wide else "q3_frozen_decoder", tuple(needs))
    q1, q2, plain = (checkpoint.load(config.output_dir / of / "model.safetensors", kind) for of, kind in needs.items())
    sizes = q1.model.encoder.arguments
    for other in (q2, plain):
        if other.model.encoder.arguments != sizes:
            raise run.InputError(f"got {sizes} in Q1, {other.model.encoder.arguments} in Q2: make the encoders alike")
    dataset = data.load(config.dataset, config.data_dir, step.device)
    random_encoder = Encoder(**sizes, generator=run.generator(config.seed, "random encoder"))
    encoders = {"Q3": q2.model.encoder, "Q3 on plain Q2": plain.model.encoder, "random encoder": random_encoder}
    models = {"Q1": q1.model} | {name: build(config, encoder) for name, encoder in encoders.items()}
    loss_fn = partial(loss, minimise=q1.config["loss"])
    recipe = ("batch_size", "learning_rate", "weight_decay", "matrix_learning_rate")  # Q1's, as are the epochs
    settings = {option: q1.config[option] for option in recipe} | {"seed": config.seed}
    settings["epochs"] = config.epochs or q1.metrics["epoch"]
    histories, codes = {}, {}
    for name, model in models.items():
        model.to(step.device, memory_format=torch.channels_last)
        encoded = train.encode(model.encoder, dataset)  # once, for all epochs
        codes[name] = [split.inputs.cpu().numpy() for split in (encoded.train, encoded.test)]
        if name == "Q1":
            continue  # it is trained
        before = digest(model.encoder)
        looks = None if name == "Q3" else ()  # of the controls, the end alone is asked for
        histories[name] = train.fit(model.decoder, loss_fn, encoded.train, encoded.held_out, looks=looks, **settings)
        if digest(model.encoder) != before:
            raise run.RunError(f"{name}: the frozen encoder changed in training; no result was written")
        refuse_collapse(histories[name][-1]["validation"]["mse"], dataset)
    history = histories["Q3"]
    models["Q3"] = checkpoint.reloaded(step.folder / "model.safetensors", models["Q3"], config, history[-1])
    reconstructions = {"original": dataset.test.inputs.cpu().numpy()}
    for name, model in models.items():
        reconstructions[name] = pixels(train.apply(model, dataset.test.inputs)).cpu().numpy()
    pca = f"PCA-{sizes['latent_dim']}"
    both = (dataset.train.inputs.cpu().numpy(), reconstructions["original"])
    *codes[pca], reconstructions[pca] = representation.pca_code(*both, sizes["latent_dim"])
    measures = representation.measure(dataset, codes, reconstructions, config.seed)
    numbers = run.numbers("Q3", history[-1]["validation"], "validation")
    headline = ("mse", "within_digit_variance_explained")
    for name, values in measures.items():
        numbers += run.numbers(name, values, "test", headline if name in histories else ())
    claims = [{"claim": claim, "panels": panels, "before": "Q1", "after": JUDGED} for claim, panels in CLAIMS.values()]
    answer = [representation.in_words(*claim, measures["Q1"], measures["Q3"]) for claim in CLAIMS.values()]
    titles = figures(step.folder, config, history, q1.config["loss"], reconstructions, measures, dataset.test)
    found = {"answer": answer, "numbers": numbers, "figures": titles, "claims": claims}
    return step.finish(dataset.fingerprint, history, **found)


if __name__ == "__main__":
    run.command_line(main, Config)
