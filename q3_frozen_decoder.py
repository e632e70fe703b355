"""Q3: what can a decoder draw from an encoder that was only trained to tell digits apart?

Q2's encoder is frozen, and a new decoder is trained on its 12 latents with Q1's loss and recipe. Q1
is what it is compared with: the same architecture, but its encoder was trained to reconstruct.

The course report makes three claims about the two. Measured on the 10,000 test images:

TABLE

Run:     python q3_frozen_decoder.py
Needs:   q1_autoencoder.py and q2_classifier.py, run before with the same --output-dir
Writes:  outputs/q3_frozen_decoder/: model.safetensors, numbers.csv, history.csv, loss.png,
digits.png,
         claim_a.png, claim_b.png, claim_c.png
Further: studies/frozen_controls.py (a random encoder, PCA, a wider decoder),
         studies/augmented_classifier.py (the decoder of a Q2 that was trained on warped images)
"""

import dataclasses

import numpy
import pandas
import torch
from numpy.typing import NDArray as Array
from sklearn.manifold import TSNE
from sklearn.neighbors import KNeighborsRegressor
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from common import checkpoint, data, run, train
from common.figures import claims, curves, dots, images
from common.losses import reconstruction_loss, refuse_collapse
from common.measures import latents, names, reader, reconstructions
from common.measures.handwriting import handwriting
from common.measures.latents import Coded
from common.measures.points import class_means
from common.models import Autoencoder, Decoder, fingerprint, freeze, pixels

NEIGHBOURS = (
    20  # whose mean predicts slant and thickness (Stone 1977); without information R^2 is -1/20
)
EXAMPLES = 6  # images of each digit in digits.png


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(run.Options):
    # Loss and recipe are Q1's, read from its results, so that Q1 and Q3 differ in nothing but what
    # the
    # encoder was trained for.
    reader_epochs: int = 3
    """Passes over the training images of the classifier that reads reconstructions."""
    latents_shown: int = 1_000
    """Test images in claim_c.png: enough for the shape of the clusters, few enough for t-SNE."""


def build(encoder: nn.Module, seed: int) -> Autoencoder:
    """Put a new decoder on an encoder, which is frozen."""
    # Frozen, because the question is what the encoder has kept although nobody asked it to.
    encoder = freeze(encoder)
    # Q1's initial weights: from the same generator.
    decoder = Decoder(encoder.latent_dim, generator=run.generator(seed, "decoder"))
    return Autoencoder(encoder, decoder)


def train_decoder(
    model: Autoencoder, mnist: data.Dataset, recipe: train.Recipe, loss_name: str, seed: int
) -> pandas.DataFrame:
    """Train the decoder alone, make sure that the encoder did not move, and return the history."""

    def loss(decoder: nn.Module, codes: Tensor, originals: Tensor) -> tuple[Tensor, dict]:
        logits = decoder(codes)  # (B, 12) -> (B, 1, 28, 28)
        return reconstruction_loss(logits, originals, loss_name)  # as Q1's

    before = fingerprint(model.encoder)
    # A frozen encoder gives the same latents in every epoch, so they are computed once.
    examples = {}
    for name in ("train", "validation", "test"):
        split = getattr(mnist, name)
        examples[name] = TensorDataset(train.apply(model.encoder, split.images), split.images)

    held_out = {"test": examples["test"]}
    history = train.fit(model.decoder, loss, examples["train"], held_out, recipe, seed)

    assert fingerprint(model.encoder) == before, "the frozen encoder changed in training"
    refuse_collapse(train.evaluate(model.decoder, loss, examples["validation"])["mse"], mnist)
    return history


# The report's claims, each measured for Q1 and Q3.


def claim_a(
    encoder: nn.Module, mnist: data.Dataset, writing: dict[str, dict[str, Array]]
) -> dict[str, float]:
    """(a) Q1's encoder keeps what a decoder needs, the classifier's what tells the classes apart.

    Slant and thickness are what a decoder needs besides the class: how well do the latents predict
    them? ``writing`` holds them by split: ``handwriting`` of the images.
    """
    coded = {}
    for name in ("train", "test"):
        split = getattr(mnist, name)
        codes = train.apply(encoder, split.images).cpu().numpy()  # (N, 12)
        coded[name] = Coded(codes, split.labels.cpu().numpy())

    measures = {}
    for feature in ("slant", "thickness"):
        # One probe per digit: the digit itself must not help to predict.
        measures[f"{feature}_r2"] = latents.r2_within_digits(
            KNeighborsRegressor(NEIGHBOURS),
            coded["train"],
            writing["train"][feature],
            coded["test"],
            writing["test"][feature],
        )
    measures["linear_probe_accuracy"] = latents.linear_probe_accuracy(coded["train"], coded["test"])
    return measures


