r"""Does what was found on MNIST hold for other images of the same size?

The five scripts, unchanged, on Fashion-MNIST (photographs of ten kinds of clothes) and KMNIST (ten
classes of cursive Japanese letters): rates and lengths were tuned on MNIST alone. This script
trains nothing. It reads what these commands left, and says which of them is missing:

    python reproduce.py --studies --seeds 0 1 2 --dataset fashion-mnist \
        --output-dir outputs/fashion-mnist
    python reproduce.py --studies --seeds 0 1 2 --dataset kmnist --output-dir outputs/kmnist

Of Fashion-MNIST 3 seeds are published, made by the five scripts and studies/augmentation.py; of
KMNIST none, since it could not be fetched. Means over the seeds, on test images; of MNIST there are
10, augmented 3:

                                        accuracy
    mnist, scratch                      76.24%
    mnist, fine-tuned                   84.39%
    mnist, frozen                       89.45%
    mnist, scratch, augmented           96.60%
    fashion-mnist, scratch              69.55%
    fashion-mnist, fine-tuned           71.23%
    fashion-mnist, frozen               72.66%
    fashion-mnist, scratch, augmented   67.88%

                        slant_r2   thickness_r2   deviation_kept   deviation_correlation
    mnist, Q1           0.942      0.876          0.988            0.908
    mnist, Q3           0.562      0.158          0.895            0.646
    fashion-mnist, Q1   0.768      0.756          0.940            0.893
    fashion-mnist, Q3   0.418      0.273          0.829            0.695

Claims (a), (b) and (c) hold on both; of the reason for (c), and of Q4's sentence, the first half
holds and the second is refuted on both. That Q1's encoder is worth anything with 100 labels is not
shown on Fashion-MNIST, +1.69 (-0.04 to +3.42) points in the place of +8.15 (+6.90 to +9.41), nor
that augmentation helps.

Augmentation was made for handwriting: it bends strokes and makes them thicker or thinner, whatever
the images are. Slant and thickness are those of the bright pixels; of clothes they say how these
lie and how large they are. A "digit" is a class.

Run:     python -m studies.other_data
Needs:   the five scripts, run before with the same --output-dir; the other data sets' results in
         folders of their names inside it
Writes:  outputs/studies/other_data/: numbers.csv, claims.csv (the report's claims on every data
         set), claims.png, labels.png
"""

import dataclasses
import shlex

import pandas

from common import run
from common.figures import dots
from common.report import numbers as tables
from common.report import verdicts
from common.report.numbers import BALANCED, Number
from common.report.verdicts import Comparison, Judged

FIVE = ("q1_autoencoder", "q2_classifier", "q3_frozen_decoder", "q4_few_shot", "q5_transfer")
Q1, Q2, Q3, Q4, Q5 = FIVE
AUGMENTATION = "studies/augmentation"

