"""Q3: what can a decoder draw from an encoder that was only trained to tell digits apart?

Q2's encoder is frozen, and a new decoder is trained on its 12 latents with Q1's loss and recipe. Q1
is what it is compared with: the same architecture, but its encoder was trained to reconstruct.

The course report makes three claims about the two: (a) what their encoders keep, (b) where digits
of one class vary more, (c) where the classes lie farther apart. Measured on the 10,000 test images.

Mean ± standard deviation of 10 seeds, the encoder of Q3 being Q2's. (a) What is predicted from the
latents, slant and thickness within a digit:

         slant_r2        thickness_r2    linear_probe_accuracy
    Q1   0.942 ± 0.004   0.876 ± 0.008   94.70% ± 0.31
    Q3   0.562 ± 0.015   0.158 ± 0.015   99.14% ± 0.07

(b) How reconstructions vary within a digit:

             deviation_kept   deviation_correlation   variance_explained
    Q1       0.988 ± 0.001    0.908 ± 0.001           0.818 ± 0.003
    Q3       0.895 ± 0.003    0.646 ± 0.005           0.344 ± 0.008
    PCA-12   0.654            0.654                   0.410

(c) How well digits can be told apart, in reconstructions and latents; and the error per pixel:

             pixel_silhouette   reading_accuracy   latent_silhouette   l1
    Q1       0.056 ± 4e-04      97.22% ± 0.11      0.184 ± 0.005       0.0271 ± 0.0002
    Q3       0.093 ± 0.002      97.02% ± 0.20      0.685 ± 0.007       0.0607 ± 0.0005
    PCA-12   0.098              77.90%             -                   0.0948

Run:     python q3_frozen_decoder.py
Needs:   q1_autoencoder.py and q2_classifier.py, run before with the same --output-dir
Writes:  outputs/q3_frozen_decoder/: model.safetensors, numbers.csv, history.csv, loss.png,
         pens.png, digits.png, claim_a.png, claim_b.png, claim_c.png
Further: studies/frozen_controls.py (logits, probabilities, a random encoder),
         studies/augmented_classifier.py (the decoder of a Q2 that was trained on warped images)
"""

import dataclasses

import pandas
import torch
import torch.nn.functional as F
from numpy.typing import NDArray as Array
from sklearn.manifold import TSNE
from sklearn.neighbors import KNeighborsRegressor
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from common import checkpoint, data, run, train
from common.figures import claims, curves, dots, images
from common.losses import reconstruction_loss, refuse_collapse
from common.measures import latents as latent_measures
from common.measures import names, reader, reconstructions
from common.measures.handwriting import from_thin_to_thick, handwriting, slope_within_digits
from common.measures.latents import Coded
from common.measures.points import class_means
from common.models import Autoencoder, Decoder, fingerprint, freeze, pixels
from q1_autoencoder import recipe

# Slant and thickness are predicted as the mean of so many neighbours. Where the latents tell
# nothing, R^2 is -1/20: the mean of 20 random images errs by that much more than the mean of all.
NEIGHBOURS = 20
EXAMPLES = 6  # images of each digit in digits.png
PENS, PEN_DIGITS = 7, (2, 7)  # so many images each of these digits in pens.png


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(run.Options):
    """Options beside the shared ones: dataset, data_dir, output_dir, device, seed,
    quick.

    Loss and recipe are Q1's, read from its results, so that Q1 and Q3 differ in nothing but what
    the encoder was trained for.
    """

    reader_epochs: int = 3
    """Passes over the training images of the classifier that reads reconstructions."""
    latents_shown: int = 1_000
    """Test images in claim_c.png: enough for the shape of the clusters, few enough for t-SNE."""


def build(encoder: nn.Module, seed: int) -> Autoencoder:
    """Put a new decoder on an encoder, which is frozen."""
    # Frozen (no gradients, evaluation mode), because the question is what the encoder has kept
    # although nobody asked it to.
    encoder = freeze(encoder)
    # Q1's decoder of the same seed started from the same weights: the same generator.
    decoder = Decoder(encoder.latent_dim, generator=run.generator(seed, "decoder"))
    return Autoencoder(encoder, decoder)


