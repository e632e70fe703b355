"""Q3: what can a decoder recover from an encoder that was trained only to tell digits apart?

Freezes Q2's encoder, trains a new decoder on its latents with Q1's recipe, and measures three claims against Q1: (a)
the autoencoder's latents keep how a digit was written, the classifier's which digit it is; (b) Q1's reconstructions
vary more within a digit; (c) the digits are about equally well separated, or slightly better in Q3. Controls: a random
frozen encoder with a decoder of its own, and PCA. All three hold in each of 3 seeds: test MSE is 0.0366 +- 0.0006
against Q1's 0.0087; reconstructions keep 0.55 of the standard deviation within a digit, Q1's 0.92; their Fisher ratio
is 0.90 against 0.33, which is far more than the "slightly" of the report.

    python q3_frozen_decoder.py           # 1 minute on 2 CPU cores
    python q3_frozen_decoder.py --wide    # 1.5 minutes: a decoder of four times the weights gains little

Needs the checkpoints of q1_autoencoder.py and q2_classifier.py in the same output folder.
Writes config.json, metrics.jsonl, summary.json, model.pt, table.md, loss.png, reconstructions.png, comparison.png,
claim_a.png, claim_b.png, claim_b_digits.png and claim_c.png to <output-dir>/q3_frozen_decoder/.
"""

import dataclasses
import re
import time

import numpy
import torch
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from torch import Tensor

from common import checkpoint, data, plots, representation, run, train
from common.losses import reconstruction_loss, refuse_collapse
from common.models import Autoencoder, Classifier, Decoder, Encoder, digest, frozen, pixels

EXAMPLES = 3  # of each digit in comparison.png
ABOUT_THE_SAME = 0.05  # (c) allows Q3's separation to fall short of Q1's by this fraction


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(run.Options):
    wide: bool = False
    """A decoder of twice the widths, four times the weights, as a control; results go to q3_frozen_decoder-wide."""
    epochs: int = 3
    """Passes over the latents of the 55,000 training images, for each of the two decoders."""

    def __post_init__(self) -> None:
        super().__post_init__()
        run.require(self, "epochs", least=1, most=10**9)


def measure(
    dataset: data.Dataset, latents: dict[str, tuple], drawn: dict[str, NDArray], seed: int
) -> dict[str, dict[str, float]]:
    """Return all measures of each representation: name -> measure -> value.

    ``latents``: name -> train (55,000, D) and test latents; ``drawn``: name -> reconstructions of the test images. The
    originals, as their own reconstructions, show what the best possible reconstruction would give.
    """
    (train_images, train_labels), (images, labels) = (
        (split.images.cpu().numpy(), split.labels.cpu().numpy()) for split in (dataset.train, dataset.test)
    )
    train_writing, writing = representation.handwriting(train_images), representation.handwriting(images)
    classifier = representation.pixel_classifier(train_images, train_labels)
    measures = {}
    for name, pictures in {"originals": images, **drawn}.items():
        found = {"l1": float(abs(pictures - images).mean()), "mse": float(((pictures - images) ** 2).mean())}
        found["reading_accuracy"] = representation.reading_accuracy(classifier, pictures, labels)
        found |= representation.reconstruction_measures(pictures, images, labels, seed=seed)
        if name in latents:
            of_latents = representation.latent_measures(
                latents[name][0], train_labels, train_writing, latents[name][1], labels, writing, seed=seed
            )
            found |= {f"latent_{measure}": value for measure, value in of_latents.items()}
        measures[name] = found
    return measures


# Claim -> what is said, the measure, and how Q3 must compare with Q1: above, below, or no more than 5 % short.
CLAIMS = {
    "(a) Q1's latents keep how a digit was written, Q3's which digit it is": [
        ("test MSE", "mse", "above"),
        ("R^2 within a digit of slant", "latent_slant_within_digit_r2", "below"),
        ("of thickness", "latent_thickness_within_digit_r2", "below"),
        ("of size", "latent_size_within_digit_r2", "below"),
        ("linear probe", "latent_linear_probe_accuracy", "above"),
    ],
    "(b) variability within a digit is higher in Q1": [
        ("standard deviation within a digit that reconstructions keep", "within_class_std_ratio", "below"),
        ("within-digit share of the latents' variance", "latent_within_class_share", "below"),
    ],
    "(c) digits are at least about as well separated in Q3": [
        ("Fisher ratio of reconstructions", "fisher_ratio", "not short"),
        ("independent classifier's accuracy on them", "reading_accuracy", "not short"),
        ("silhouette of latents", "latent_silhouette", "not short"),
    ],
}