def claim_b(drawn: Array, test: data.Split, mean_images: Array) -> dict[str, float]:
    """(b) Variability within a digit is higher in Q1: Q3 draws a general example of a digit.

    How much of the deviation within a digit do reconstructions keep, and is it where it should be?
    ``mean_images`` are the training images' by digit, the best that the digit alone can give.
    """
    originals, labels = test.images.cpu().numpy(), test.labels.cpu().numpy()
    compared = (drawn, originals, labels)
    return reconstructions.errors(drawn, originals) | {
        "deviation_kept": reconstructions.deviation_kept_within_digits(*compared),
        "deviation_correlation": reconstructions.deviation_correlation_within_digits(*compared),
        "variance_explained": reconstructions.variance_explained_within_digits(
            *compared, mean_images
        ),
    }


def claim_c(drawn: Array, test: data.Split, judge: nn.Module) -> dict[str, float]:
    """(c) Separation between digits is about the same in Q3, or slightly higher.

    How far apart do reconstructed digits lie, pixel by pixel, and are they read as their digit?
    """
    labels = test.labels.cpu().numpy()
    return {
        "pixel_silhouette": latents.silhouette(drawn, labels),
        "reading_accuracy": reader.reading_accuracy(judge, drawn, labels),
    }


def claim_c_latents(encoder: nn.Module, test: data.Split) -> dict[str, float]:
    """(c), beside it: how far apart do the digits lie in the latents themselves?"""
    codes = train.apply(encoder, test.images).cpu().numpy()
    return {"latent_silhouette": latents.silhouette(codes, test.labels.cpu().numpy())}


def plot_loss(results: run.Results, history: pandas.DataFrame, loss_name: str) -> None:
    """Plot the report's loss graph, with the others' errors on the same test images as lines."""
    scores = test_scores(results.numbers)
    levels = scores[loss_name].drop("original").to_dict() if loss_name in scores else {}
    del levels["Q3"]
    last = history[(history.split == "test") & (history.measure == loss_name)].value.iloc[-1]
    curves.plot_training(
        results.folder / "loss.png",
        "Q3's decoder soon stops improving: the encoder, not the training, limits it",
        f"At the end {last:.4f} per pixel on test images (seed {results.config.seed}); dashed, what"
        " the others leave on the same images.",
        history,
        loss_name,
        levels,
    )


def plot_digits(results: run.Results, drawn: dict[str, Array], labels: Tensor) -> None:
    """Plot the first test images of each digit as they are and as Q1 and Q3 draw them."""
    first = data.first_of_each_digit(labels, EXAMPLES)  # (10, 6)
    rows = []
    for pair in first.split(2, dim=1):  # two of each digit in a row
        shown = pair.flatten()
        for name in ("original", "Q1", "Q3"):
            rows.append(images.Row(name, torch.from_numpy(drawn[name][shown])))
    images.plot_rows(
        results.folder / "digits.png",
        "Q1 redraws the digit it is shown, Q3 draws a digit of the same class",
        f"The first {EXAMPLES} test images of each digit, chosen by nothing else"
        f" (seed {results.config.seed}).",
        rows,
        rows_per_group=3,
    )


def plot_claims(results: run.Results, drawn: dict[str, Array], labels: Array) -> None:
    """Plot a figure for each claim but the latents of (c)."""
    scores = test_scores(results.numbers)
    seed = results.config.seed

    keeps = "Q1's latents" if scores.slant_r2["Q1"] > scores.slant_r2["Q3"] else "the classifier's"
    dots.plot_panels(
        results.folder / "claim_a.png",
        f"(a) How a digit was written is predicted better from {keeps}, which digit it is from"
        " both",
        f"Slant and thickness are predicted from the latents of the {NEIGHBOURS} nearest training"
        f" images of the same digit, the digit by logistic regression (seed {seed}).",
        results.numbers,
        ["Q1", "Q3"],
        ["slant_r2", "thickness_r2", "linear_probe_accuracy"],
    )

    by_digit = pandas.DataFrame(index=range(10), columns=["Q1", "Q3"], dtype=float)
    for digit in by_digit.index:
        of_digit = labels == digit
        deviation = numpy.linalg.norm(drawn["original"][of_digit].std(0))
        for name in by_digit:
            by_digit.loc[digit, name] = numpy.linalg.norm(drawn[name][of_digit].std(0)) / deviation
    kept, rightly = scores.deviation_kept, scores.deviation_correlation
    claims.plot_by_digit(
        results.folder / "claim_b.png",
        f"(b) {'Q1' if kept['Q1'] > kept['Q3'] else 'Q3'}'s digits vary more within a class; Q3's"
        " vary less like the originals",
        f"Share of the standard deviation within a digit: {kept['Q1']:.3f} in Q1, {kept['Q3']:.3f}"
        f" in Q3. Correlation with the original's deviation: {rightly['Q1']:.3f} and"
        f" {rightly['Q3']:.3f} (seed {seed}).",
        by_digit,
        "share of the standard deviation\nwithin the digit",
    )


