"""How many labels is an encoder worth that was trained without any?

The classifiers of Q4 and Q5, with 1 to 100 labelled images per digit:

    scratch              random weights
    fine-tuned           Q1's weights, and everything trains
    frozen               Q1's weights, kept: only the head trains
    two views, frozen    the same on the encoder of studies/pretexts.py that was trained to agree on
                         two augmented copies of an image
    scratch, augmented   with Q4's number of labels alone, from studies/augmentation.py

Rates, decay and the number of training steps are those of Q4 and Q5, which were tuned for 10 labels
per digit; what was trained there with as many is read, not trained again. Only from scratch the
rate is lower with fewer labels, the best of 5 on validation images: at Q4's, fits with 5 per digit
end at chance.

Test accuracy, mean ± standard deviation over the balanced subsets of 3 seeds, three each:

                                       accuracy
    scratch, 1 per digit               40.32% ± 5.52
    fine-tuned, 1 per digit            44.38% ± 6.00
    frozen, 1 per digit                61.65% ± 6.53
    two views, frozen, 1 per digit     85.69% ± 7.95
    scratch, 5 per digit               66.10% ± 2.44
    fine-tuned, 5 per digit            76.65% ± 1.91
    frozen, 5 per digit                83.77% ± 2.17
    two views, frozen, 5 per digit     96.07% ± 1.81
    scratch, 20 per digit              86.16% ± 1.16
    fine-tuned, 20 per digit           90.16% ± 0.38
    frozen, 20 per digit               92.10% ± 0.72
    two views, frozen, 20 per digit    97.57% ± 0.42
    scratch, 100 per digit             94.49% ± 0.37
    fine-tuned, 100 per digit          95.72% ± 0.21
    frozen, 100 per digit              93.69% ± 0.31
    two views, frozen, 100 per digit   97.75% ± 0.17

It prints what labels are worth: how many per digit it takes from scratch to get as far.

Run:     python -m studies.label_curve
Needs:   q1_autoencoder.py, q4_few_shot.py, q5_transfer.py, studies/augmentation.py and
         studies/pretexts.py, run before with the same --output-dir
Writes:  outputs/studies/label_curve/: numbers.csv, curve.png
"""

import dataclasses
import math

import numpy
import pandas
from tqdm import tqdm

from common import checkpoint, data, few_shot, run, train
from common.few_shot import REPORT, Subset
from common.figures import sweeps
from common.models import Classifier, Encoder
from q4_few_shot import build_classifier
from q4_few_shot import recipe as q4_recipe
from q5_transfer import build, fine_tune, loss, train_head

