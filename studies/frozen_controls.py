"""Does Q3 draw general digits because Q2's representation is only a vector of probabilities?

That is the reason that the report gives for claim (b). Here decoders like Q3's, trained with the
same loss and recipe, draw from

    probabilities    the 10 probabilities that Q2 gives the digits
    logits           the 10 logits that they are made of
    Q3               Q2's 12 latents: Q3 itself, read from its folder
    Q3, wider        the same latents, with a decoder of twice as many channels and units
    random encoder   the 12 latents of an encoder that was never trained

and beside them stand Q1, PCA-12, and what the digit alone can give: its class mean, the best for
the squared error, and its class median, the best for L1.

Mean ± standard deviation of 3 seeds, on test images:

                     l1                variance_explained   deviation_correlation   reading_accuracy
    Q1               0.0270 ± 0.0001   0.819 ± 0.002        0.908 ± 0.001           97.27% ± 0.01
    Q3, wider        0.0582 ± 0.0005   0.382 ± 0.007        0.670 ± 0.004           97.33% ± 0.16
    Q3               0.0606 ± 0.0005   0.346 ± 0.007        0.648 ± 0.005           96.87% ± 0.26
    logits           0.0757 ± 0.0015   0.113 ± 0.023        0.492 ± 0.017           95.57% ± 0.58
    probabilities    0.1018 ± 0.0002   -0.207 ± 0.015       0.051 ± 0.001           98.83% ± 0.05
    random encoder   0.0781 ± 0.0039   0.057 ± 0.065        0.499 ± 0.033           64.76% ± 5.33
    PCA-12           0.0948            0.410                0.654                   77.90%
    class mean       0.1213            0.000                -                       100.00%
    class median     0.1014            -0.252               -                       100.00%

What can be *read* from the latents is evidence for claim (a): slant, thickness and size, predicted
within each digit by the mean of 20 neighbours and by a ridge regression.

                     slant_r2        slant_ridge_r2   thickness_r2    thickness_ridge_r2
    Q1               0.940 ± 0.005   0.948 ± 0.001    0.874 ± 0.002   0.941 ± 0.003
    Q2               0.551 ± 0.020   0.601 ± 0.020    0.156 ± 0.013   0.159 ± 0.003
    logits           0.370 ± 0.013   0.303 ± 0.038    0.100 ± 0.018   0.100 ± 0.014
    probabilities    0.210 ± 0.022   -                0.066 ± 0.006   -
    random encoder   0.661 ± 0.031   0.536 ± 0.048    0.424 ± 0.104   0.390 ± 0.123

So the reason does not hold: from probabilities a decoder draws little more than the digit's median
image, from logits it explains some of the variance, and from the latents far more. In each of these
seeds a random encoder's latents tell thickness better than Q2's, by either probe, and slant by
neighbours alone; so few seeds do not show it. A decoder draws hardly anything from them.

Probabilities hold as much as logits do, up to a common offset. But most of them are next to 0,
where a decoder does not see what tells them apart. In squared error what it draws from them is only
a little better than the mean of all images, and worse than the digit's, so that some steps minimise
cross-entropy in the place of L1 (common/losses.py): 30 % of the first 215 and 2 to 5 % of the later
ones, in a trial of 3 epochs (seed 101).

Run:     python -m studies.frozen_controls
Needs:   q1_autoencoder.py, q2_classifier.py and q3_frozen_decoder.py, run before with the same
         --output-dir
Writes:  outputs/studies/frozen_controls/: numbers.csv, digits.png, latents.png
"""

import dataclasses

import numpy
import pandas
import torch
from numpy.typing import NDArray as Array
from sklearn.linear_model import Ridge
from sklearn.neighbors import KNeighborsRegressor
from torch import Tensor, nn

