"""Q5: does Q1's encoder help a classifier that has only 100 labelled images?

Q4's classifier, on Q4's labelled subsets and for as many steps. Where the encoder starts from
differs, and with it rates and decay, the best of each start:

    scratch              random weights (trained by q4_few_shot.py, read from its results)
    fine-tuned           Q1's weights, and everything trains
    frozen               Q1's weights, kept: only the head trains
    frozen, all labels   the same with the labels of all 55,000 training images, for comparison

Mean ± standard deviation over the balanced subsets of 10 seeds, three each, and of the report's:

                         accuracy        accuracy/report
    scratch              76.24% ± 2.59   66.60% ± 1.83
    fine-tuned           84.39% ± 2.51   76.82% ± 1.60
    frozen               89.45% ± 1.62   84.94% ± 1.17
    frozen, all labels   97.55% ± 0.13   -

Fine-tuned minus scratch: +8.2 (+6.9 to +9.4) points on balanced subsets, +10.2 (+8.5 to +12.0) on
the report's.

Run:     python q5_transfer.py
Needs:   q1_autoencoder.py and q4_few_shot.py, run before with the same --output-dir
Writes:  outputs/q5_transfer/: a checkpoint of every fit, numbers.csv, history.csv, curves.png,
         comparison.png
Further: studies/augmentation.py (with warped images), studies/label_curve.py (1 to 100 labels per
         digit), studies/label_spreading.py (labels passed on to unlabelled images)
"""

import copy
import dataclasses

import pandas
from torch import Tensor, nn
from torch.utils.data import TensorDataset
from tqdm import tqdm

from common import checkpoint, data, few_shot, run, train
from common.few_shot import REPORT, Subset
from common.figures import curves, dots
from common.losses import classification_metrics
from common.measures.overfitting import overfitting
from common.models import Classifier, Encoder, Head, fingerprint, freeze

CURVE_IMAGES = 2_000  # test images in the curves, as in Q4; accuracies are of all 10,000


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(run.Options):
    """Options beside the shared ones: dataset, data_dir, output_dir, device, seed,
    quick.

    Which images are labelled, and for how many steps to train on them, is read from Q4's results.
    Rates and decay are the best of each start on validation images (studies/ablation.py).
    """

    learning_rate: float = 5e-3
    """Peak of the fine-tuned classifier's schedule; low, to keep what was pretrained."""
    weight_decay: float = 0.3
    """AdamW's decoupled weight decay for the fine-tuned classifier."""
    frozen_learning_rate: float = 5e-3
    """Peak of the schedule of a head on the frozen encoder."""
    frozen_weight_decay: float = 2.0
    """AdamW's decoupled weight decay for a head that has few labels; none is used with all."""
    all_labels_epochs: int = 10
    """Passes over all training images of the head that has all labels."""
    all_labels_batch_size: int = 500
    """Images per training step of the head that has all labels."""


def build(pretrained: Encoder, seed: int) -> Classifier:
    """Compose a copy of Q1's encoder and a new head."""
    encoder = copy.deepcopy(pretrained)  # every fit starts from the same weights
    # Q4's head on the same subset starts from the same weights: the same generator.
    head = Head(encoder.latent_dim, generator=run.generator(seed, "head"))
    return Classifier(encoder, head).to(next(encoder.parameters()).device)


