"""What are 100 labels, and Q1's encoder, worth once the labelled images are warped?

Q4's classifier from scratch and Q5's from Q1's encoder, on the same labelled subsets, but every
batch is augmented: each image is warped and its strokes are made thicker or thinner, anew each time
it is seen. Training then takes longer, and other rates are the best ones. So the two ways to train
differ in more than the images, and each has a control that differs in nothing else:

    scratch                      Q4: 300 steps of 50 images, as they are
    scratch, augmented, short    the same steps and rates, augmented
    scratch, long                1,500 steps of 100 images at the rates of augmented training, as
                                 they are
    scratch, augmented           the same, augmented

Test accuracy, mean ± standard deviation over the balanced subsets of 3 seeds, and on the report's:

                                       accuracy        accuracy/report
    scratch                            75.84% ± 1.71   64.82% ± 1.92
    scratch, augmented, short          90.12% ± 1.96   -
    scratch, long                      72.20% ± 3.23   -
    scratch, augmented                 96.60% ± 0.71   94.33% ± 0.13
    fine-tuned                         85.05% ± 2.35   78.13% ± 1.59
    fine-tuned, augmented              96.59% ± 0.66   94.22% ± 0.32
    fine-tuned, augmented, Q5's rate   96.37% ± 0.75   -
    frozen                             89.55% ± 1.76   83.88% ± 0.55
    frozen, augmented                  91.39% ± 2.38   90.11% ± 0.50

Augmentation is all that helps: as many steps on the images as they are did worse than Q4's. Once
the images are augmented, Q1's encoder adds nothing that could be shown, at Q5's rate it costs a
little, and frozen it is in the way.

That pretraining is worth less the more the images are augmented was found by Zoph et al. 2020
(Rethinking Pre-training and Self-training) for object detection on COCO; there, self-training still
helped: studies/label_spreading.py. Pretrained weights may want a lower rate than random ones, so
that the encoder is also fine-tuned at Q5's own is one more control.

Run:     python -m studies.augmentation
Needs:   q1_autoencoder.py, q4_few_shot.py and q5_transfer.py, run before with the same --output-dir
Writes:  outputs/studies/augmentation/: a checkpoint of every fit, numbers.csv, history.csv,
         comparison.png, curves.png, images.png
Further: studies/pretexts.py (encoders that have seen warped images without labels)
"""

import dataclasses

import pandas
from torch import nn
from tqdm import tqdm

from common import checkpoint, data, few_shot, run, train
from common.augment import warp_and_thicken
from common.few_shot import REPORT, Subset
from common.figures import curves, dots, images
from common.models import Encoder, fingerprint, freeze
from q4_few_shot import build_classifier
from q4_few_shot import recipe as q4_recipe
from q5_transfer import CURVE_IMAGES, build, fine_tune, log_fit

COPIES_SHOWN = 4  # augmented copies of an image in images.png


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(run.Options):
    # Which images are labelled, and how Q4 and Q5 train on them as they are, is read from their
    # results.
    iterations: int = 1_500
    """Training steps of each augmented fit, about: whole passes over the subset."""
    batch_size: int = 100
    """Images per augmented training step."""
    learning_rate: float = 0.01
    """Peak of the one-cycle schedule of augmented training, whatever the encoder starts from."""
    weight_decay: float = 0.3
    """AdamW's decoupled weight decay in augmented training."""


def augmented_recipe(config: Config, images: int) -> train.Recipe:
    """Return how to train with augmentation on so many ``images``; other studies train likewise."""
    plain = q4_recipe(config, config.learning_rate, config.weight_decay, images)
    return dataclasses.replace(plain, transform=warp_and_thicken)


def fit_and_log(
    results: run.Results,
    name: str,
    subset: Subset,
    model: nn.Module,
    recipe: train.Recipe,
    mnist: data.Dataset,
) -> None:
    """Train what is trainable of a classifier on a labelled subset, save it, and log it as Q5
    does.
    """
    labelled = mnist.train[subset.indices]
    model.to(labelled.images.device)
    history = fine_tune(model, labelled, mnist.test, recipe, subset.seed)
    evaluated = history[history.split != "train"]  # every training step of so many fits is too much
    log_fit(results, name, subset, model, evaluated, mnist)