def plot_claim_c(results: run.Results, models: dict[str, Autoencoder], test: data.Split) -> None:
    """Plot the latents in two dimensions, above the measures of claim (c)."""
    shown = test[: results.config.latents_shown]
    labels = shown.labels.cpu().numpy()
    projections = {}
    for name, model in models.items():
        codes = train.apply(model.encoder, shown.images).cpu().numpy()
        points = TSNE(random_state=results.config.seed).fit_transform(codes)
        projections[f"latents {name} draws from, t-SNE"] = (points, labels)

    scores = test_scores(results.numbers)
    farther = "Q3" if scores.pixel_silhouette["Q3"] > scores.pixel_silhouette["Q1"] else "Q1"
    better = "Q3" if scores.reading_accuracy["Q3"] > scores.reading_accuracy["Q1"] else "Q1"
    claims.plot_separation(
        results.folder / "claim_c.png",
        f"(c) {farther}'s digits lie farther apart; {better}'s are read rightly a little more"
        " often",
        f"Above {len(shown):,} test images, below all of them; dashed, the original images."
        f" Silhouettes go from -1 to 1; higher is farther apart (seed {results.config.seed}).",
        projections,
        results.numbers,
        ["pixel_silhouette", "reading_accuracy", "latent_silhouette"],
    )


def test_scores(numbers: pandas.DataFrame) -> pandas.DataFrame:
    """Return test numbers, a row for each model and a column for each measure."""
    on_test = numbers[numbers.split == "test"]
    return on_test.pivot(index="model", columns="measure", values="value")


def main(config: Config) -> None:
    results = run.start("q3_frozen_decoder", config, needs=("q1_autoencoder", "q2_classifier"))
    mnist = data.load(config.dataset, config.data_dir, results.device)
    q1 = checkpoint.load(results.path_of("q1_autoencoder"), results.device)
    q2 = checkpoint.load(results.path_of("q2_classifier"), results.device)

    # The experiment: a decoder on Q2's frozen encoder, trained as Q1's was.
    q1_options = results.options_of("q1_autoencoder")
    recipe = train.Recipe(
        epochs=q1_options.epochs,
        batch_size=q1_options.batch_size,
        learning_rate=q1_options.learning_rate,
        weight_decay=q1_options.weight_decay,
        muon_learning_rate=q1_options.muon_learning_rate,
    )
    q3 = build(q2.encoder, config.seed).to(results.device, memory_format=torch.channels_last)
    history = train_decoder(q3, mnist, recipe, q1_options.loss, config.seed)
    q3 = checkpoint.save_and_reload(results.folder / "model.safetensors", q3)
    results.log_history(history, model="Q3")

    # What both draw, and beside it the originals and the best linear autoencoder of as many
    # numbers.
    models = {"Q1": q1, "Q3": q3}
    originals = mnist.test.images.cpu().numpy()
    drawn = {"original": originals}
    for name, model in models.items():
        drawn[name] = pixels(train.apply(model, mnist.test.images)).cpu().numpy()
    pca = f"PCA-{q1.encoder.latent_dim}"
    train_images = mnist.train.images.cpu().numpy()
    drawn[pca] = reconstructions.pca_reconstruct(train_images, originals, q1.encoder.latent_dim)

    # The claims.
    train_labels = mnist.train.labels.cpu().numpy()
    writing = {"train": handwriting(train_images), "test": handwriting(originals)}
    mean_images = class_means(train_images, train_labels)
    judge = reader.train_reader(mnist.train, config.reader_epochs)
    for name, model in models.items():
        results.log(claim_a(model.encoder, mnist, writing), model=name, split="test")
        results.log(claim_c_latents(model.encoder, mnist.test), model=name, split="test")
    for name, reconstructed in drawn.items():
        results.log(claim_b(reconstructed, mnist.test, mean_images), model=name, split="test")
        results.log(claim_c(reconstructed, mnist.test, judge), model=name, split="test")

    plot_loss(results, history, q1_options.loss)
    plot_digits(results, drawn, mnist.test.labels)
    plot_claims(results, drawn, mnist.test.labels.cpu().numpy())
    plot_claim_c(results, models, mnist.test)

    measures = ["slant_r2", "deviation_kept", "deviation_correlation", "pixel_silhouette"]
    explained = test_scores(results.numbers).variance_explained
    print(f"variance within a digit explained: {explained['Q1']:.3f} Q1, {explained['Q3']:.3f} Q3")
    print(names.table(results.numbers, ["Q1", "Q3", pca], ["l1", *measures]))
    results.finish(mnist.sha256)


if __name__ == "__main__":
    run.command_line(main, Config)
