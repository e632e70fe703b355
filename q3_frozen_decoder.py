"""Q3: what can a decoder recover from an encoder that was trained only to tell digits apart?

Freezes Q2's encoder, trains a new decoder on its latents with Q1's recipe, and measures the report's claims against Q1,
beside a Q2 without warps and smoothing, a random encoder and PCA. Of the variance within a digit it keeps 0.35 ± 0.01,
on that other Q2 0.47 ± 0.01, Q1 0.84, PCA-12 0.41, the random encoder 0.26 ± 0.06 (10 seeds; a digit's mean image: 0).

    python q3_frozen_decoder.py           # 3.6 minutes of one CPU core
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
from sklearn.manifold import TSNE
from torch import Tensor, nn

from common import checkpoint, data, examples, plots, reader, representation, run, train
from common.losses import minimised, reconstruction_errors, refuse_collapse
from common.models import Autoencoder, Classifier, Decoder, Encoder, digest, frozen, pixels
from common.representation import CLAIMS, in_words

LATENTS_SHOWN = 1_000  # test images in claim_c.png: enough for the shape of the clusters, few enough for t-SNE
CONTROLS = {"looks": (), "watch": None}  # of these the end alone is asked for
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
    folder: Path, config: Config, history: list[dict], models: dict[str, Autoencoder],
    frames: dict[str, examples.Frames], reconstructions: dict[str, NDArray], measures: dict[str, dict[str, float]],
    judge: nn.Module, test: data.Split,
) -> dict[str, str]:  # fmt: skip
    """Plot what the question asks to see; return the captions by file."""
    seed, labels = f"(seed {config.seed})", test.targets.cpu().numpy()
    both, mse = {name: models[name] for name in ("Q1", "Q3")}, {name: of["mse"] for name, of in measures.items()}
    levels = {name: mse[name] for name in mse if name in ("Q1", "digit's mean image") or name.startswith("PCA")}
    shown, (count, q1_alone, q3_alone) = examples.misread(reconstructions, labels, judge)
    walks, read = examples.walks(both, test, judge)
    steps = [(pair, read[of]) for of, pair in zip(read, examples.WALKS, strict=True)]
    q1_ends, q3_ends = (sum(digit in pair for pair, of in steps for digit in of[name]) for name in both)
    captions = {
        "comparison.png": f"Many different 2s and 7s: of {count:,}, Q1 alone turns {q1_alone} into another digit, Q3"
        f" alone {q3_alone} {seed}. Below, what an independent reader takes them for, framed where it is another digit;"
        " of either digit those that Q1 alone turns come first, up to half, then the first others of the test set",
        "loss.png": f"Q3, a decoder on a frozen classifier: test MSE {mse['Q3']:.4f}, Q1's {mse['Q1']:.4f} {seed}."
        " Dashed: what the others leave on the same test images",
        "training.png": f"Q1 and Q3 in training: at the end test MSE {mse['Q1']:.4f} and {mse['Q3']:.4f} {seed}."
        " The same test images after as many iterations; Q3's latents stay as they are, its decoder alone trains",
        "walk.png": "Straight through the latents from one test image to another: read as one of the"
        f" two digits in Q1 {q1_ends}, in Q3 {q3_ends} of {len(read) * examples.WALK_STEPS} steps {seed}."
        " Below, what an independent reader takes each for",
    }
    plots.plot_images(folder / "comparison.png", captions["comparison.png"], *shown)
    plots.plot_curves(folder / "loss.png", captions["loss.png"], history, "mse", levels)
    strip = examples.training(both, frames, examples.shown(test).inputs)
    plots.plot_images(folder / "training.png", captions["training.png"], strip)
    plots.plot_images(folder / "walk.png", captions["walk.png"], walks, read)
    latents = {f"{of}'s latents, t-SNE": train.apply(models[name].encoder, test.inputs[:LATENTS_SHOWN]).cpu().numpy()
               for of, name in (("Q1", "Q1"), ("Q2", "Q3"))}  # fmt: skip
    points = {name: TSNE(random_state=config.seed).fit_transform(of) for name, of in latents.items()}
    spread = {name: reconstructions[name] for name in ("original", *models)}
    pictures = {"claim_b.png": partial(plots.by_digit, reconstructions=spread, labels=labels),
                "claim_c.png": partial(plots.scatter, projections=points, labels=labels[:LATENTS_SHOWN])}  # fmt: skip
    for name, (claim, panels) in CLAIMS.items():
        if name:
            words = in_words(claim, dict([*panels.items()][:1]), measures["Q1"], measures["Q3"])
            captions[name] = f"{words} {seed}. {len(labels):,} test images; dashed: the originals"
            plots.plot_claim(folder / name, captions[name], measures, panels, pictures.get(name))
    return captions


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
    shown, histories, codes = examples.shown(dataset.test).inputs, {}, {}
    frames = {"Q1": examples.load(config.output_dir / "q1_autoencoder" / examples.NAME), "Q3": {}}
    for name, model in models.items():
        model.to(step.device, memory_format=torch.channels_last)
        encoded = train.encode(model.encoder, dataset)  # once, for all epochs
        codes[name] = [split.inputs.cpu().numpy() for split in (encoded.train, encoded.test)]
        if name == "Q1":
            continue  # it is trained
        before = digest(model.encoder)
        watched = {"watch": examples.watch(frames["Q3"], model, shown)} if name == "Q3" else CONTROLS
        histories[name] = train.fit(model.decoder, loss_fn, encoded.train, encoded.held_out, **settings, **watched)
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
    judge = reader.train_reader(dataset.train.inputs, dataset.train.targets, seed=representation.READER_SEED)
    measures = representation.measure(dataset, codes, reconstructions, judge, config.seed)
    numbers = run.numbers("Q3", history[-1]["validation"], "validation")
    headline = ("mse", "within_digit_variance_explained")
    for name, values in measures.items():
        numbers += run.numbers(name, values, "test", headline if name in histories else ())
    claims = [{"claim": claim, "panels": panels, "before": "Q1", "after": JUDGED} for claim, panels in CLAIMS.values()]
    answer = [in_words(*claim, measures["Q1"], measures["Q3"]) for claim in CLAIMS.values()]
    captions = figures(step.folder, config, history, models, frames, reconstructions, measures, judge, dataset.test)
    found = {"answer": answer, "numbers": numbers, "figures": captions, "claims": claims}
    return step.finish(dataset.fingerprint, history, **found)


if __name__ == "__main__":
    run.command_line(main, Config)
