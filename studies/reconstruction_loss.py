"""Which of the claims about Q1 and Q3 depend on the loss that both minimise?

Q1 and Q3 minimise the mean absolute error (L1), as the exercise prescribes. Here both are trained
again, on the same Q2 and with the same recipe (its rates were tuned for L1), to minimise the mean
squared error (MSE) and binary cross-entropy (BCE), and the report's claims are measured on them.

Mean ± standard deviation of 3 seeds, on test images:

              slant_r2        deviation_kept   deviation_correlation   pixel_silhouette
    Q1, L1    0.940 ± 0.005   0.988 ± 0.001    0.908 ± 0.001           0.056 ± 3e-04
    Q1, MSE   0.937 ± 0.005   0.924 ± 0.001    0.919 ± 0.001           0.062 ± 5e-04
    Q1, BCE   0.939 ± 0.007   0.929 ± 0.001    0.917 ± 5e-04           0.063 ± 0.001
    Q3, L1    0.551 ± 0.020   0.896 ± 0.005    0.648 ± 0.005           0.093 ± 0.001
    Q3, MSE   0.551 ± 0.020   0.706 ± 0.005    0.686 ± 0.003           0.115 ± 0.003
    Q3, BCE   0.551 ± 0.020   0.704 ± 0.005    0.686 ± 0.003           0.116 ± 0.003

(a) hardly depends on the loss: Q3's latents are Q2's, and Q1's tell about as much of a digit with
each. (b) and (c) point the same way with each. But with L1 (b) is a small difference: a decoder in
doubt then commits itself to one digit, so that Q3's digits vary nearly as much as the originals,
and less like them than with the other two. Correlation, deviation kept and variance explained are
no three witnesses: each nearly follows from the other two.

Four public answers to the exercise disagree about (b), and it is not the loss that sets them apart:
the code of all four minimises L1 (aviv15s/IDL_ex2, ErelNahum/IDL_ex2, ofritabib/deep-learning-ex2,
NathanP23/Introduction-to-Deep-Learning-67822). Two of them decode the classifier's 10 logits:
studies/frozen_controls.py.

Run:     python -m studies.reconstruction_loss
Needs:   q1_autoencoder.py, q2_classifier.py and q3_frozen_decoder.py, run before with the same
         --output-dir
Writes:  outputs/studies/reconstruction_loss/: numbers.csv, claims.png, digits.png
"""

import dataclasses
from functools import partial

import torch
from torch import nn

from common import checkpoint, data, run, train
from common.figures import dots, images
from common.losses import ReconstructionLoss, refuse_collapse
from common.measures import reader
from common.measures.handwriting import handwriting
from common.measures.points import class_means
from common.models import Autoencoder, pixels
from q1_autoencoder import build as build_q1
from q1_autoencoder import loss as q1_loss
from q1_autoencoder import recipe as q1_recipe
from q3_frozen_decoder import build as build_q3
from q3_frozen_decoder import (
    claim_a,
    claim_b,
    claim_c,
    claim_c_latents,
    refuse_black,
    test_scores,
    train_decoder,
)

EXAMPLES = 2  # images of each digit in digits.png


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(run.Options):
    """Options beside the shared ones: dataset, data_dir, output_dir, device, seed,
    quick.

    Everything else is Q1's and Q3's, read from their results.
    """

    losses: tuple[ReconstructionLoss, ...] = ("mse", "bce")
    """What Q1 and Q3 are trained again to minimise, beside what they were run with."""


@dataclasses.dataclass(frozen=True)
class Pair:
    """Q1 and Q3 that minimise the same loss."""

    q1: Autoencoder
    q3: Autoencoder


def train_pair(
    loss_name: str, q2_encoder: nn.Module, mnist: data.Dataset, results: run.Results
) -> Pair:
    """Train Q1, and Q3 on Q2's frozen encoder, as their scripts do but with another loss."""
    options = results.options_of("q1_autoencoder")
    recipe = dataclasses.replace(q1_recipe(options), record_epochs=())
    place = {"device": results.device, "memory_format": torch.channels_last}

    q1 = build_q1(options).to(**place)
    minimised = partial(q1_loss, name=loss_name)
    train.fit(q1, minimised, mnist.train.to_reconstruct(), {}, recipe, options.seed)
    validation = train.evaluate(q1, minimised, mnist.validation.to_reconstruct())
    refuse_collapse(validation["mse"], mnist)

    q3 = build_q3(q2_encoder, options.seed).to(**place)
    train_decoder(q3, mnist, recipe, loss_name, options.seed)
    refuse_black(q3, mnist)
    return Pair(q1, q3)


def model_name(question: str, loss_name: str) -> str:
    """Return what a model is called in numbers.csv and in the figures."""
    return f"{question}, {loss_name.upper()}"