from common import checkpoint, data, run, train
from common.figures import dots, images
from common.measures import latents as latent_measures
from common.measures import reader, reconstructions
from common.measures.handwriting import handwriting
from common.measures.latents import Coded
from common.measures.points import class_means
from common.models import (
    CLASSES,
    IMAGE_SHAPE,
    Autoencoder,
    Classifier,
    Encoder,
    freeze,
    initialise,
    pixels,
)
from q1_autoencoder import recipe as q1_recipe
from q3_frozen_decoder import NEIGHBOURS, build, claim_b, claim_c, test_scores, train_decoder

FEATURES = ("slant", "thickness", "size")
RIDGE_PENALTY = 1.0  # on standardised latents (Hoerl and Kennard 1970)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(run.Options):
    """Options beside the shared ones: dataset, data_dir, output_dir, device, seed,
    quick.

    Loss, recipe and reader are those of Q1 and Q3, read from their results.
    """

    widening: int = 2
    """How many times as many channels and units the wider decoder has; the weights grow with its
    square.
    """


class Logits(nn.Module):
    """Map images (B, 1, 28, 28) to a classifier's logits (B, 10), in the place of latents."""

    latent_dim = CLASSES

    def __init__(self, classifier: Classifier):
        super().__init__()
        self.classifier = classifier

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(images)


class Probabilities(Logits):
    """Map images (B, 1, 28, 28) to a classifier's probabilities (B, 10)."""

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(images).softmax(1)


class WiderDecoder(nn.Module):
    """Decoder with ``widening`` times as many channels and units."""

    def __init__(self, latent_dim: int, widening: int, generator: torch.Generator):
        super().__init__()
        units = 128 * widening
        first, second, third = 64 * widening, 32 * widening, 16 * widening
        self.layers = nn.Sequential(
            nn.Linear(latent_dim, units),
            nn.ReLU(inplace=True),
            nn.Linear(units, first * 4 * 4),
            nn.ReLU(inplace=True),
            nn.Unflatten(1, (first, 4, 4)),
            nn.ConvTranspose2d(first, second, kernel_size=3, stride=2, padding=1),
            nn.ReLU(inplace=True),  # (B, 64, 7, 7) if twice as wide
            nn.ConvTranspose2d(  # (B, 32, 14, 14)
                second, third, kernel_size=3, stride=2, padding=1, output_padding=1
            ),
            nn.ReLU(inplace=True),
            nn.ConvTranspose2d(  # (B, 1, 28, 28)
                third, 1, kernel_size=3, stride=2, padding=1, output_padding=1
            ),
        )
        initialise(self, generator)

    def forward(self, latents: Tensor) -> Tensor:
        return self.layers(latents)


def build_controls(q2: Classifier, config: Config) -> dict[str, Autoencoder]:
    """Put new decoders on what Q2 gives, and on an encoder that was never trained. All encoders are
    frozen.
    """
    latent_dim = q2.encoder.latent_dim
    random_encoder = Encoder(latent_dim, generator=run.generator(config.seed, "random encoder"))
    wider = WiderDecoder(latent_dim, config.widening, run.generator(config.seed, "decoder"))
    return {
        "Q3, wider": Autoencoder(freeze(q2.encoder), wider),
        "logits": build(Logits(q2), config.seed),
        "probabilities": build(Probabilities(q2), config.seed),
        "random encoder": build(random_encoder, config.seed),
    }


def median_images(train: data.Split) -> Array:
    """Return the median image of each digit: (10, 1, 28, 28)."""
    images, labels = train.images.cpu().numpy(), train.labels.cpu().numpy()
    medians = []
    for digit in range(CLASSES):
        medians.append(numpy.median(images[labels == digit], axis=0))
    return numpy.stack(medians)


def measure_from_digit_alone(
    drawn: Array, test: data.Split, digit_reader: nn.Module, mean_images: Array
) -> dict[str, float]:
    """Return what of (b) and (c) can be measured of images that are the same for all of a digit."""
    originals, labels = test.images.cpu().numpy(), test.labels.cpu().numpy()
    explained = reconstructions.variance_explained_within_digits(
        drawn, originals, labels, mean_images
    )
    return reconstructions.errors(drawn, originals) | {
        "deviation_kept": 0.0,
        "variance_explained": explained,
        "reading_accuracy": reader.reading_accuracy(digit_reader, drawn, labels),
    }


