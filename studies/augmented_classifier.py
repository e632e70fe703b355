"""What does augmentation give the classifier Q2, and what does it take from Q3?

Q2 is trained on the images as they are. Here it is trained three times more, for as long and at the
same rates: on images that are warped anew in every batch, with smoothed labels, and with both. A
decoder like Q3's is then trained on each of the frozen encoders.

Mean ± standard deviation of 3 seeds, on test images:

                              accuracy        cross_entropy   calibration_error
    Q2, plain                 99.10% ± 0.10   0.028 ± 0.002   0.30% ± 0.05
    Q2, warps                 99.35% ± 0.01   0.019 ± 0.001   0.15% ± 0.06
    Q2, smoothing             99.18% ± 0.01   0.119 ± 0.001   9.11% ± 0.05
    Q2, warps and smoothing   99.39% ± 0.04   0.104 ± 0.001   8.41% ± 0.10

                              variance_explained   deviation_kept   slant_r2
    Q3, plain                 0.346 ± 0.007        0.896 ± 0.005    0.551 ± 0.020
    Q3, warps                 0.362 ± 0.007        0.900 ± 0.004    0.565 ± 0.027
    Q3, smoothing             0.163 ± 0.013        0.809 ± 0.009    0.328 ± 0.030
    Q3, warps and smoothing   0.231 ± 0.007        0.849 ± 0.005    0.451 ± 0.026

It is label smoothing that takes about half of what Q3 explains; it draws the latents of a digit
together (Müller et al. 2019, When Does Label Smoothing Help?), costs calibration and shows no gain
in accuracy. Warps make Q2 better calibrated; that they make it more accurate, +0.25 (+0.01
to +0.49) points, or take something from the decoder, is not shown after Holm by so few seeds.

Run:     python -m studies.augmented_classifier
Needs:   q1_autoencoder.py, q2_classifier.py and q3_frozen_decoder.py, run before with the same
         --output-dir
Writes:  outputs/studies/augmented_classifier/: numbers.csv, classifiers.png, decoders.png
"""

import dataclasses
from functools import partial

import pandas
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common import checkpoint, data, run, train
from common.augment import WARP, Averaged
from common.figures import dots
from common.losses import classification_metrics
from common.measures import reader
from common.measures.handwriting import handwriting
from common.measures.points import class_means
from common.models import Autoencoder, Classifier, pixels
from q1_autoencoder import recipe as q1_recipe
from q2_classifier import build as build_q2
from q2_classifier import loss as q2_loss
from q2_classifier import recipe as q2_recipe
from q3_frozen_decoder import build as build_q3
from q3_frozen_decoder import claim_a, claim_b, claim_c, refuse_black, test_scores, train_decoder

CALIBRATION_BINS = 15  # as many as in Guo et al. 2017


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(run.Options):
    """Options beside the shared ones: dataset, data_dir, output_dir, device, seed,
    quick.

    Everything else is Q1's, Q2's and Q3's, read from their results.
    """

    label_smoothing: float = 0.1
    """Weight that the loss takes from the label and gives to all ten classes alike."""
    copies: int = 16
    """Warped copies of each test image over which probabilities are averaged."""


@dataclasses.dataclass(frozen=True)
class Variant:
    """A way to train the classifier, and what it and the decoder on its encoder are called."""

    words: str
    transform: train.Transform | None
    label_smoothing: float

    @property
    def classifier(self) -> str:
        return f"Q2, {self.words}"

    @property
    def decoder(self) -> str:
        return f"Q3, {self.words}"


