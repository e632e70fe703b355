"""How much does the architecture decide: linear layers, channels, the dimension of the latents?

The exercise asks to explore a fully connected layer at the coarsest level and, in later years, the
channels of the first layer and the dimension of the latents. All networks here are trained for 2
epochs, where Q1 has 10 and Q2 has 8, with their recipes otherwise: enough to compare them, not
their last word.

At the coarsest level, 64 channels of 4 x 4, between these and 12 latents:

    two linear layers            with a ReLU between them, as in Q1
    two linear layers, no ReLU   one linear map of rank 12, with more weights
    one linear layer             the same maps, with the fewest weights that give all of them
    no linear layer              a convolution to 3 channels of 2 x 2, the 12 latents: each of them
                                 sees only a part of the image

Mean ± standard deviation of 3 seeds, on test images:

                        l1                mse               weights   seconds
    two linear layers   0.0324 ± 0.0001   0.0131 ± 0.0001   313,037   36.1 ± 13.2
    two, no ReLU        0.0342 ± 0.0003   0.0143 ± 0.0002   313,037   33.8 ± 7.8
    one linear layer    0.0348 ± 0.0003   0.0148 ± 0.0002   72,141    26.4 ± 2.6
    no linear layer     0.0422 ± 0.0005   0.0206 ± 0.0004   50,052    29.3 ± 9.8
    8 channels          0.0351 ± 0.0004   0.0150 ± 0.0003   146,669   20.2 ± 1.5
    4 channels          0.0405 ± 0.0010   0.0189 ± 0.0006   72,125    18.1 ± 0.7

For the dimension D of the latents, beside Q1: Q3, a decoder on a frozen classifier with as many
latents, and PCA-D.

                      l1                variance_explained   reading_accuracy   latent_correlation
    Q1, 2 latents     0.0798 ± 0.0008   0.037 ± 0.018        67.02% ± 3.97      0.299 ± 0.337
    Q3, 2 latents     0.0982 ± 0.0010   -0.190 ± 0.011       95.55% ± 0.55      0.047 ± 0.031
    PCA, 2 latents    0.1306            -0.052               27.64%             -
    Q1, 4 latents     0.0589 ± 0.0004   0.361 ± 0.005        84.54% ± 1.00      0.195 ± 0.033
    Q3, 4 latents     0.0887 ± 0.0004   -0.084 ± 0.006       94.85% ± 0.80      0.099 ± 0.043
    PCA, 4 latents    0.1200            0.095                42.35%             -
    Q1, 8 latents     0.0405 ± 0.0005   0.640 ± 0.006        93.21% ± 0.15      0.149 ± 0.015
    Q3, 8 latents     0.0729 ± 0.0013   0.159 ± 0.020        95.08% ± 0.46      0.182 ± 0.022
    PCA, 8 latents    0.1047            0.293                66.26%             -
    Q1, 12 latents    0.0324 ± 0.0001   0.752 ± 0.001        95.52% ± 0.15      0.142 ± 0.005
    Q3, 12 latents    0.0632 ± 0.0007   0.310 ± 0.011        96.01% ± 0.73      0.224 ± 0.011
    PCA, 12 latents   0.0948            0.410                77.90%             -
    Q1, 16 latents    0.0281 ± 0.0003   0.808 ± 0.003        96.65% ± 0.08      0.146 ± 0.005
    Q3, 16 latents    0.0580 ± 0.0001   0.390 ± 0.002        96.44% ± 0.33      0.258 ± 0.009
    PCA, 16 latents   0.0881            0.493                85.90%             -
    Q1, 32 latents    0.0205 ± 0.0001   0.895 ± 0.001        98.53% ± 0.06      0.160 ± 0.001
    Q3, 32 latents    0.0513 ± 0.0002   0.491 ± 0.003        96.75% ± 0.17      0.283 ± 0.008
    PCA, 32 latents   0.0701            0.682                95.92%             -
    Q1, 64 latents    0.0169 ± 0.0001   0.929 ± 0.001        98.91% ± 0.02      0.163 ± 0.004
    Q3, 64 latents    0.0490 ± 0.0011   0.526 ± 0.016        97.04% ± 0.35      0.288 ± 0.005
    PCA, 64 latents   0.0519            0.829                98.58%             -

(a) and (b) point the same way with every number of latents. That Q1's and Q3's digits are read
about equally well, (c), is a matter of 12: with 8 latents or fewer Q3's are read better, with 32 or
more Q1's. Seconds are those of a busy machine: compare them with each other alone.

The correlation between two latents depends on their axes, and nothing in L1 prefers one set of axes
to another: the decoder's first layer can undo any linear map of the latents.

Run:     python -m studies.architecture
Needs:   nothing; fetches the data on first use
Writes:  outputs/studies/architecture/: numbers.csv, layers.png, latents.png
"""