def train_decoder(
    model: Autoencoder, mnist: data.Dataset, how: train.Recipe, loss_name: str, seed: int
) -> pandas.DataFrame:
    """Train the decoder alone, make sure that the encoder did not move, and return the history."""

    def loss(decoder: nn.Module, latents: Tensor, originals: Tensor) -> tuple[Tensor, dict]:
        logits = decoder(latents)  # (B, 12) -> (B, 1, 28, 28)
        return reconstruction_loss(logits, originals, loss_name)  # as Q1's, with metrics l1 and mse

    before = fingerprint(model.encoder)
    # A frozen encoder gives the same latents in every epoch, so they are computed once.
    examples = {}
    for name in ("train", "test"):
        split = getattr(mnist, name)
        examples[name] = TensorDataset(train.apply(model.encoder, split.images), split.images)

    held_out = {"test": examples["test"]}  # recorded after each epoch; nothing is chosen by it
    history = train.fit(model.decoder, loss, examples["train"], held_out, how, seed)

    assert fingerprint(model.encoder) == before, "the frozen encoder changed in training"
    return history


def refuse_black(model: Autoencoder, mnist: data.Dataset) -> None:
    """RunError if the decoder has fallen into all black: it draws no better than the mean image."""
    validation = mnist.validation.images
    drawn = pixels(train.apply(model, validation))
    refuse_collapse(F.mse_loss(drawn, validation).item(), mnist)


# The report's claims, each measured for Q1 and Q3; (b) and (c) for baselines too.


def claim_a(
    encoder: nn.Module, mnist: data.Dataset, writing: dict[str, dict[str, Array]]
) -> dict[str, float]:
    """(a) Q1's encoder keeps what a decoder needs; the classifier's keeps what tells classes apart.

    A decoder needs slant and thickness besides the class. How well do the latents predict these,
    and how well does a linear probe predict the class? ``writing`` holds both, by split.
    """
    coded = {}
    for name in ("train", "test"):
        split = getattr(mnist, name)
        latents = train.apply(encoder, split.images).cpu().numpy()  # (N, 12)
        coded[name] = Coded(latents, split.labels.cpu().numpy())

    measures = {}
    for feature in ("slant", "thickness"):
        # One probe per digit: the digit itself must not help to predict.
        measures[f"{feature}_r2"] = latent_measures.r2_within_digits(
            KNeighborsRegressor(NEIGHBOURS),
            coded["train"],
            writing["train"][feature],
            coded["test"],
            writing["test"][feature],
        )
    measures["linear_probe_accuracy"] = latent_measures.linear_probe_accuracy(
        coded["train"], coded["test"]
    )
    return measures


def claim_b(drawn: Array, test: data.Split, mean_images: Array) -> dict[str, float]:
    """(b) Variability within a digit is higher in Q1: Q3 draws a general example of a digit.

    How much of the standard deviation within a digit do reconstructions keep, does theirs correlate
    with the originals', and how much of the variance is explained beyond ``mean_images``, the best
    that the digit alone can give? ``drawn`` is (N, 1, 28, 28) in [0, 1].
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


def claim_c(drawn: Array, test: data.Split, digit_reader: nn.Module) -> dict[str, float]:
    """(c) Separation between digits is about the same in Q3, or slightly higher.

    How far apart do reconstructed digits lie, pixel by pixel, and does a classifier that has never
    seen a reconstruction, the reader, classify them rightly?
    """
    labels = test.labels.cpu().numpy()
    return {
        "pixel_silhouette": latent_measures.silhouette(drawn, labels),
        "reading_accuracy": reader.reading_accuracy(digit_reader, drawn, labels),
    }


def claim_c_latents(encoder: nn.Module, test: data.Split) -> dict[str, float]:
    """(c), beside it: how far apart do the digits lie in the latents themselves?"""
    latents = train.apply(encoder, test.images).cpu().numpy()
    return {"latent_silhouette": latent_measures.silhouette(latents, test.labels.cpu().numpy())}


def log_reading_error(
    results: run.Results, drawn: dict[str, Array], labels: Array, digit_reader: nn.Module
) -> None:
    """Log by how much other test images would move the difference between Q3 and Q1 in (c).

    Seeds share the test images, so that the spread over seeds does not show it: the standard error
    of the paired difference.
    """
    q1_right = reader.read(digit_reader, drawn["Q1"]) == labels
    q3_right = reader.read(digit_reader, drawn["Q3"]) == labels
    difference = q3_right.astype(float) - q1_right
    error = difference.std(ddof=1) / len(labels) ** 0.5
    results.log({"reading_difference_error": error}, model="Q3", split="test")


def plot_loss(results: run.Results, history: pandas.DataFrame, loss_name: str) -> None:
    """Plot the report's loss graph, with the errors of Q1 and PCA on the same images as lines."""
    scores = test_scores(results.numbers)
    levels = {}
    if loss_name in scores:  # cross-entropy is not measured of the others
        levels = scores[loss_name].drop(["original", "Q3"]).to_dict()
    last = history[(history.split == "test") & (history.measure == loss_name)].value.iloc[-1]
    curves.plot_training(
        results.folder / "loss.png",
        "Q3's decoder soon stops improving, far from Q1's error",
        f"At the end {last:.4f} per pixel on test images (seed {results.config.seed})"
        f"{'; dashed, what the others leave on the same images' if levels else ''}.",
        history,
        loss_name,
        levels,
    )