def smoothed_loss(
    model: nn.Module, images: Tensor, labels: Tensor, smoothing: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return cross-entropy with smoothed labels (Szegedy et al. 2016), and Q2's metrics.

    With smoothing 0.1 the target is 0.91 for the label and 0.01 for each other class.
    """
    logits = model(images)  # (B, 1, 28, 28) -> (B, 12) -> (B, 10)
    smoothed = F.cross_entropy(logits, labels, label_smoothing=smoothing)
    return smoothed, classification_metrics(logits, labels)


def train_classifier(variant: Variant, mnist: data.Dataset, results: run.Results) -> Classifier:
    """Train Q2 from its own initial weights, but for what the variant changes."""
    options = results.options_of("q2_classifier")
    recipe = q2_recipe(options)
    recipe = dataclasses.replace(recipe, transform=variant.transform, record_epochs=())
    minimised = partial(smoothed_loss, smoothing=variant.label_smoothing)
    model = build_q2(options).to(results.device, memory_format=torch.channels_last)
    train.fit(model, minimised, mnist.train.to_classify(), {}, recipe, options.seed)
    return model.eval()


def calibration_error(probabilities: Tensor, labels: Tensor) -> float:
    """Return the expected calibration error of probabilities (N, K) for labels (N,), a fraction.

    Images are sorted into 15 bins by the probability of the predicted class; the error is the mean
    distance, weighted by the images in a bin, of that probability from the accuracy (Naeini et al.
    2015, Guo et al. 2017).
    """
    confidences, predicted = probabilities.cpu().double().max(1)
    is_right = (predicted == labels.cpu()).double()
    bins = (confidences * CALIBRATION_BINS).ceil().long().clamp(min=1)
    error = 0.0
    for number in range(1, CALIBRATION_BINS + 1):
        in_bin = bins == number
        if in_bin.any():
            distance = (confidences[in_bin].mean() - is_right[in_bin].mean()).abs().item()
            error += distance * in_bin.double().mean().item()
    return error


def measure_classifier(model: Classifier, test: data.Split, copies: int) -> dict[str, float]:
    """Return accuracy, cross-entropy (the negative log likelihood per image), calibration error,
    and the accuracy of probabilities that are averaged over warped copies.
    """
    measures = train.evaluate(model, q2_loss, test.to_classify())
    probabilities = train.apply(model, test.images).softmax(1)
    measures["calibration_error"] = calibration_error(probabilities, test.labels)
    averaged = train.evaluate(Averaged(model, copies), q2_loss, test.to_classify())
    measures["averaged_accuracy"] = averaged["accuracy"]
    return measures


def measure_decoder(
    model: Autoencoder, mnist: data.Dataset, digit_reader: nn.Module
) -> dict[str, float]:
    """Return the measures of Q3's three claims."""
    train_images = mnist.train.images.cpu().numpy()
    test_images = mnist.test.images.cpu().numpy()
    writing = {"train": handwriting(train_images), "test": handwriting(test_images)}
    mean_images = class_means(train_images, mnist.train.labels.cpu().numpy())
    drawn = pixels(train.apply(model, mnist.test.images)).cpu().numpy()
    of_encoder = claim_a(model.encoder, mnist, writing)
    of_images = claim_b(drawn, mnist.test, mean_images) | claim_c(drawn, mnist.test, digit_reader)
    return of_encoder | of_images


def plot(results: run.Results, variants: list[Variant], test_images: int) -> None:
    """Plot what the variants give the classifier, and what they take from the decoder."""
    scores = test_scores(results.numbers)
    seed = results.config.seed
    plain, warped, smoothed, _ = variants

    right = scores.accuracy
    gain = 100 * (right[warped.classifier] - right[plain.classifier])
    # The standard error of a difference of two independent accuracies.
    wrong = 2 - right[plain.classifier] - right[warped.classifier]
    error = 100 * (wrong / test_images) ** 0.5
    gains = "Warps make Q2 more accurate" if gain > 2 * error else "No gain by warps is shown"
    calibrated = "better"
    if scores.calibration_error[smoothed.classifier] > scores.calibration_error[plain.classifier]:
        calibrated = "worse"
    dots.plot_panels(
        results.folder / "classifiers.png",
        f"{gains}, and label smoothing makes Q2 {calibrated} calibrated",
        f"Warps change {right[plain.classifier]:.2%} by {gain:+.2f} points, a standard error being"
        f" {error:.2f} over {test_images:,} test images; averages are over an"
        f" image and {results.config.copies} warped copies of it (seed {seed}).",
        results.numbers,
        [variant.classifier for variant in variants],
        ["accuracy", "averaged_accuracy", "cross_entropy", "calibration_error"],
    )

    explained = scores.variance_explained
    by_warps = explained[warped.decoder] - explained[plain.decoder]
    by_smoothing = explained[smoothed.decoder] - explained[plain.decoder]
    left = "far less of this digit" if by_smoothing < -0.05 else "about as much of this digit"
    dots.plot_panels(
        results.folder / "decoders.png",
        f"Q2 leaves {left} for Q3 to draw if it was trained with label smoothing",
        f"Variance within a digit that Q3 explains: {explained[plain.decoder]:.3f} on the plain Q2,"
        f" {explained[smoothed.decoder]:.3f} on that with label smoothing,"
        f" {explained[warped.decoder]:.3f} on that with warps ({by_warps:+.3f}; seed {seed}).",
        results.numbers,
        [variant.decoder for variant in variants],
        ["slant_r2", "variance_explained", "deviation_correlation", "reading_accuracy"],
    )


def main(config: Config) -> None:
    needs = ("q1_autoencoder", "q2_classifier", "q3_frozen_decoder")
    results = run.start("studies/augmented_classifier", config, needs)
    mnist = data.load(config.dataset, config.data_dir, results.device, config.quick)
    q1_options = results.options_of("q1_autoencoder")
    decoder_recipe = dataclasses.replace(q1_recipe(q1_options), record_epochs=())

    plain = Variant("plain", None, 0.0)
    augmented = [
        Variant("warps", WARP, 0.0),
        Variant("smoothing", None, config.label_smoothing),
        Variant("warps and smoothing", WARP, config.label_smoothing),
    ]

    # The plain ones are Q2 and Q3 themselves.
    classifiers = {plain: checkpoint.load(results.path_of("q2_classifier"), results.device)}
    decoders = {plain: checkpoint.load(results.path_of("q3_frozen_decoder"), results.device)}
    for variant in augmented:
        classifiers[variant] = train_classifier(variant, mnist, results)
        decoder = build_q3(classifiers[variant].encoder, config.seed)
        decoder.to(results.device, memory_format=torch.channels_last)
        train_decoder(decoder, mnist, decoder_recipe, q1_options.loss, config.seed)
        refuse_black(decoder, mnist)
        decoders[variant] = decoder

    reader_epochs = results.options_of("q3_frozen_decoder").reader_epochs
    digit_reader = reader.train_reader(mnist.train, reader_epochs)  # as in Q3
    for variant, classifier in classifiers.items():
        measures = measure_classifier(classifier, mnist.test, config.copies)
        results.log(measures, variant.classifier, "test")
        measures = measure_decoder(decoders[variant], mnist, digit_reader)
        results.log(measures, variant.decoder, "test")

    with run.drawing():
        plot(results, [plain, *augmented], len(mnist.test.labels))

    scores = test_scores(results.numbers)
    changes = scores.variance_explained[augmented[1].decoder]
    changes -= scores.variance_explained[plain.decoder]
    print(f"label smoothing changes the variance that Q3 explains by {changes:+.3f}")
    variants = [plain, *augmented]
    of_classifiers = scores.loc[[variant.classifier for variant in variants]]
    of_decoders = scores.loc[[variant.decoder for variant in variants]]
    table = pandas.DataFrame(
        {
            "accuracy": of_classifiers.accuracy.to_numpy(),
            "calibration error": of_classifiers.calibration_error.to_numpy(),
            "Q3 explains": of_decoders.variance_explained.to_numpy(),
            "Q3 keeps": of_decoders.deviation_kept.to_numpy(),
        },
        index=[variant.words for variant in variants],
    )
    print(table.round(4).to_string())
    results.finish(mnist.sha256)


if __name__ == "__main__":
    run.command_line(main, Config)
