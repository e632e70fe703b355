"""What should 55,000 images without labels be used for, when 100 others have labels?

Encoders of the same shape, 12 latents, are trained without labels in three ways, and one is not:

    nothing        random weights                                   (Q4's, where it trains)
    reconstruct    to give the image back                           (Q1's)
    undo warps     shown an augmented image, to give back the image as it is
    two views      to give two augmented copies of an image the same latents, and those of all
                   images a covariance of one in each direction

Then 100 labels: a head on the frozen encoder, encoder and head fine-tuned, and the same with
augmented images. Test accuracy, mean ± standard deviation over the balanced subsets of 3 seeds, and
on the report's subset:

                                        accuracy        accuracy/report
    nothing, frozen                     41.15% ± 3.53   39.00% ± 4.72
    scratch                             75.84% ± 1.71   64.82% ± 1.92
    scratch, augmented                  96.60% ± 0.71   94.33% ± 0.13
    frozen                              89.55% ± 1.76   83.88% ± 0.55
    fine-tuned                          85.05% ± 2.35   78.13% ± 1.59
    fine-tuned, augmented               96.59% ± 0.66   94.22% ± 0.32
    undo warps, frozen                  93.62% ± 1.64   90.65% ± 0.32
    undo warps, fine-tuned              89.85% ± 2.79   85.15% ± 1.28
    undo warps, fine-tuned, augmented   96.56% ± 0.60   94.07% ± 0.18
    two views, frozen                   96.48% ± 1.72   92.56% ± 1.29
    two views, fine-tuned               93.65% ± 0.66   90.83% ± 3.21
    two views, fine-tuned, augmented    97.32% ± 0.70   95.68% ± 0.20

                  augmentation_share   linear_probe_accuracy   slant_r2        thickness_r2
    nothing       0.796 ± 0.021        54.55% ± 3.94           0.661 ± 0.031   0.424 ± 0.104
    reconstruct   0.600 ± 0.002        94.47% ± 0.34           0.940 ± 0.005   0.874 ± 0.002
    undo warps    0.287 ± 0.003        96.98% ± 0.13           0.921 ± 0.005   0.790 ± 0.015
    two views     0.102 ± 0.002        98.21% ± 0.13           0.405 ± 0.023   0.238 ± 0.014

What pays is that a pretext has seen augmented images: the less augmentation moves the latents, the
further 100 labels go. If the labelled images are augmented, they teach nearly the same. (The head's
rate and decay were tuned for Q1's encoder; an untrained one might do better with others.)

Balestriero & LeCun 2024 (Learning by Reconstruction Produces Uninformative Features for Perception)
find that reconstruction spends latents on what perception does not need; Kumar et al. 2022
(Fine-Tuning can Distort Pretrained Features) that fine-tuning can lose what was pretrained.

Run:     python -m studies.pretexts
Needs:   q1_autoencoder.py, q4_few_shot.py, q5_transfer.py and studies/augmentation.py, run before
         with the same --output-dir
Writes:  outputs/studies/pretexts/: undo_warps.safetensors, two_views.safetensors (a classifier
         whose head is not trained), a checkpoint of every fit, numbers.csv, history.csv,
         comparison.png, latents.png
Further: studies/label_spreading.py (the same images with labels passed on to them)
"""

import dataclasses
from functools import partial

import pandas
import torch
from torch import Tensor, nn
from tqdm import tqdm

from common import checkpoint, data, few_shot, run, train
from common.augment import warp_and_thicken
from common.few_shot import REPORT, Subset
from common.figures import dots
from common.losses import refuse_collapse
from common.measures.handwriting import handwriting
from common.models import Autoencoder, Classifier, Encoder, Head
from q1_autoencoder import build as build_q1
from q1_autoencoder import loss as q1_loss
from q1_autoencoder import recipe as q1_recipe
from q3_frozen_decoder import claim_a
from q4_few_shot import recipe as q4_recipe
from q5_transfer import build, log_fit, train_head
from studies.augmentation import augmented_recipe, fit_and_log