def read_from_latents(
    encoder: nn.Module, mnist: data.Dataset, writing: dict[str, dict[str, Array]]
) -> dict[str, float]:
    """Return how well latents predict the way a digit was written, R^2 within digits, and which
    digit it is.

    ``writing`` holds slant, thickness and size of the images of each split. Without information a
    ridge gives 0 and the mean of 20 neighbours -1/20.
    """
    coded = {}
    for split_name in writing:
        split = getattr(mnist, split_name)
        latents = train.apply(encoder, split.images).cpu().numpy()
        coded[split_name] = Coded(latents, split.labels.cpu().numpy())

    measures = {}
    probes = {"r2": KNeighborsRegressor(NEIGHBOURS)}
    if not isinstance(encoder, Probabilities):  # most are next to 0: a linear map runs wild
        probes["ridge_r2"] = Ridge(RIDGE_PENALTY)
    for feature in FEATURES:
        for ending, probe in probes.items():
            measures[f"{feature}_{ending}"] = latent_measures.r2_within_digits(
                probe,
                coded["train"],
                writing["train"][feature],
                coded["test"],
                writing["test"][feature],
            )
    measures["linear_probe_accuracy"] = latent_measures.linear_probe_accuracy(
        coded["train"], coded["test"]
    )
    return measures


def plot_digits(
    results: run.Results, drawn: dict[str, Array], explained: pandas.Series, labels: Tensor
) -> None:
    """Plot the first test image of each digit as everything draws it, best explained first."""
    shown = data.first_of_each_digit(labels).flatten()
    rows = [images.Row("original", torch.from_numpy(drawn["original"][shown]))]
    for name in explained.sort_values(ascending=False).index:
        text = f"{name}\n{round(100 * explained[name])} % explained"
        rows.append(images.Row(text, torch.from_numpy(drawn[name][shown])))
    if explained["Q3"] > explained["probabilities"] + 0.1:
        title = (
            "From Q2's latents a decoder draws much of this digit, from its probabilities little"
        )
    else:
        title = "From Q2's latents a decoder draws no more of a digit than from its probabilities"
    images.plot_rows(
        results.folder / "digits.png",
        title,
        "The first test image of each digit, and how much of the variance within a digit each"
        f" explains: 0 is the digit's mean image (seed {results.config.seed}).",
        rows,
    )


def plot_latents(results: run.Results, numbers: pandas.DataFrame, encoders: list[str]) -> None:
    """Plot how well the way a digit was written is predicted from each encoder's latents."""
    scores = test_scores(numbers)
    won = []
    for feature in FEATURES:
        of_feature = scores[f"{feature}_r2"]
        if of_feature["random encoder"] > of_feature["Q2"]:
            won.append(feature)
    predicted = ", ".join(won) or "neither slant, thickness nor size"
    slant, ridge = scores.slant_r2, scores.slant_ridge_r2
    measures = []
    for ending in ("r2", "ridge_r2"):
        for feature in FEATURES:
            measures.append(f"{feature}_{ending}")
    dots.plot_panels(
        results.folder / "latents.png",
        f"From their neighbours a random encoder's latents tell {predicted} better than Q2's",
        f"Above by the mean of {NEIGHBOURS} neighbours, below by a ridge regression, each fitted to"
        f" one digit at a time. Slant: {slant['Q1']:.2f} from Q1's latents, {slant['Q2']:.2f} from"
        f" Q2's, {slant['random encoder']:.2f} from the random encoder's; by the ridge"
        f" {ridge['Q1']:.2f}, {ridge['Q2']:.2f} and {ridge['random encoder']:.2f}"
        f" (seed {results.config.seed}).",
        numbers,
        encoders,
        measures,
    )