import dataclasses
import time
from functools import partial

import numpy
import pandas
import torch
from torch import Tensor, nn

from common import data, run, train
from common.figures import dots, sweeps
from common.losses import refuse_collapse
from common.measures import reader, reconstructions
from common.measures.handwriting import handwriting
from common.measures.points import class_means
from common.models import Autoencoder, Decoder, Encoder, initialise, pixels
from q1_autoencoder import Config as Q1Config
from q1_autoencoder import loss as q1_loss
from q1_autoencoder import recipe as q1_recipe
from q2_classifier import Config as Q2Config
from q2_classifier import build as build_q2
from q2_classifier import loss as q2_loss
from q2_classifier import recipe as q2_recipe
from q3_frozen_decoder import build as build_q3
from q3_frozen_decoder import claim_a, claim_b, claim_c, refuse_black, test_scores, train_decoder

LATENTS = 12  # of the networks that differ in something else
CHANNELS = 16  # of Q1's first layer; the following ones have twice and four times as many


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(run.Options):
    """Options beside the shared ones: dataset, data_dir, output_dir, device, seed,
    quick.

    Everything else is as Q1 and Q2 have it by default.
    """

    epochs: int = 2
    """Passes over the training images, for each network."""
    batch_size: int = 128
    """Images per training step of autoencoders and decoders; Q1's."""
    channels: tuple[int, ...] = (4, 8)
    """Channels of the first layer to try, beside Q1's 16."""
    latents: tuple[int, ...] = (2, 4, 8, 12, 16, 32, 64)
    """Numbers that an image is encoded in to try, 2 or more."""
    reader_epochs: int = 3
    """Passes over the training images of the classifier that reads reconstructions."""


@dataclasses.dataclass(frozen=True)
class Coarse:
    """The layers between the coarsest feature maps (B, C, 4, 4) and the latents (B, 12)."""

    encode: nn.Sequential
    decode: nn.Sequential


def two_linear_layers(channels: int) -> Coarse:
    """Q1's own."""
    features = channels * 4 * 4
    return Coarse(
        nn.Sequential(
            nn.Flatten(),
            nn.Linear(features, 128),
            nn.ReLU(inplace=True),
            nn.Linear(128, LATENTS),
        ),
        nn.Sequential(
            nn.Linear(LATENTS, 128),
            nn.ReLU(inplace=True),
            nn.Linear(128, features),
            nn.ReLU(inplace=True),
            nn.Unflatten(1, (channels, 4, 4)),
        ),
    )


def two_linear_layers_without_relu(channels: int) -> Coarse:
    """Q1's, but the two layers are together one linear map."""
    features = channels * 4 * 4
    return Coarse(
        nn.Sequential(nn.Flatten(), nn.Linear(features, 128), nn.Linear(128, LATENTS)),
        nn.Sequential(
            nn.Linear(LATENTS, 128),
            nn.Linear(128, features),
            nn.ReLU(inplace=True),
            nn.Unflatten(1, (channels, 4, 4)),
        ),
    )


def one_linear_layer(channels: int) -> Coarse:
    """One layer; a convolution with a kernel of 4 x 4 is the same under another name."""
    features = channels * 4 * 4
    return Coarse(
        nn.Sequential(nn.Flatten(), nn.Linear(features, LATENTS)),
        nn.Sequential(
            nn.Linear(LATENTS, features),
            nn.ReLU(inplace=True),
            nn.Unflatten(1, (channels, 4, 4)),
        ),
    )