NOTHING, RECONSTRUCT, UNDO, VIEWS = "nothing", "reconstruct", "undo warps", "two views"
PRETEXTS = (NOTHING, RECONSTRUCT, UNDO, VIEWS)
USES = ("frozen", "fine-tuned", "fine-tuned, augmented")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(run.Options):
    # Latents, and how the un-warping autoencoder is trained, are Q1's; how classifiers are trained
    # is Q4's, Q5's and studies/augmentation.py's, but for the rates below. All of it is read from
    # their results. What stands here was chosen on validation images, in trials of one or two
    # seeds.
    undo_epochs: int = 4
    """Passes over the 55,000 training images of the encoder that undoes warps."""
    views_epochs: int = 8
    """Passes over the 55,000 training images, two copies of each, of the encoder that agrees on two
    views.
    """
    batch_size: int = 128
    """Images per training step of that encoder; it sees two copies of each."""
    learning_rate: float = 5e-3
    """Peak of that encoder's one-cycle schedule."""
    muon_learning_rate: float = 0.02
    """Peak of Muon's schedule, for the weights of its linear layers; 0 leaves them to AdamW."""
    weight_decay: float = 1e-2
    """AdamW's decoupled weight decay of that encoder."""
    isotropy: float = 1.0
    """Weight of the covariance in the loss of two views; at 0.5 the latents collapse."""
    fine_tuning_rate: float = 1e-3
    """Peak of the schedule in which these two encoders are fine-tuned on 100 labels; Q5's, tuned
    for Q1's encoder, is too high for them.
    """
    augmented_fine_tuning_rate: float = 2.5e-3
    """The same on augmented images."""


def train_undo(results: run.Results, mnist: data.Dataset) -> Autoencoder:
    """Train Q1's autoencoder on augmented images to give back the images as they are."""
    q1 = results.options_of("q1_autoencoder")
    q1.epochs = results.config.undo_epochs
    q1.seed = results.config.seed
    # Inputs are augmented, targets are not.
    recipe = dataclasses.replace(q1_recipe(q1), transform=warp_and_thicken, record_epochs=())
    model = build_q1(q1).to(results.device, memory_format=torch.channels_last)
    loss = partial(q1_loss, name=q1.loss)
    train.fit(model, loss, mnist.train.to_reconstruct(), {}, recipe, q1.seed)
    refuse_collapse(train.evaluate(model, loss, mnist.validation.to_reconstruct())["mse"], mnist)
    return model


def two_views(images: Tensor, generator: torch.Generator) -> Tensor:
    """Return two augmented copies of each image, (B, 1, 28, 28) -> (2B, 1, 28, 28), first copies
    first.
    """
    first = warp_and_thicken(images, generator)
    return torch.cat([first, warp_and_thicken(images, generator)])