def log_claims(
    results: run.Results, pairs: dict[str, Pair], mnist: data.Dataset, digit_reader: nn.Module
) -> None:
    """Measure the three claims as Q3 does, for both models of each loss."""
    train_images = mnist.train.images.cpu().numpy()
    originals = mnist.test.images.cpu().numpy()
    writing = {"train": handwriting(train_images), "test": handwriting(originals)}
    mean_images = class_means(train_images, mnist.train.labels.cpu().numpy())

    # Q3's latents are Q2's, whatever its decoder minimises.
    q2_encoder = next(iter(pairs.values())).q3.encoder
    of_q2 = claim_a(q2_encoder, mnist, writing) | claim_c_latents(q2_encoder, mnist.test)
    for loss_name, pair in pairs.items():
        q1_name = model_name("Q1", loss_name)
        q3_name = model_name("Q3", loss_name)
        results.log(claim_a(pair.q1.encoder, mnist, writing), q1_name, "test")
        results.log(claim_c_latents(pair.q1.encoder, mnist.test), q1_name, "test")
        results.log(of_q2, q3_name, "test")
        for name, model in ((q1_name, pair.q1), (q3_name, pair.q3)):
            drawn = pixels(train.apply(model, mnist.test.images)).cpu().numpy()
            results.log(claim_b(drawn, mnist.test, mean_images), name, "test")
            results.log(claim_c(drawn, mnist.test, digit_reader), name, "test")

    results.log(claim_c(originals, mnist.test, digit_reader), "original", "test")


def plot_claims(results: run.Results, losses: list[str]) -> None:
    """Plot the measures of (a), (b) and (c), a row for each loss."""
    scores = test_scores(results.numbers)
    kept, rightly, texts = {}, {}, []
    for loss_name in losses:
        of_q3 = scores.loc[model_name("Q3", loss_name)]
        kept[loss_name.upper()] = of_q3.deviation_kept
        rightly[loss_name.upper()] = of_q3.deviation_correlation
        texts.append(
            f"{of_q3.deviation_kept:.3f} and {of_q3.deviation_correlation:.3f} with"
            f" {loss_name.upper()}"
        )
    liveliest = max(kept, key=kept.get)
    wrongest = min(rightly, key=rightly.get)
    where = "and" if wrongest == liveliest else f"but with {wrongest}"
    groups = {}
    for loss_name in losses:
        models = {"Q1": model_name("Q1", loss_name), "Q3": model_name("Q3", loss_name)}
        groups[loss_name.upper()] = models
    dots.plot_groups(
        results.folder / "claims.png",
        f"Q3's digits vary most within a class if it minimises {liveliest},"
        f" {where} least like the originals",
        "Deviation within a digit that Q3 keeps, and its correlation with the original's:"
        f" {'; '.join(texts)} (seed {results.config.seed}).",
        results.numbers,
        groups,
        [
            "slant_r2",
            "deviation_kept",
            "deviation_correlation",
            "variance_explained",
            "pixel_silhouette",
            "reading_accuracy",
        ],
    )


def plot_digits(results: run.Results, pairs: dict[str, Pair], test: data.Split) -> None:
    """Plot the first test images of each digit, and what each model makes of them."""
    shown = test.images[data.first_of_each_digit(test.labels, EXAMPLES).flatten()]
    rows = [images.Row("original", shown)]
    for loss_name, pair in pairs.items():
        rows.append(images.Row(model_name("Q1", loss_name), pixels(train.apply(pair.q1, shown))))
    for loss_name, pair in pairs.items():
        rows.append(images.Row(model_name("Q3", loss_name), pixels(train.apply(pair.q3, shown))))
    images.plot_rows(
        results.folder / "digits.png",
        "Where Q3's decoder is in doubt, it blurs with MSE and BCE, and decides with L1",
        f"The first {EXAMPLES} test images of each digit, chosen by nothing else"
        f" (seed {results.config.seed}).",
        rows,
    )


def main(config: Config) -> None:
    needs = ("q1_autoencoder", "q2_classifier", "q3_frozen_decoder")
    results = run.start("studies/reconstruction_loss", config, needs)
    mnist = data.load(config.dataset, config.data_dir, results.device, config.quick)
    q2 = checkpoint.load(results.path_of("q2_classifier"), results.device)

    # What the scripts have trained is read, the other losses are trained.
    own_loss = results.options_of("q1_autoencoder").loss
    pairs = {
        own_loss: Pair(
            checkpoint.load(results.path_of("q1_autoencoder"), results.device),
            checkpoint.load(results.path_of("q3_frozen_decoder"), results.device),
        )
    }
    for loss_name in config.losses:
        if loss_name not in pairs:
            pairs[loss_name] = train_pair(loss_name, q2.encoder, mnist, results)

    # As in Q3.
    digit_reader = reader.train_reader(
        mnist.train, results.options_of("q3_frozen_decoder").reader_epochs
    )
    log_claims(results, pairs, mnist, digit_reader)

    with run.drawing():
        plot_claims(results, list(pairs))
        plot_digits(results, pairs, mnist.test)

    scores = test_scores(results.numbers)
    kept = []
    for loss_name in pairs:
        value = scores.deviation_kept[model_name("Q3", loss_name)]
        kept.append(f"{value:.3f} with {loss_name.upper()}")
    print(f"deviation within a digit that Q3 keeps: {', '.join(kept)}")
    measures = ["slant_r2", "deviation_kept", "deviation_correlation", "pixel_silhouette"]
    print(scores[measures].T.round(3).to_string(na_rep=""))
    results.finish(mnist.sha256)


if __name__ == "__main__":
    run.command_line(main, Config)