def no_linear_layer(channels: int) -> Coarse:
    """A fourth convolution, like those before it: (B, C, 4, 4) to (B, 3, 2, 2), 12 latents."""
    maps = LATENTS // 4
    return Coarse(
        nn.Sequential(
            nn.Conv2d(channels, maps, kernel_size=3, stride=2, padding=1),
            nn.Flatten(),
        ),
        nn.Sequential(
            nn.Unflatten(1, (maps, 2, 2)),
            nn.ConvTranspose2d(
                maps, channels, kernel_size=3, stride=2, padding=1, output_padding=1
            ),
            nn.ReLU(inplace=True),
        ),
    )


class VariantEncoder(nn.Module):
    """Q1's encoder with other channels, or with other layers at the coarsest level."""

    def __init__(self, first: int, coarse: Coarse, generator: torch.Generator):
        super().__init__()
        self.latent_dim = LATENTS
        self.layers = nn.Sequential(
            nn.Conv2d(1, first, kernel_size=3, stride=2, padding=1),
            nn.ReLU(inplace=True),  # (B, first, 14, 14)
            nn.Conv2d(first, 2 * first, kernel_size=3, stride=2, padding=1),
            nn.ReLU(inplace=True),  # (B, 2 * first, 7, 7)
            nn.Conv2d(2 * first, 4 * first, kernel_size=3, stride=2, padding=1),
            nn.ReLU(inplace=True),  # (B, 4 * first, 4, 4)
            coarse.encode,
        )
        initialise(self, generator)

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)


class VariantDecoder(nn.Module):
    """The mirror image of VariantEncoder."""

    def __init__(self, first: int, coarse: Coarse, generator: torch.Generator):
        super().__init__()
        self.latent_dim = LATENTS
        up = {"kernel_size": 3, "stride": 2, "padding": 1}
        self.layers = nn.Sequential(
            coarse.decode,
            nn.ConvTranspose2d(4 * first, 2 * first, **up),
            nn.ReLU(inplace=True),  # (B, 2 * first, 7, 7)
            nn.ConvTranspose2d(2 * first, first, output_padding=1, **up),
            nn.ReLU(inplace=True),  # (B, first, 14, 14)
            nn.ConvTranspose2d(first, 1, output_padding=1, **up),  # (B, 1, 28, 28)
        )
        initialise(self, generator)

    def forward(self, latents: Tensor) -> Tensor:
        return self.layers(latents)


def build_variant(first: int, coarse: Coarse, seed: int) -> Autoencoder:
    """Compose an autoencoder with so many channels in the first layer."""
    return Autoencoder(
        VariantEncoder(first, coarse, run.generator(seed, "encoder")),
        VariantDecoder(first, coarse, run.generator(seed, "decoder")),
    )


def build_q1(latent_dim: int, seed: int) -> Autoencoder:
    """Compose Q1's autoencoder with so many latents."""
    return Autoencoder(
        Encoder(latent_dim, generator=run.generator(seed, "encoder")),
        Decoder(latent_dim, generator=run.generator(seed, "decoder")),
    )


def train_q1(model: Autoencoder, mnist: data.Dataset, recipe: train.Recipe, seed: int) -> float:
    """Train an autoencoder as Q1 does, and return how many seconds it took."""
    minimised = partial(q1_loss, name="l1")
    started = time.perf_counter()
    train.fit(model, minimised, mnist.train.to_reconstruct(), {}, recipe, seed)
    seconds = time.perf_counter() - started
    validation = train.evaluate(model, minimised, mnist.validation.to_reconstruct())
    refuse_collapse(validation["mse"], mnist)
    return seconds


def log_size(results: run.Results, name: str, model: Autoencoder, seconds: float) -> None:
    """Log what a network costs, beside its test errors so that one table holds both."""
    weights = sum(parameter.numel() for parameter in model.parameters())
    results.log({"weights": weights, "seconds": seconds}, name, "test")