def loss(model: nn.Module, inputs: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Return what is minimised, and the metrics to record; as in Q4.

    The model is a classifier of images (B, 1, 28, 28), or a head alone, of latents (B, 12).
    """
    metrics = classification_metrics(model(inputs), labels)
    return metrics["cross_entropy"], metrics  # nats, mean over B


def fine_tune(
    model: Classifier, labelled: data.Split, test: data.Split, recipe: train.Recipe, seed: int
) -> pandas.DataFrame:
    """Train encoder and head on a labelled subset, and return the history."""
    # Curves on labelled and on test images: the distance between them is over-fitting.
    curves_of = {"labelled": labelled.to_classify(), "test": test[:CURVE_IMAGES].to_classify()}
    return train.fit(model, loss, labelled.to_classify(), curves_of, recipe, seed)


def train_head(
    model: Classifier, labelled: data.Split, test: data.Split, recipe: train.Recipe, seed: int
) -> pandas.DataFrame:
    """Train the head alone on labelled images, and return the history."""
    freeze(model.encoder)  # no gradients, evaluation mode
    before = fingerprint(model.encoder)
    # A frozen encoder gives the same latents in every epoch, so they are computed once.
    examples = {}
    for name, split in (("labelled", labelled), ("test", test[:CURVE_IMAGES])):
        examples[name] = TensorDataset(train.apply(model.encoder, split.images), split.labels)
    history = train.fit(model.head, loss, examples["labelled"], examples, recipe, seed)
    assert fingerprint(model.encoder) == before, "the frozen encoder changed in training"
    return history


def log_fit(
    results: run.Results,
    start: str,
    subset: Subset,
    model: Classifier,
    history: pandas.DataFrame,
    mnist: data.Dataset,
) -> None:
    """Save a classifier, and log its history and what the saved file gives."""
    model = checkpoint.save_and_reload(results.folder / subset.file_name(start), model)
    results.log_history(history, start, subset.name)
    results.log(overfitting(history, "cross_entropy"), start, "test", subset.name)
    for split, examples in (("labelled", mnist.train[subset.indices]), ("test", mnist.test)):
        results.log(train.evaluate(model, loss, examples.to_classify()), start, split, subset.name)


def compare(numbers: pandas.DataFrame) -> pandas.DataFrame:
    """Return test accuracies, a row per labelled subset, and their difference on each."""
    numbers = numbers[numbers.subset != ""]  # without the head that has all labels
    of_test = numbers[(numbers.split == "test") & (numbers.measure == "accuracy")]
    accuracy = of_test.pivot(index="subset", columns="model", values="value")
    return pandas.DataFrame(
        {
            "scratch": accuracy["scratch"],
            "fine-tuned": accuracy["fine-tuned"],
            "frozen": accuracy["frozen"],
            "fine-tuned minus scratch": accuracy["fine-tuned"] - accuracy["scratch"],
        }
    )


def plot(results: run.Results, numbers: pandas.DataFrame, history: pandas.DataFrame) -> None:
    """Plot the report's two graphs beside Q4's, and the comparison."""
    shots = results.options_of("q4_few_shot").shots
    differences = compare(numbers)["fine-tuned minus scratch"]
    gain = differences.drop(REPORT).mean()
    report_gain = differences[REPORT]
    seed = results.config.seed
    curves.plot_few_shot(
        results.folder / "curves.png",
        "From scratch, fine-tuned and frozen: test images stay behind the labelled ones",
        f"Curves are of the first {CURVE_IMAGES:,} test images (seed {seed}).",
        history,
        ["scratch", "fine-tuned", "frozen"],
        ["cross_entropy", "accuracy"],
    )
    models = ["scratch", "fine-tuned", "frozen", "frozen, all labels"]
    dots.plot_subsets(
        results.folder / "comparison.png",
        f"Q1's encoder {'helps' if gain > 0 else 'does not help'} a classifier that has"
        f" {10 * shots} labels",
        f"Fine-tuned minus scratch: {100 * gain:+.1f} points on the balanced subsets,"
        f" {100 * report_gain:+.1f} on the course report's (seed {seed}).",
        numbers,
        models,
    )


def main(config: Config) -> None:
    results = run.start("q5_transfer", config, needs=("q1_autoencoder", "q4_few_shot"))
    mnist = data.load(config.dataset, config.data_dir, results.device, config.quick)
    pretrained = checkpoint.load(results.path_of("q1_autoencoder"), results.device).encoder

    # Q4's labelled subsets and number of steps; the rates are tuned for each start.
    q4 = results.options_of("q4_few_shot")
    subsets = few_shot.labelled_subsets(mnist.train.labels, q4.shots, q4.subsets, config.seed)

    for subset in tqdm(subsets, "subsets", leave=False, disable=None):
        labelled = mnist.train[subset.indices]
        epochs = few_shot.epochs_for(q4.iterations, len(labelled), q4.batch_size)
        recipe = train.Recipe(
            epochs=epochs,
            batch_size=q4.batch_size,
            learning_rate=config.learning_rate,
            weight_decay=config.weight_decay,
            record_epochs=few_shot.record_epochs(epochs),
        )
        model = build(pretrained, subset.seed)
        history = fine_tune(model, labelled, mnist.test, recipe, subset.seed)
        log_fit(results, "fine-tuned", subset, model, history, mnist)

        recipe = dataclasses.replace(
            recipe,
            learning_rate=config.frozen_learning_rate,
            weight_decay=config.frozen_weight_decay,
        )
        model = build(pretrained, subset.seed)
        history = train_head(model, labelled, mnist.test, recipe, subset.seed)
        log_fit(results, "frozen", subset, model, history, mnist)

    # For comparison, all labels: what the latents are worth when labels are not few.
    model = build(pretrained, config.seed)
    recipe = train.Recipe(
        epochs=config.all_labels_epochs,
        batch_size=config.all_labels_batch_size,
        learning_rate=config.frozen_learning_rate,
        weight_decay=0.0,
        record_epochs=(),  # no curve
    )
    train_head(model, mnist.train, mnist.test, recipe, config.seed)
    model = checkpoint.save_and_reload(results.folder / "frozen_all_labels.safetensors", model)
    measures = train.evaluate(model, loss, mnist.test.to_classify())
    results.log(measures, "frozen, all labels", "test")

    # Beside them what Q4 trained from scratch.
    q4_numbers = results.table_of("q4_few_shot", "numbers").query("model == 'scratch'")
    q4_history = results.table_of("q4_few_shot", "history").query("model == 'scratch'")
    numbers = pandas.concat([q4_numbers, results.numbers])
    with run.drawing():
        plot(results, numbers, pandas.concat([q4_history, results.history]))

    table = 100 * compare(numbers)
    gain = table["fine-tuned minus scratch"].drop(REPORT).mean()
    print(f"fine-tuned minus scratch: {gain:+.1f} points")
    table = table.rename_axis(index=None, columns="test accuracy, %")
    table.loc["mean of balanced subsets"] = table.drop(REPORT).mean()
    print(table.round(1).to_string())
    results.finish(mnist.sha256)


if __name__ == "__main__":
    run.command_line(main, Config)