# Who has trained each kind of classifier with Q4's number of labels, under the same name.
TRAINED_BY = {
    "scratch": "q4_few_shot",
    "fine-tuned": "q5_transfer",
    "frozen": "q5_transfer",
    "two views, frozen": "studies/pretexts",
    "scratch, augmented": "studies/augmentation",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(run.Options):
    """Options beside the shared ones: dataset, data_dir, output_dir, device, seed,
    quick.

    Everything else is Q4's and Q5's, read from their results.
    """

    shots: tuple[int, ...] = (1, 2, 5, 10, 20, 50, 100)
    """Labelled images per digit to try, beside Q4's."""
    few_learning_rate: float = 2.5e-3
    """Peak of the schedule from scratch with fewer labels than Q4: at its rate some fits fail."""


def load_encoders(results: run.Results) -> dict[str, Encoder]:
    """Return the encoders on which a head is trained, by the name of that classifier."""
    q1 = checkpoint.load(results.path_of("q1_autoencoder"), results.device)
    path = results.path_of("studies/pretexts", "two_views.safetensors")
    views = checkpoint.load(path, results.device)
    return {"frozen": q1.encoder, "two views, frozen": views.encoder}


def fit_all(
    subset: Subset, encoders: dict[str, Encoder], mnist: data.Dataset, results: run.Results
) -> dict[str, Classifier]:
    """Train classifiers on a labelled subset as Q4 and Q5 do; return them by name."""
    q4 = results.options_of("q4_few_shot")
    q5 = results.options_of("q5_transfer")
    labelled = mnist.train[subset.indices]
    rate = q4.learning_rate
    if len(labelled) < 10 * q4.shots:
        rate = min(rate, results.config.few_learning_rate)
    as_q4 = q4_recipe(q4, rate, q4.weight_decay, len(labelled))
    as_q4 = dataclasses.replace(as_q4, record_epochs=())

    scratch = build_classifier(q4.latent_dim, subset.seed).to(results.device)
    fine_tune(scratch, labelled, mnist.test, as_q4, subset.seed)

    fine_tuned = build(encoders["frozen"], subset.seed).to(results.device)
    gently = dataclasses.replace(
        as_q4, learning_rate=q5.learning_rate, weight_decay=q5.weight_decay
    )
    fine_tune(fine_tuned, labelled, mnist.test, gently, subset.seed)

    classifiers = {"scratch": scratch, "fine-tuned": fine_tuned}
    of_head = dataclasses.replace(
        as_q4, learning_rate=q5.frozen_learning_rate, weight_decay=q5.frozen_weight_decay
    )
    for name, encoder in encoders.items():
        classifiers[name] = build(encoder, subset.seed).to(results.device)
        train_head(classifiers[name], labelled, mnist.test, of_head, subset.seed)
    return classifiers


def model_name(kind: str, shots: int) -> str:
    """Return what classifiers with so many labels per digit are called in numbers.csv."""
    return f"{kind}, {shots} per digit"


def curve_rows(kind: str, shots: int, accuracies: list[float]) -> list[dict]:
    """Return test accuracies as rows of the curve's table, as ``figures.sweeps`` wants it."""
    rows = []
    for value in accuracies:
        rows.append({"x": shots, "series": kind, "measure": "accuracy", "value": value})
    return rows


def train_curve(results: run.Results, mnist: data.Dataset) -> list[dict]:
    """Train and log the classifiers of all numbers of labels but Q4's; return the curve's rows."""
    q4 = results.options_of("q4_few_shot")
    encoders = load_encoders(results)
    test = mnist.test.to_classify()
    rows = []
    untrained = sorted({*results.config.shots} - {q4.shots})
    for shots in tqdm(untrained, "labels per digit", leave=False, disable=None):
        _, *balanced = few_shot.labelled_subsets(
            mnist.train.labels, shots, q4.subsets, results.config.seed
        )
        for subset in balanced:
            for kind, classifier in fit_all(subset, encoders, mnist, results).items():
                measures = train.evaluate(classifier, loss, test)
                results.log(measures, model_name(kind, shots), "test", subset.name)
                rows += curve_rows(kind, shots, [measures["accuracy"]])
    return rows


def read_curve(results: run.Results) -> list[dict]:
    """Return the curve's rows of Q4's number of labels, from the results of other steps."""
    shots = results.options_of("q4_few_shot").shots
    rows = []
    for kind, step in TRAINED_BY.items():
        numbers = results.table_of(step, "numbers").query("split == 'test'")
        chosen = (numbers.model == kind) & (numbers.measure == "accuracy")
        balanced = numbers[chosen & (numbers.subset != REPORT)]
        rows += curve_rows(kind, shots, balanced.value.tolist())
    return rows


def worth_in_labels(accuracy: float, scratch: pandas.Series) -> float:
    """Return how many labels per digit it takes from scratch to reach ``accuracy``; nan if that is
    outside of what was tried.

    ``scratch`` holds accuracies by the number of labels per digit. Between these the accuracy
    follows straight lines over the logarithm of the labels; where it falls, its highest value so
    far counts.
    """
    rising = scratch.sort_index().cummax()
    if not rising.iloc[0] <= accuracy <= rising.iloc[-1]:
        return math.nan
    return float(numpy.exp(numpy.interp(accuracy, rising, numpy.log(rising.index))))


def log_worth(results: run.Results, means: pandas.DataFrame) -> pandas.DataFrame:
    """Log what labels are worth with pretrained weights, and return it as ``means`` is: mean
    accuracies, a row for each number of labels and a column for each kind of classifier.
    """
    pretrained = means.drop(columns=["scratch", "scratch, augmented"], errors="ignore")
    worth = pandas.DataFrame(index=means.index, columns=pretrained.columns, dtype=float)
    for kind in worth:
        for shots in worth.index:
            labels = worth_in_labels(means.loc[shots, kind], means["scratch"])
            worth.loc[shots, kind] = labels
            if not math.isnan(labels):
                results.log({"worth_in_labels": labels}, model_name(kind, shots), "test")
    return worth


def in_words(worth: float, shots: int) -> str:
    """Return what so many labels per digit are worth with Q1's encoder, as a sentence."""
    if math.isnan(worth):
        return (
            f"No number of labels tried from scratch gets as far as {shots} per digit with Q1's"
            " encoder, fine-tuned"
        )
    return (
        f"It takes {worth:.0f} labels per digit from scratch to get as far as {shots} with Q1's"
        " encoder, fine-tuned"
    )


def plot(results: run.Results, curve: pandas.DataFrame, worth: pandas.DataFrame) -> None:
    """Plot all curves, and what Q4's number of labels is worth if Q1's encoder is fine-tuned."""
    q4 = results.options_of("q4_few_shot")
    labels = worth.loc[q4.shots, "fine-tuned"]
    fine_tuned = curve[(curve.series == "fine-tuned") & (curve.x == q4.shots)]
    reading = {}
    if not math.isnan(labels):
        reading = {"labels": q4.shots, "accuracy": fine_tuned.value.mean(), "worth": labels}
    sweeps.plot_label_curve(
        results.folder / "curve.png",
        in_words(labels, q4.shots),
        f"Test images; lines are means and bands the range of {q4.subsets} class-balanced subsets"
        f" (seed {results.config.seed}).",
        curve,
        reading,
    )


def main(config: Config) -> None:
    needs = (
        "q1_autoencoder",
        "q4_few_shot",
        "q5_transfer",
        "studies/augmentation",
        "studies/pretexts",
    )
    results = run.start("studies/label_curve", config, needs)
    mnist = data.load(config.dataset, config.data_dir, results.device, config.quick)

    curve = pandas.DataFrame(train_curve(results, mnist) + read_curve(results))
    means = curve.pivot_table(index="x", columns="series", values="value", sort=False).sort_index()
    worth = log_worth(results, means)

    with run.drawing():
        plot(results, curve, worth)

    shots = results.options_of("q4_few_shot").shots
    print(in_words(worth.loc[shots, "fine-tuned"], shots))
    print("test accuracy, %, by labels per digit")
    print((100 * means.T).round(1).to_string(na_rep=""))
    results.finish(mnist.sha256)


if __name__ == "__main__":
    run.command_line(main, Config)