def latent_correlation(latents: numpy.ndarray) -> float:
    """Return the mean absolute correlation (Pearson) between two coordinates of latents (N, D).

    From 0 to 1. Coordinates that do not vary are left out.
    """
    varying = latents[:, latents.std(axis=0) > 0]
    matrix = numpy.corrcoef(varying, rowvar=False)
    between = matrix[numpy.triu_indices(len(matrix), k=1)]
    return float(abs(between).mean())


class Claims:
    """The measures of Q3's claims, with what all networks are measured against."""

    def __init__(self, mnist: data.Dataset, reader_epochs: int):
        self.mnist = mnist
        train_images = mnist.train.images.cpu().numpy()
        test_images = mnist.test.images.cpu().numpy()
        self.writing = {"train": handwriting(train_images), "test": handwriting(test_images)}
        self.mean_images = class_means(train_images, mnist.train.labels.cpu().numpy())
        self.reader = reader.train_reader(mnist.train, reader_epochs)

    def of_model(self, model: Autoencoder) -> dict[str, float]:
        """Return the measures of a network's latents and of what it draws."""
        latents = train.apply(model.encoder, self.mnist.test.images).cpu().numpy()
        drawn = pixels(train.apply(model, self.mnist.test.images)).cpu().numpy()
        return (
            claim_a(model.encoder, self.mnist, self.writing)
            | self.of_images(drawn)
            | {"latent_correlation": latent_correlation(latents)}
        )

    def of_images(self, drawn: numpy.ndarray) -> dict[str, float]:
        """Return the measures of reconstructions of the test images."""
        test = self.mnist.test
        return claim_b(drawn, test, self.mean_images) | claim_c(drawn, test, self.reader)


def train_variants(
    results: run.Results, mnist: data.Dataset, recipe: train.Recipe
) -> dict[str, Autoencoder]:
    """Train the networks of 12 latents, log their errors and what they cost, and return them."""
    seed = results.config.seed
    coarsest = 4 * CHANNELS
    variants = {
        "two linear layers": build_variant(CHANNELS, two_linear_layers(coarsest), seed),
        "two, no ReLU": build_variant(CHANNELS, two_linear_layers_without_relu(coarsest), seed),
        "one linear layer": build_variant(CHANNELS, one_linear_layer(coarsest), seed),
        "no linear layer": build_variant(CHANNELS, no_linear_layer(coarsest), seed),
    }
    for first in results.config.channels:
        coarse = two_linear_layers(4 * first)
        variants[f"{first} channels"] = build_variant(first, coarse, seed)

    test = mnist.test.to_reconstruct()
    for name, model in variants.items():
        model.to(results.device, memory_format=torch.channels_last)
        seconds = train_q1(model, mnist, recipe, seed)
        errors = train.evaluate(model, partial(q1_loss, name="l1"), test)
        results.log(errors, name, "test")
        log_size(results, name, model, seconds)
    return variants


def sweep_latents(
    results: run.Results, q1_of_12: Autoencoder, mnist: data.Dataset, recipe: train.Recipe
) -> pandas.DataFrame:
    """Train Q1, Q2 and Q3 with each number of latents, and log the claims' measures.

    Return them also as rows of x (the number of latents), series, measure and value.
    """
    config = results.config
    place = {"device": results.device, "memory_format": torch.channels_last}
    train_images = mnist.train.images.cpu().numpy()
    test_images = mnist.test.images.cpu().numpy()
    claims = Claims(mnist, config.reader_epochs)
    rows = []

    def log(series: str, latents: int, measures: dict[str, float]) -> None:
        results.log(measures, f"{series}, {latents} latents", "test")
        for measure, value in measures.items():
            rows.append({"x": latents, "series": series, "measure": measure, "value": value})

    for latents in config.latents:
        q1 = q1_of_12  # trained already
        if latents != LATENTS:
            q1 = build_q1(latents, config.seed).to(**place)
            seconds = train_q1(q1, mnist, recipe, config.seed)
            log_size(results, f"Q1, {latents} latents", q1, seconds)
        log("Q1", latents, claims.of_model(q1))

        options = Q2Config(latent_dim=latents, epochs=config.epochs, seed=config.seed)
        q2 = build_q2(options).to(**place)
        q2_as_fast = dataclasses.replace(q2_recipe(options), record_epochs=())
        train.fit(q2, q2_loss, mnist.train.to_classify(), {}, q2_as_fast, config.seed)
        log("Q2", latents, train.evaluate(q2, q2_loss, mnist.test.to_classify()))

        q3 = build_q3(q2.encoder, config.seed).to(**place)
        train_decoder(q3, mnist, recipe, "l1", config.seed)
        refuse_black(q3, mnist)
        log("Q3", latents, claims.of_model(q3))

        from_pca = reconstructions.pca_reconstruct(train_images, test_images, latents)
        log("PCA", latents, claims.of_images(from_pca))

    return pandas.DataFrame(rows)