def log_slopes(
    results: run.Results, drawn: dict[str, Array], writing: dict[str, Array], labels: Array
) -> None:
    """Log how far thickness and slant of what Q1 and Q3 draw follow those of the test images."""
    for name in ("Q1", "Q3"):
        of_drawn = handwriting(drawn[name])
        for feature in ("thickness", "slant"):
            slope = slope_within_digits(of_drawn[feature], writing[feature], labels)
            results.log({f"{feature}_slope": slope}, model=name, split="test")


def plot_pens(
    results: run.Results, drawn: dict[str, Array], writing: dict[str, Array], labels: Array
) -> None:
    """Plot digits from thin to thick strokes, and what Q1 and Q3 make of them."""
    slope = test_scores(results.numbers).thickness_slope
    count = min(PENS, *(int((labels == digit).sum()) for digit in PEN_DIGITS))
    shown = []
    for digit in PEN_DIGITS:
        shown += from_thin_to_thick(writing, labels, digit, count)
    rows = [
        images.Row(name, torch.from_numpy(drawn[name][shown])) for name in ("original", "Q1", "Q3")
    ]
    follows = "Q1 follows the pen, Q3 far less"
    if slope["Q3"] > slope["Q1"] / 2:
        follows = "Q1 and Q3 both follow the pen"
    images.plot_rows(
        results.folder / "pens.png",
        f"From thin to thick: {follows}",
        "Test images chosen by how they are written alone, equally far apart in thickness. Where"
        f" strokes are a pixel thicker, Q1's are by {slope['Q1']:.2f} and Q3's by"
        f" {slope['Q3']:.2f}, within digits (seed {results.config.seed}).",
        rows,
        column_titles=tuple(f"{digit}s" for digit in PEN_DIGITS),
    )


def plot_digits(results: run.Results, drawn: dict[str, Array], labels: Tensor) -> None:
    """Plot the first test images of each digit as they are and as Q1 and Q3 draw them."""
    first = data.first_of_each_digit(labels, EXAMPLES)  # (10, 6)
    rows = []
    for two_of_each in first.split(2, dim=1):  # (10, 2)
        shown = two_of_each.flatten()
        for name in ("original", "Q1", "Q3"):
            rows.append(images.Row(name, torch.from_numpy(drawn[name][shown])))
    draws = "a digit of the same class"
    if test_scores(results.numbers).reading_accuracy["Q3"] < 0.9:
        draws = "something like it"
    images.plot_rows(
        results.folder / "digits.png",
        f"Q1 redraws the digit it is shown, Q3 draws {draws}",
        f"The first {EXAMPLES} test images of each digit, chosen by nothing else"
        f" (seed {results.config.seed}).",
        rows,
        rows_per_group=3,
    )


def plot_claims_a_and_b(results: run.Results, drawn: dict[str, Array], labels: Array) -> None:
    """Plot what the latents predict, and how much reconstructions of each digit vary."""
    scores = test_scores(results.numbers)
    seed = results.config.seed

    is_lower = scores.slant_r2["Q3"] < scores.slant_r2["Q1"]
    is_lower &= scores.thickness_r2["Q3"] < scores.thickness_r2["Q1"]
    dots.plot_panels(
        results.folder / "claim_a.png",
        "(a) How a digit was written is predicted"
        f" {'better' if is_lower else 'no better'} from Q1's latents than from the classifier's",
        f"Slant and thickness are the mean of those of the {NEIGHBOURS} training images of the same"
        " digit with the nearest latents; the digit itself is predicted by logistic regression"
        f" ({len(labels):,} test images, seed {seed}).",
        results.numbers,
        ["Q1", "Q3"],
        ["slant_r2", "thickness_r2", "linear_probe_accuracy"],
    )

    by_digit = pandas.DataFrame()
    for name in ("Q1", "Q3"):
        by_digit[name] = reconstructions.deviation_kept_of_each_digit(
            drawn[name], drawn["original"], labels
        )
    kept, correlation = scores.deviation_kept, scores.deviation_correlation
    more = "Q1" if kept["Q1"] > kept["Q3"] else "Q3"
    less = "less" if correlation["Q3"] < correlation["Q1"] else "more"
    claims.plot_by_digit(
        results.folder / "claim_b.png",
        f"(b) {more}'s digits vary more within a class; Q3's are {less} like the ones shown",
        f"Share of the standard deviation within a digit: {kept['Q1']:.3f} in Q1, {kept['Q3']:.3f}"
        f" in Q3. Correlation with the original's deviation: {correlation['Q1']:.3f} and"
        f" {correlation['Q3']:.3f} ({len(labels):,} test images, seed {seed}).",
        by_digit,
        "share of the standard deviation\nwithin the digit",
    )