def main(config: Config) -> None:
    needs = ("q1_autoencoder", "q2_classifier", "q3_frozen_decoder")
    results = run.start("studies/frozen_controls", config, needs)
    mnist = data.load(config.dataset, config.data_dir, results.device, config.quick)
    q1 = checkpoint.load(results.path_of("q1_autoencoder"), results.device)
    q2 = checkpoint.load(results.path_of("q2_classifier"), results.device)
    q3 = checkpoint.load(results.path_of("q3_frozen_decoder"), results.device)

    # Decoders of all controls, trained as Q1 and Q3 were.
    q1_options = results.options_of("q1_autoencoder")
    recipe = dataclasses.replace(q1_recipe(q1_options), record_epochs=())
    controls = build_controls(q2, config)
    for model in controls.values():
        model.to(results.device, memory_format=torch.channels_last)
        train_decoder(model, mnist, recipe, q1_options.loss, config.seed)

    # What they draw.
    train_images = mnist.train.images.cpu().numpy()
    originals = mnist.test.images.cpu().numpy()
    test_labels = mnist.test.labels.cpu().numpy()
    mean_images = class_means(train_images, mnist.train.labels.cpu().numpy())  # (10, 784)
    reader_epochs = results.options_of("q3_frozen_decoder").reader_epochs
    digit_reader = reader.train_reader(mnist.train, reader_epochs)  # as in Q3
    drawn = {"original": originals}
    for name, model in ({"Q1": q1, "Q3": q3} | controls).items():
        drawn[name] = pixels(train.apply(model, mnist.test.images)).cpu().numpy()
    for name in controls:
        results.log(claim_b(drawn[name], mnist.test, mean_images), name, "test")
        results.log(claim_c(drawn[name], mnist.test, digit_reader), name, "test")

    # What the digit alone can give.
    of_digits = mean_images.astype(numpy.float32).reshape(CLASSES, *IMAGE_SHAPE)
    drawn["class mean"] = of_digits[test_labels]
    drawn["class median"] = median_images(mnist.train)[test_labels]
    for name in ("class mean", "class median"):
        measures = measure_from_digit_alone(drawn[name], mnist.test, digit_reader, mean_images)
        results.log(measures, name, "test")

    # Numbers of Q1, Q3 and PCA are Q3's own.
    pca = f"PCA-{q2.encoder.latent_dim}"
    drawn[pca] = reconstructions.pca_reconstruct(train_images, originals, q2.encoder.latent_dim)
    q3_numbers = results.table_of("q3_frozen_decoder", "numbers")
    of_others = q3_numbers[q3_numbers.model.isin(["Q1", "Q3", pca])]
    scores = test_scores(pandas.concat([of_others, results.numbers]))

    # What can be read from the latents.
    encoders = {
        "Q1": q1.encoder,
        "Q2": q2.encoder,
        "logits": controls["logits"].encoder,
        "probabilities": controls["probabilities"].encoder,
        "random encoder": controls["random encoder"].encoder,
    }
    writing = {"train": handwriting(train_images), "test": handwriting(originals)}
    for name, encoder in encoders.items():
        results.log(read_from_latents(encoder, mnist, writing), name, "test")

    with run.drawing():
        plot_digits(results, drawn, scores.variance_explained, mnist.test.labels)
        plot_latents(results, results.numbers, list(encoders))

    explained = scores.variance_explained
    print(
        f"variance within a digit explained: {explained['Q3']:.3f} from latents,"
        f" {explained['logits']:.3f} from logits,"
        f" {explained['probabilities']:.3f} from probabilities"
    )
    measures = ["l1", "variance_explained", "deviation_correlation", "reading_accuracy"]
    print(scores.loc[list(drawn)[1:], measures].T.round(3).to_string(na_rep=""))
    results.finish(mnist.sha256)


if __name__ == "__main__":
    run.command_line(main, Config)