# Measure -> title of its panel.
PANELS_A = {
    "mse": "MSE per pixel (low: more kept)",
    "variance_kept": "variance kept (1: all)",
    "latent_slant_within_digit_r2": "slant within a digit, R^2",
    "latent_thickness_within_digit_r2": "thickness within a digit, R^2",
    "latent_size_within_digit_r2": "size within a digit, R^2",
    "latent_linear_probe_accuracy": "linear probe, accuracy",
    "latent_knn_accuracy": "5 nearest neighbours, accuracy",
    "latent_class_mean_accuracy": "nearest class mean, accuracy",
}
PANELS_B = {
    "latent_within_class_share": "latents: within-digit share\nof the variance",
    "within_class_std_ratio": "reconstructions: within-digit\nstandard deviation kept",
    "class_mean_distance_ratio": "reconstructions: distance to the\nmean image kept",
}
SEPARATION = {
    "nc1": "NC1 (low: apart)",
    "cdnv": "CDNV (low: apart)",
    "directional_cdnv": "directional\nCDNV (low: apart)",
    "fisher_ratio": "Fisher ratio\n(high: apart)",
    "silhouette": "silhouette\n(high: apart)",
}
PANELS_C = {
    **{f"latent_{name}": f"latents: {title}" for name, title in SEPARATION.items()},
    "reading_accuracy": "reconstructions: independent\nclassifier's accuracy",
    **{name: f"reconstructions: {title}" for name, title in SEPARATION.items()},
}


def verdicts(q1: dict[str, float], q3: dict[str, float]) -> list[str]:
    """Say of each claim whether it holds, worded from the numbers: it holds if every comparison does."""
    sentences = []
    for claim, comparisons in CLAIMS.items():
        texts, holds = [], True
        for what, name, wanted in comparisons:
            before, after = q1[name], q3[name]
            short = after < before - ABOUT_THE_SAME * abs(before)
            right = {"above": after > before, "below": after < before, "not short": not short}[wanted]
            texts.append(f"{what} {before:.3g} in Q1, {after:.3g} in Q3" + ("" if right else " (against the claim)"))
            holds = holds and right
        sentences.append(f"{claim}: {'holds' if holds else 'does not hold'}; " + "; ".join(texts))
    return sentences