def train_augmented(
    results: run.Results, subset: Subset, pretrained: Encoder, mnist: data.Dataset
) -> None:
    """Train Q4's and Q5's classifiers with augmentation on one labelled subset."""
    recipe = augmented_recipe(results.config, len(subset.indices))

    scratch = build_classifier(pretrained.latent_dim, subset.seed)
    fit_and_log(results, "scratch, augmented", subset, scratch, recipe, mnist)

    fine_tuned = build(pretrained, subset.seed)
    fit_and_log(results, "fine-tuned, augmented", subset, fine_tuned, recipe, mnist)

    frozen = build(pretrained, subset.seed)
    freeze(frozen.encoder)
    fit_and_log(results, "frozen, augmented", subset, frozen, recipe, mnist)
    unchanged = fingerprint(frozen.encoder) == fingerprint(pretrained)
    assert unchanged, "the frozen encoder changed in training"


def train_controls(
    results: run.Results, subset: Subset, pretrained: Encoder, mnist: data.Dataset
) -> None:
    """Train the controls on a balanced subset: each differs from another fit in one thing."""
    recipe = augmented_recipe(results.config, len(subset.indices))

    # As Q4 trains, but augmented.
    q4 = results.options_of("q4_few_shot")
    short = q4_recipe(q4, q4.learning_rate, q4.weight_decay, len(subset.indices))
    short = dataclasses.replace(short, transform=warp_and_thicken)
    model = build_classifier(pretrained.latent_dim, subset.seed)
    fit_and_log(results, "scratch, augmented, short", subset, model, short, mnist)

    # As augmented training, but on the images as they are.
    long = dataclasses.replace(recipe, transform=None)
    model = build_classifier(pretrained.latent_dim, subset.seed)
    fit_and_log(results, "scratch, long", subset, model, long, mnist)

    # Fine-tuned at the rates that are the best ones without augmentation.
    q5 = results.options_of("q5_transfer")
    gentle = dataclasses.replace(
        recipe, learning_rate=q5.learning_rate, weight_decay=q5.weight_decay
    )
    model = build(pretrained, subset.seed)
    fit_and_log(results, "fine-tuned, augmented, Q5's rate", subset, model, gentle, mnist)


def gains(numbers: pandas.DataFrame) -> pandas.DataFrame:
    """Return differences of test accuracies, a row per labelled subset: the same images."""
    of_test = numbers[(numbers.split == "test") & (numbers.measure == "accuracy")]
    accuracy = of_test[of_test.subset != ""].pivot(index="subset", columns="model", values="value")
    scratch, augmented = accuracy["scratch"], accuracy["scratch, augmented"]
    return pandas.DataFrame(
        {
            "augmentation, all that differs": augmented - scratch,
            "augmentation alone, short": accuracy["scratch, augmented, short"] - scratch,
            "augmentation alone, long": augmented - accuracy["scratch, long"],
            "Q1's encoder, plain": accuracy["fine-tuned"] - scratch,
            "Q1's encoder, augmented": accuracy["fine-tuned, augmented"] - augmented,
            "the same at Q5's rate": accuracy["fine-tuned, augmented, Q5's rate"] - augmented,
            "Q1's encoder frozen, augmented": accuracy["frozen, augmented"] - augmented,
        }
    )