def plot_layers(results: run.Results, names: list[str]) -> None:
    """Plot errors and cost of the networks of 12 latents."""
    l1 = test_scores(results.numbers).l1
    two, one, none = l1["two linear layers"], l1["one linear layer"], l1["no linear layer"]
    title = (
        "The number of linear layers at the coarsest level decides the error, not as one expects"
    )
    if two < one < none:
        title = "Two linear layers redraw a digit better than one, and one better than none"
    dots.plot_panels(
        results.folder / "layers.png",
        title,
        f"L1 per pixel on test images: {two:.4f} with two linear layers, {one:.4f} with one,"
        f" {none:.4f} with none, after"
        f" {results.config.epochs} epochs (seed {results.config.seed}).",
        results.numbers,
        names,
        ["l1", "mse", "weights", "seconds"],
    )


def plot_latents(results: run.Results, sweep: pandas.DataFrame) -> None:
    """Plot the claims' measures over the number of latents."""
    errors = sweep[sweep.measure == "l1"].pivot(index="x", columns="series", values="value")
    fewest, most = errors.index[0], errors.index[-1]
    falls = 1 - errors.loc[most] / errors.loc[fewest]
    last_falls = 1 - errors.loc[most] / errors.iloc[max(len(errors) - 2, 0)]
    improves = "With more latents Q1 and Q3 both go on improving"
    if last_falls["Q3"] < last_falls["Q1"] / 3:
        improves = "With more latents Q1 goes on improving, Q3 soon does not"
    sweeps.plot_sweep(
        results.folder / "latents.png",
        improves,
        f"From {fewest} to {most} latents Q1's L1 falls by {falls['Q1']:.0%} and Q3's by"
        f" {falls['Q3']:.0%}. Each network was trained for {results.config.epochs} epochs; all else"
        f" in this repository has {LATENTS} latents (seed {results.config.seed}).",
        sweep[sweep.series != "Q2"],
        [
            "l1",
            "slant_r2",
            "deviation_kept",
            "deviation_correlation",
            "reading_accuracy",
            "latent_correlation",
        ],
        "latents",
    )


def main(config: Config) -> None:
    results = run.start("studies/architecture", config)
    mnist = data.load(config.dataset, config.data_dir, results.device, config.quick)
    as_q1 = Q1Config(epochs=config.epochs, batch_size=config.batch_size)
    recipe = dataclasses.replace(q1_recipe(as_q1), record_epochs=())

    variants = train_variants(results, mnist, recipe)
    sweep = sweep_latents(results, variants["two linear layers"], mnist, recipe)

    with run.drawing():
        plot_layers(results, list(variants))
        plot_latents(results, sweep)

    scores = test_scores(results.numbers)
    l1 = scores.l1
    print(
        f"test L1 {l1['two linear layers']:.4f} with two linear layers,"
        f" {l1['one linear layer']:.4f} with one, {l1['no linear layer']:.4f} with none"
    )
    print("reconstructions read as their digit, %, by the number of latents")
    read = sweep[sweep.measure == "reading_accuracy"]
    print((100 * read.pivot(index="series", columns="x", values="value")).round(1).to_string())
    results.finish(mnist.sha256)


if __name__ == "__main__":
    run.command_line(main, Config)