def views_loss(
    encoder: nn.Module, views: Tensor, targets: Tensor, isotropy: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return how far the latents of two views differ, plus how far their covariance is from one.

    Agreement alone is perfect if all latents are one point, so the latents of a batch shall have
    mean 0 and, in each direction, variance 1. With ``isotropy`` 1 a direction in which two views
    correlate by r ends with variance r: what is not common to the views is dropped. Up to the mean
    and a constant this is the spectral contrastive loss (HaoChen et al. 2021), whose minimum is the
    spectral embedding of the graph that joins images by how likely one is augmented to the other.
    SIGReg (Balestriero & LeCun 2025), in the place of the covariance, asks for a normal
    distribution in every direction; in a trial of one seed a linear probe read 96.4 % of validation
    images from it and 97.0 % from this loss. ``targets`` are not used.
    """
    latents = encoder(views)  # (2B, 1, 28, 28) -> (2B, D)
    first, second = latents.chunk(2)
    disagreement = (first - second).square().sum(1).mean()

    mean = latents.mean(0)  # (D,)
    centred = latents - mean
    covariance = centred.T @ centred / len(latents)  # (D, D)
    identity = torch.eye(len(mean), device=latents.device)
    anisotropy = (covariance - identity).square().sum() + mean.square().sum()

    metrics = {"disagreement": disagreement, "anisotropy": anisotropy}
    return disagreement + isotropy * anisotropy, metrics


def train_views(results: run.Results, mnist: data.Dataset) -> Classifier:
    """Train an encoder to agree on two views; return it with a head that is not trained."""
    config = results.config
    latent_dim = results.options_of("q1_autoencoder").latent_dim
    encoder = Encoder(latent_dim, generator=run.generator(config.seed, "encoder"))
    encoder.to(results.device, memory_format=torch.channels_last)
    recipe = train.Recipe(
        epochs=config.views_epochs,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        muon_learning_rate=config.muon_learning_rate,
        transform=two_views,
        record_epochs=(),
    )
    loss = partial(views_loss, isotropy=config.isotropy)
    history = train.fit(encoder, loss, mnist.train.to_reconstruct(), {}, recipe, config.seed)

    # If all latents are 0, each of the D variances is off by one.
    last = history[history.measure == "anisotropy"].value.iloc[-1]
    if last > 0.99 * latent_dim:
        raise run.RunError(
            f"collapsed: the covariance of the latents is {last:.1f} from one, 0 would be perfect"
            f" and {latent_dim} is no variance at all: try a larger --isotropy"
        )
    head = Head(latent_dim, generator=run.generator(config.seed, "head")).to(results.device)
    return Classifier(encoder, head)


def augmentation_share(encoder: nn.Module, images: Tensor, seed: int) -> float:
    """Return the share of the latents' variance that augmentation makes, from 0 to 1.

    Half the mean squared distance of two augmented copies of an image, over the variance of all
    copies: 0 if copies of an image have the same latents, 1 if they are as far apart as copies of
    different images.
    """
    views = two_views(images, run.generator(seed, "views measured", images.device))
    latents = train.apply(encoder, views)
    first, second = latents.chunk(2)
    within = (first - second).square().sum(1).mean() / 2
    return (within / (latents - latents.mean(0)).square().sum(1).mean()).item()


def train_on_labels(
    results: run.Results, pretext: str, encoder: nn.Module, subset: Subset, mnist: data.Dataset
) -> None:
    """Train classifiers on one labelled subset, as Q5 and studies/augmentation.py do but for the
    rates.
    """
    config = results.config
    q4, q5 = results.options_of("q4_few_shot"), results.options_of("q5_transfer")
    count = len(subset.indices)

    train_frozen(results, pretext, encoder, subset, mnist)

    plain = q4_recipe(q4, config.fine_tuning_rate, q5.weight_decay, count)
    model = build(encoder, subset.seed)
    fit_and_log(results, f"{pretext}, fine-tuned", subset, model, plain, mnist)

    augmented = augmented_recipe(results.options_of("studies/augmentation"), count)
    augmented = dataclasses.replace(augmented, learning_rate=config.augmented_fine_tuning_rate)
    model = build(encoder, subset.seed)
    fit_and_log(results, f"{pretext}, fine-tuned, augmented", subset, model, augmented, mnist)


def train_frozen(
    results: run.Results, pretext: str, encoder: nn.Module, subset: Subset, mnist: data.Dataset
) -> None:
    """Train a head on a frozen encoder with one labelled subset, as Q5 does."""
    q4, q5 = results.options_of("q4_few_shot"), results.options_of("q5_transfer")
    labelled = mnist.train[subset.indices]
    recipe = q4_recipe(q4, q5.frozen_learning_rate, q5.frozen_weight_decay, len(labelled))
    model = build(encoder, subset.seed).to(results.device)
    history = train_head(model, labelled, mnist.test, recipe, subset.seed)
    log_fit(results, f"{pretext}, frozen", subset, model, history, mnist)


def read_other_fits(results: run.Results) -> pandas.DataFrame:
    """Return the numbers of what other steps have trained, by the names that they have here."""
    names = {
        "scratch": f"{NOTHING}, fine-tuned",
        "scratch, augmented": f"{NOTHING}, fine-tuned, augmented",
        "frozen": f"{RECONSTRUCT}, frozen",
        "fine-tuned": f"{RECONSTRUCT}, fine-tuned",
        "fine-tuned, augmented": f"{RECONSTRUCT}, fine-tuned, augmented",
    }
    tables = []
    for step in ("q4_few_shot", "q5_transfer", "studies/augmentation"):
        numbers = results.table_of(step, "numbers")
        numbers = numbers[numbers.model.isin(names)]
        tables.append(numbers.assign(model=numbers.model.map(names)))
    return pandas.concat(tables)


def accuracies(numbers: pandas.DataFrame) -> pandas.DataFrame:
    """Return test accuracies, means over the balanced subsets: a row a pretext, a column a use."""
    chosen = (numbers.split == "test") & (numbers.measure == "accuracy")
    means = numbers[chosen & (numbers.subset != REPORT)].groupby("model").value.mean()
    table = pandas.DataFrame(index=PRETEXTS, columns=USES, dtype=float)
    for pretext in PRETEXTS:
        for use in USES:
            table.loc[pretext, use] = means[f"{pretext}, {use}"]
    return table


def plot(results: run.Results, numbers: pandas.DataFrame) -> None:
    """Plot what 100 labels give with each encoder, and what its latents hold."""
    table = accuracies(numbers)
    plain = table[["frozen", "fine-tuned"]].max(axis=1)
    augmented = table["fine-tuned, augmented"]
    seed = results.config.seed
    groups = {}
    for pretext in PRETEXTS:
        groups[pretext] = {use: f"{pretext}, {use}" for use in USES}
    dots.plot_subset_groups(
        results.folder / "comparison.png",
        f"An encoder that was trained to {label(plain.idxmax())} makes 100 labels go furthest,"
        " and matters little once they are augmented",
        f"Without augmentation {plain.min():.1%} to {plain.max():.1%}, the better of frozen and"
        f" fine-tuned; augmented {augmented.min():.1%} to {augmented.max():.1%} (seed {seed}).",
        numbers,
        groups,
    )
    of_latents = ["augmentation_share", "slant_r2", "thickness_r2", "linear_probe_accuracy"]
    share = results.numbers.query("measure == 'augmentation_share'").set_index("model").value
    dots.plot_panels(
        results.folder / "latents.png",
        f"Augmentation moves the latents of the encoder that was trained to {label(share.idxmin())}"
        " least",
        f"It makes {share.min():.0%} of the variance of these latents, and {share[RECONSTRUCT]:.0%}"
        " of Q1's. The linear probe has the labels of all training images; slant and thickness are"
        f" predicted within a digit (seed {seed}).",
        results.numbers,
        list(PRETEXTS),
        of_latents,
    )


def label(pretext: str) -> str:
    """Return a pretext as what an encoder is trained to do."""
    verbs = {NOTHING: "do nothing", VIEWS: "agree on two views"}
    return verbs.get(pretext, pretext)


def main(config: Config) -> None:
    needs = ("q1_autoencoder", "q4_few_shot", "q5_transfer", "studies/augmentation")
    results = run.start("studies/pretexts", config, needs)
    mnist = data.load(config.dataset, config.data_dir, results.device, config.quick)

    # The encoders.
    q1 = checkpoint.load(results.path_of("q1_autoencoder"), results.device)
    undo = train_undo(results, mnist)
    undo = checkpoint.save_and_reload(results.folder / "undo_warps.safetensors", undo)
    views = train_views(results, mnist)
    views = checkpoint.save_and_reload(results.folder / "two_views.safetensors", views)
    untrained = Encoder(
        q1.encoder.latent_dim, generator=run.generator(config.seed, "random encoder")
    ).to(results.device)
    encoders = {
        NOTHING: untrained,
        RECONSTRUCT: q1.encoder,
        UNDO: undo.encoder,
        VIEWS: views.encoder,
    }

    # What their latents hold.
    writing = {}
    for split_name in ("train", "test"):
        writing[split_name] = handwriting(getattr(mnist, split_name).images.cpu().numpy())
    for pretext, encoder in encoders.items():
        results.log(claim_a(encoder, mnist, writing), pretext, "test")
        share = augmentation_share(encoder, mnist.test.images, config.seed)
        results.log({"augmentation_share": share}, pretext, "test")

    # What 100 labels give with them, on Q4's labelled subsets.
    q4 = results.options_of("q4_few_shot")
    subsets = few_shot.labelled_subsets(mnist.train.labels, q4.shots, q4.subsets, config.seed)
    for subset in tqdm(subsets, "subsets", leave=False, disable=None):
        train_frozen(results, NOTHING, untrained, subset, mnist)
        for pretext in (UNDO, VIEWS):
            train_on_labels(results, pretext, encoders[pretext], subset, mnist)

    numbers = pandas.concat([read_other_fits(results), results.numbers])
    with run.drawing():
        plot(results, numbers)

    table = 100 * accuracies(numbers)
    best = table.frozen.idxmax()
    print(f"a head on the frozen encoder, 100 labels: {table.frozen[best]:.2f}% after {best}")
    print("test accuracy with 100 labels, mean of the balanced subsets, %")
    print(table.round(2).to_string())
    results.finish(mnist.sha256)


if __name__ == "__main__":
    run.command_line(main, Config)