def plot(results: run.Results, numbers: pandas.DataFrame, history: pandas.DataFrame) -> None:
    """Plot the comparison with Q4 and Q5, and curves beside Q4's."""
    mean = (100 * gains(numbers).drop(REPORT).mean()).round(1) + 0.0  # no -0.0
    plain, augmented = mean["Q1's encoder, plain"], mean["Q1's encoder, augmented"]
    helps = "no more" if augmented < plain / 10 else "less"
    seed = results.config.seed
    dots.plot_subsets(
        results.folder / "comparison.png",
        f"Q1's encoder helps a classifier with 100 labels, and {helps} once they are augmented",
        f"Fine-tuned minus scratch: {plain:+.1f} points on the images as they are,"
        f" {augmented:+.1f} on augmented ones. Augmentation is worth"
        f" {mean['augmentation, all that differs']:+.1f} points; alone"
        f" {mean['augmentation alone, short']:+.1f} in Q4's steps, and"
        f" {mean['augmentation alone, long']:+.1f} in those of augmented training (seed {seed}).",
        numbers,
        [
            "scratch",
            "scratch, augmented, short",
            "scratch, long",
            "scratch, augmented",
            "fine-tuned",
            "fine-tuned, augmented",
            "fine-tuned, augmented, Q5's rate",
            "frozen",
            "frozen, augmented",
        ],
    )
    balanced = numbers[(numbers.measure == "last_over_lowest_loss") & (numbers.subset != REPORT)]
    rise = balanced.groupby("model").value.mean()
    rises = "hardly rises" if rise["scratch, augmented"] < 1.1 else "rises"
    curves.plot_few_shot(
        results.folder / "curves.png",
        f"On augmented images the test loss {rises} again",
        f"It ends at {rise['scratch']:.1f} times its lowest value from scratch, augmented at"
        f" {rise['scratch, augmented']:.1f} times. All images are measured as they are, not"
        f" augmented. Curves are of the first {CURVE_IMAGES:,} test images (seed {seed}).",
        history,
        ["scratch", "scratch, augmented", "fine-tuned, augmented"],
        ["cross_entropy", "accuracy"],
    )


def plot_images(results: run.Results, mnist: data.Dataset) -> None:
    """Plot what the classifier sees of the first labelled image of each digit."""
    shown = mnist.train.images[data.first_of_each_digit(mnist.train.labels)[:, 0]]
    rows = [images.Row("as it is", shown)]
    generator = run.generator(results.config.seed, "augmented images shown", shown.device)
    for number in range(1, COPIES_SHOWN + 1):
        rows.append(images.Row(f"step {number}", warp_and_thicken(shown, generator)))
    images.plot_rows(
        results.folder / "images.png",
        "Augmented, a labelled image is never seen twice alike",
        "The first training image of each digit, and what augmentation makes of it: rotated,"
        " scaled, sheared, shifted, bent, and with thicker or thinner strokes"
        f" (seed {results.config.seed}).",
        rows,
    )


def main(config: Config) -> None:
    needs = ("q1_autoencoder", "q4_few_shot", "q5_transfer")
    results = run.start("studies/augmentation", config, needs)
    mnist = data.load(config.dataset, config.data_dir, results.device, config.quick)
    pretrained = checkpoint.load(results.path_of("q1_autoencoder"), results.device).encoder

    # Q4's labelled subsets.
    q4 = results.options_of("q4_few_shot")
    subsets = few_shot.labelled_subsets(mnist.train.labels, q4.shots, q4.subsets, config.seed)
    for subset in tqdm(subsets, "subsets", leave=False, disable=None):
        train_augmented(results, subset, pretrained, mnist)
    for subset in tqdm(subsets[1:], "controls", leave=False, disable=None):
        train_controls(results, subset, pretrained, mnist)

    # Beside them what Q4 and Q5 trained on the images as they are.
    tables, histories = [results.numbers], [results.history]
    for step in ("q4_few_shot", "q5_transfer"):
        tables.append(results.table_of(step, "numbers"))
        histories.append(results.table_of(step, "history"))
    numbers = pandas.concat(tables)
    with run.drawing():
        plot(results, numbers, pandas.concat(histories))
        plot_images(results, mnist)

    mean = 100 * gains(numbers).drop(REPORT).mean()
    gain = mean["Q1's encoder, augmented"]
    print(f"augmented, fine-tuned minus scratch: {gain:+.1f} points")
    print("differences in test accuracy, points")
    shown = ["augmentation, all that differs", "augmentation alone, long", "Q1's encoder, plain"]
    shown += ["Q1's encoder, augmented", "Q1's encoder frozen, augmented"]
    print(mean[shown].round(2).to_string())
    results.finish(mnist.sha256)


if __name__ == "__main__":
    run.command_line(main, Config)