def plot_claim_c(results: run.Results, models: dict[str, Autoencoder], test: data.Split) -> None:
    """Plot the latents in two dimensions and, below them, the measures of claim (c)."""
    shown = test[: results.config.latents_shown]
    labels = shown.labels.cpu().numpy()
    projections = {}
    for name, model in models.items():
        latents = train.apply(model.encoder, shown.images).cpu().numpy()
        points = TSNE(random_state=results.config.seed).fit_transform(latents)
        projections[f"latents {name} draws from, t-SNE"] = (points, labels)

    scores = test_scores(results.numbers)
    farther = "Q3" if scores.pixel_silhouette["Q3"] > scores.pixel_silhouette["Q1"] else "Q1"
    read = scores.reading_accuracy
    better = "Q3's" if read["Q3"] > read["Q1"] else "Q1's"
    is_alike = abs(read["Q3"] - read["Q1"]) < 2 * scores.reading_difference_error["Q3"]
    reads = "both are read about equally well" if is_alike else f"{better} are read better"
    claims.plot_separation(
        results.folder / "claim_c.png",
        f"(c) {farther}'s digits lie farther apart; {reads}",
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
    mnist = data.load(config.dataset, config.data_dir, results.device, config.quick)
    q1 = checkpoint.load(results.path_of("q1_autoencoder"), results.device)
    q2 = checkpoint.load(results.path_of("q2_classifier"), results.device)

    # The experiment: a decoder on Q2's frozen encoder, trained as Q1's was.
    q1_options = results.options_of("q1_autoencoder")
    q3 = build(q2.encoder, config.seed).to(results.device, memory_format=torch.channels_last)
    history = train_decoder(q3, mnist, recipe(q1_options), q1_options.loss, config.seed)
    refuse_black(q3, mnist)
    q3 = checkpoint.save_and_reload(results.folder / "model.safetensors", q3)
    results.log_history(history, model="Q3")

    # What both draw; beside it the originals, and what as many principal components give.
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
    digit_reader = reader.train_reader(mnist.train, config.reader_epochs)  # one for all seeds
    for name, model in models.items():
        results.log(claim_a(model.encoder, mnist, writing), model=name, split="test")
        results.log(claim_c_latents(model.encoder, mnist.test), model=name, split="test")
    for name, reconstructed in drawn.items():
        results.log(claim_b(reconstructed, mnist.test, mean_images), model=name, split="test")
        results.log(claim_c(reconstructed, mnist.test, digit_reader), model=name, split="test")

    test_labels = mnist.test.labels.cpu().numpy()
    log_slopes(results, drawn, writing["test"], test_labels)
    log_reading_error(results, drawn, test_labels, digit_reader)

    with run.drawing():
        plot_loss(results, history, q1_options.loss)
        plot_pens(results, drawn, writing["test"], test_labels)
        plot_digits(results, drawn, mnist.test.labels)
        plot_claims_a_and_b(results, drawn, test_labels)
        plot_claim_c(results, models, mnist.test)

    measures = ["slant_r2", "deviation_kept", "deviation_correlation", "pixel_silhouette"]
    explained = test_scores(results.numbers).variance_explained
    print(f"variance within a digit explained: {explained['Q1']:.3f} Q1, {explained['Q3']:.3f} Q3")
    print(names.table(results.numbers, ["Q1", "Q3", pca], ["l1", *measures]))
    results.finish(mnist.sha256)


if __name__ == "__main__":
    run.command_line(main, Config)