# With 100 labels.
SCRATCH = Number(Q4, "scratch", "accuracy", BALANCED)
FINE_TUNED = Number(Q5, "fine-tuned", "accuracy", BALANCED)
FROZEN = Number(Q5, "frozen", "accuracy", BALANCED)
AUGMENTED_SCRATCH = Number(AUGMENTATION, "scratch, augmented", "accuracy", BALANCED)
AUGMENTED_FINE_TUNED = Number(AUGMENTATION, "fine-tuned, augmented", "accuracy", BALANCED)
FEW_LABELS = [SCRATCH, FINE_TUNED, FROZEN, AUGMENTED_SCRATCH, AUGMENTED_FINE_TUNED]
LEVELS = [Number(Q1, "Q1", "l1"), Number(Q2, "Q2", "accuracy"), *FEW_LABELS]
CLAIMED = (  # measures of Q3's claims
    "slant_r2",
    "thickness_r2",
    "deviation_kept",
    "deviation_correlation",
    "pixel_silhouette",
    "reading_accuracy",
)
ENCODER, AUGMENTED_ENCODER = "Q1's encoder", "Q1's encoder, augmented"
GAINS = {  # what Q1's encoder is worth; has no verdict
    ENCODER: Comparison(FINE_TUNED, SCRATCH),
    AUGMENTED_ENCODER: Comparison(AUGMENTED_FINE_TUNED, AUGMENTED_SCRATCH),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(run.Options):
    others: tuple[str, ...] = ("fashion-mnist", "kmnist")
    """Data sets to compare with, as named in the folders in the output folder that hold them."""


def read_all(config: Config) -> dict[str, pandas.DataFrame]:
    """Return all numbers of all seeds by data set; those that are not there are left out."""
    found = {config.dataset: tables.read(config.output_dir).numbers}
    for name in config.others:
        if set(FIVE) <= set(tables.find_steps(config.output_dir / name)):
            found[name] = tables.read(config.output_dir / name).numbers
    return found


def command_for(name: str, config: Config) -> str:
    """Return the command that makes the results of a data set."""
    folder = shlex.quote(str(config.output_dir / name))
    return f"python reproduce.py --studies --seeds 0 1 2 --dataset {name} --output-dir {folder}"


def judge_claims(found: dict[str, pandas.DataFrame]) -> pandas.DataFrame:
    """Return what the report's claims rest on: a row for each data set and primary comparison."""
    rows = []
    for dataset, numbers in found.items():
        for judged_claim in verdicts.judge_all(numbers):
            for judged in judged_claim.primary:
                rows.append(claim_row(dataset, judged_claim.claim.name, judged))
        for name, comparison in GAINS.items():
            judged = verdicts.compare(numbers, comparison)
            if judged:
                rows.append(claim_row(dataset, name, judged))
    return pandas.DataFrame(rows)


def claim_row(dataset: str, claim: str, judged: Judged) -> dict:
    """Return a row of claims.csv; differences are in the unit of the measure, fractions as such."""
    difference = judged.difference
    return {
        "dataset": dataset,
        "claim": claim,
        "comparison": str(judged.comparison),
        "n": difference.n,
        "mean": difference.mean,
        "low": difference.low,
        "high": difference.high,
        "verdict": judged.verdict,
        "text": judged.text(),
    }


def log_levels(results: run.Results, found: dict[str, pandas.DataFrame]) -> None:
    """Log means over the seeds, as numbers of the model "<data set>, <model>"."""
    numbers = list(LEVELS)
    for model in ("Q1", "Q3"):
        for measure in CLAIMED:
            numbers.append(Number(Q3, model, measure))
    for dataset, table in found.items():
        for number in numbers:
            values = tables.per_seed(table, number)
            if len(values):
                name = f"{dataset}, {number.model}"
                results.log({number.measure: values.mean()}, name, "test")


def plot_claims(results: run.Results, judged: pandas.DataFrame, datasets: list[str]) -> None:
    """Plot the measures of the claims about Q1 and Q3, a row for each data set."""
    groups = {}
    for dataset in datasets:
        groups[dataset] = {"Q1": f"{dataset}, Q1", "Q3": f"{dataset}, Q3"}
    judged = judged[judged.verdict != ""].drop_duplicates(["dataset", "comparison"])
    signs = judged.pivot_table("mean", ["claim", "comparison"], "dataset")[datasets].dropna() > 0
    is_alike = signs.nunique(axis=1) == 1
    seeds = judged.groupby("dataset").n.max()[datasets]
    counts = ", ".join(f"{dataset} {count}" for dataset, count in seeds.items())
    title = (
        f"Of {len(signs)} comparisons that the report's claims rest on, {is_alike.sum()} point the"
        f" same way on {' and '.join(datasets)}"
    )
    if len(datasets) == 1:
        title = f"The report's claims are measured on {datasets[0]} alone: other data are missing"
    dots.plot_groups(
        results.folder / "claims.png",
        title,
        f"Means over seeds ({counts}). The comparisons that differ:"
        f" {'; '.join(': '.join(names) for names in signs.index[~is_alike]) or 'none'}.",
        results.numbers,
        groups,
        list(CLAIMED),
    )


def plot_labels(results: run.Results, judged: pandas.DataFrame, datasets: list[str]) -> None:
    """Plot what 100 labels give, a row for each data set."""
    groups = {}
    for dataset in datasets:
        groups[dataset] = {}
        for number in FEW_LABELS:
            groups[dataset][number.model] = f"{dataset}, {number.model}"
    gains = judged.set_index(["dataset", "claim"])["mean"]
    texts = []
    for dataset in datasets:
        text = f"{100 * gains[dataset, ENCODER]:+.1f} points on {dataset}"
        if (dataset, AUGMENTED_ENCODER) in gains:
            text += f" ({100 * gains[dataset, AUGMENTED_ENCODER]:+.1f} on augmented images)"
        texts.append(text)
    worth = gains.xs(ENCODER, level="claim")
    dots.plot_groups(
        results.folder / "labels.png",
        f"With 100 labels Q1's encoder is worth most on {worth.idxmax()}",
        f"Fine-tuned minus scratch: {', '.join(texts)}. Test accuracy, means over balanced subsets"
        " and seeds. Augmentation was made for handwriting.",
        results.numbers,
        groups,
        ["accuracy"],
    )


def main(config: Config) -> None:
    results = run.start("studies/other_data", config, needs=FIVE)
    found = read_all(config)
    datasets = list(found)

    judged = judge_claims(found)
    judged.to_csv(results.folder / "claims.csv", index=False)
    log_levels(results, found)
    with run.drawing():
        plot_claims(results, judged, datasets)
        plot_labels(results, judged, datasets)

    # An empty column where a data set is not there.
    cells = judged.text + ", " + judged.verdict
    table = judged.assign(cell=cells.str.removesuffix(", "))
    table = table.pivot(index=["claim", "comparison"], columns="dataset", values="cell")
    columns = [config.dataset, *config.others]
    print(table.reindex(columns=columns).astype(object).fillna("").to_string())
    for name in config.others:
        if name not in found:
            print(f"{name} is not there: {command_for(name, config)}")
    results.finish(results.needed[Q1]["data_sha256"])


if __name__ == "__main__":
    run.command_line(main, Config)