def table(measures: dict[str, dict[str, float]]) -> str:
    """Return all measures as a Markdown table, a row per measure and a column per representation."""
    rows = list(dict.fromkeys(name for column in measures.values() for name in column))
    lines = [["measure", *measures], ["---"] * (len(measures) + 1)]
    lines += [[row, *(f"{column[row]:.4g}" if row in column else "" for column in measures.values())] for row in rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def panels(measures: dict[str, dict[str, float]], names: dict[str, str]) -> dict[str, dict[str, float]]:
    """Return what plots.bars draws: a title for each measure in ``names`` -> representation -> value."""
    return {
        title: {column: found[name] for column, found in measures.items() if name in found}
        for name, title in names.items()
    }


def main(config: Config) -> dict:
    """Freeze, train, save, reload, measure, draw; return the summary."""
    started = time.perf_counter()
    device = run.device(config)
    paths = [config.output_dir / script / "model.pt" for script in ("q1_autoencoder", "q2_classifier")]
    q1 = checkpoint.load(paths[0], Autoencoder, config.dataset)
    q2 = checkpoint.load(paths[1], Classifier, config.dataset)
    sizes = q2.model.encoder.arguments
    if q1.model.encoder.arguments != sizes:
        raise ValueError(
            f"the encoders differ: got {q1.model.encoder.arguments} in Q1 and {sizes} in Q2, expected the same: make"
            f" Q2's with `python q2_classifier.py` and Q1's --latent-dim and --hidden-relu"
        )
    dataset = data.load(config.dataset, config.data_dir, device)
    upstream = {path: saved.sha256 for path, saved in zip(paths, (q1, q2), strict=True)}
    provenance = run.provenance(config, __file__, device, dataset.fingerprint, upstream)
    folder = run.start(config, "q3_frozen_decoder-wide" if config.wide else __file__, provenance)

    recipe = q1.config

    def loss_fn(decoder: Decoder, latents: Tensor, images: Tensor) -> tuple[Tensor, dict]:
        return reconstruction_loss(decoder, latents, images, recipe["loss"])

    random = Encoder(**sizes, generator=run.generator(config.seed, "random encoder"))
    encoders = {"Q3": q2.model.encoder, "random encoder": random}
    decoder_sizes = dict(sizes)
    if config.wide:
        decoder_sizes |= {"channels": tuple(2 * width for width in sizes["channels"]), "hidden": 2 * sizes["hidden"]}
    models, histories, digests, latents = {}, {}, {}, {}
    for name, encoder in encoders.items():
        frozen(encoder.to(device, memory_format=torch.channels_last))
        digests[name] = [digest(encoder)]
        encoded = train.encode(encoder, dataset)
        decoder = Decoder(**decoder_sizes, generator=run.generator(config.seed, "decoder"))
        decoder.to(device, memory_format=torch.channels_last)
        histories[name] = train.fit(
            decoder,
            loss_fn,
            encoded.train,
            encoded.held_out,
            epochs=config.epochs,
            batch_size=recipe["batch_size"],
            learning_rate=recipe["learning_rate"],
            weight_decay=recipe["weight_decay"],
            matrix_learning_rate=recipe["matrix_learning_rate"],
            seed=config.seed,
            snapshot=folder / f"{name.replace(' ', '_')}_{run.SNAPSHOT}",
        )
        digests[name].append(digest(encoder))
        if digests[name][0] != digests[name][1]:
            raise run.RunError(f"{name}: the frozen encoder changed in training; no result was written")
        refuse_collapse(histories[name][-1]["validation"]["mse"], dataset)
        models[name] = Autoencoder(encoder, decoder)
        latents[name] = (encoded.train.images.cpu().numpy(), encoded.test.images.cpu().numpy())
    checkpoint.save(folder / "model.pt", models["Q3"], config, histories["Q3"][-1])

    saved = checkpoint.load(folder / "model.pt")
    models["Q3"] = saved.model.to(device, memory_format=torch.channels_last)
    models["Q1"] = q1.model.to(device, memory_format=torch.channels_last)
    images, labels = dataset.test.images, dataset.test.labels
    latents["Q1"] = tuple(train.apply(models["Q1"].encoder, x).cpu().numpy() for x in (dataset.train.images, images))
    names = ("Q1", "Q3", "random encoder")
    drawn = {name: pixels(train.apply(models[name], images)).cpu().numpy() for name in names}
    train_pixels, test_pixels = (x.flatten(1).cpu().numpy() for x in (dataset.train.images, images))
    pca = PCA(sizes["latent_dim"], random_state=config.seed).fit(train_pixels)
    pca_name = f"PCA-{sizes['latent_dim']}"
    latents[pca_name] = (pca.transform(train_pixels), pca.transform(test_pixels))
    drawn[pca_name] = pca.inverse_transform(latents[pca_name][1]).reshape(images.shape)
    measuring = time.perf_counter()
    measures = measure(dataset, latents, drawn, config.seed)
    seconds_measuring = time.perf_counter() - measuring

    title = "Q3 decoder on the frozen classifier encoder"
    loss = recipe["loss"]
    plots.curves(folder / "loss.png", histories["Q3"], loss, f"{title}: loss over training iterations", run.UNITS[loss])
    chosen = data.balanced(labels, EXAMPLES, config.seed).view(EXAMPLES, 10).to(images.device)
    examples = [
        {"original": images[picked].cpu()}
        | {name: torch.from_numpy(drawn[name][picked.cpu()]) for name in ("Q1", "Q3")}
        for picked in chosen
    ]
    plots.reconstructions(
        folder / "reconstructions.png",
        [{name: examples[0][name] for name in ("original", "Q3")}],
        labels[chosen[0]],
        f"{title}: example outputs",
    )
    plots.reconstructions(
        folder / "comparison.png",
        examples,
        labels[chosen[0]],
        f"{EXAMPLES} test images of each digit, drawn by seed: Q1 and Q3",
    )
    shown = {name: measures[name] for name in ("Q1", "Q3", "random encoder", pca_name)}
    count = f"{len(images):,} test images"
    plots.bars(folder / "claim_a.png", panels(shown, PANELS_A), f"(a) What {sizes['latent_dim']} numbers keep, {count}")
    plots.bars(folder / "claim_b.png", panels(shown, PANELS_B), f"(b) Variability within a digit, {count}", columns=3)
    plots.bars(folder / "claim_c.png", panels(shown, PANELS_C), f"(c) Separation between digits, {count}", columns=6)
    ratio = "within_class_std_ratio"
    plots.digit_lines(
        folder / "claim_b_digits.png",
        {name: numpy.array([found[f"{ratio}/{digit}"] for digit in range(10)]) for name, found in shown.items()},
        f"(b) Variability that reconstructions keep, {count}",
        "standard deviation within a digit,\nreconstructions over originals",
        reference=1.0,
    )
    run.write(folder / "table.md", table(measures))

    conclusions = verdicts(measures["Q1"], measures["Q3"])
    summary = {
        "metrics": run.quoted(measures["Q3"], "test") | run.quoted(histories["Q3"][-1]["validation"], "validation"),
        "baselines": {
            key: value
            for name, found in measures.items()
            if name != "Q3"
            for key, value in run.quoted(found, "test", re.sub(r"\W", "_", name.lower())).items()
        },
        "verdicts": conclusions,
        "encoder_digest": {name: dict(zip(("before", "after"), pair, strict=True)) for name, pair in digests.items()},
        "seconds": time.perf_counter() - started,
        "seconds_measuring": seconds_measuring,
        "checkpoint_sha256": saved.sha256,
    }
    run.finish(folder, provenance, histories["Q3"], summary)
    print(*conclusions, sep="\n")
    errors = "; ".join(f"{name} MSE {found['mse']:.4f}, L1 {found['l1']:.4f}" for name, found in shown.items())
    print(f"test {errors}")
    print(f"figures and numbers: {folder}")
    return summary


if __name__ == "__main__":
    run.command_line(main, Config)
