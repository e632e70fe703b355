"""Tests of common/report/numbers.py: pooling and comparison, worked by hand."""

import dataclasses
import shutil

import numpy
import pandas
import pytest
import torch
from scipy import stats

from common import few_shot, results, run
from common.measures.names import MEASURES
from common.measures.statistics import interval
from common.report import numbers as tables
from common.report.numbers import BALANCED, GAP, REPORT, Number
from tests.report.written import write_step

Q4 = "q4_few_shot"
# Accuracies of a classifier by seed: on the report's subset, and on two balanced ones.
REPORTED = [0.50, 0.55, 0.60]
FIRST = [0.80, 0.79, 0.81]
SECOND = [0.82, 0.85, 0.80]
SCRATCH = Number(Q4, "scratch", "accuracy", BALANCED)


def rows(seed: int) -> list:
    return [
        ("scratch", "report", "test", "accuracy", REPORTED[seed]),
        ("scratch", "balanced 1", "test", "accuracy", FIRST[seed]),
        ("scratch", "balanced 2", "test", "accuracy", SECOND[seed]),
        ("scratch", "balanced 1", "labelled", "accuracy", 1.0),
        ("scratch", "balanced 2", "labelled", "accuracy", 0.9),
        ("PCA-12", "balanced 1", "test", "l1", 0.1),
        ("PCA-12", "balanced 2", "test", "l1", 0.1),
    ]


@pytest.fixture
def outputs(tmp_path):
    for seed in range(3):
        write_step(tmp_path, Q4, seed, rows(seed))
    return tmp_path


def test_the_reports_subset_is_named_as_the_scripts_name_it():
    assert few_shot.REPORT == REPORT
    subsets = few_shot.labelled_subsets(torch.arange(200) % 10, shots=1, count=2, seed=0)
    kinds = [tables.kind(subset.name) for subset in subsets]
    assert kinds == [REPORT, BALANCED, BALANCED]


def test_all_seeds_and_steps_come_into_one_table(outputs):
    write_step(outputs, "studies/label_curve", 0, [("one label", "", "test", "accuracy", 0.4)])
    write_step(outputs, "q1_autoencoder", 0, [("Q1", "", "test", "l1", 0.0266)])
    write_step(outputs, "q1_autoencoder", 10, [("Q1", "", "test", "l1", 0.0268)])
    published = tables.read(outputs)
    assert list(published.numbers) == [
        "step",
        "model",
        "subset",
        "split",
        "measure",
        "seed",
        "value",
    ]
    assert list(published.firsts) == ["q1_autoencoder", Q4, "studies/label_curve"]
    assert published.left_out == {}
    of_q1 = published.numbers[published.numbers.step == "q1_autoencoder"]
    assert list(of_q1.itertuples(index=False, name=None)) == [
        ("q1_autoencoder", "Q1", "", "test", "l1", 0, 0.0266),
        ("q1_autoencoder", "Q1", "", "test", "l1", 10, 0.0268),
    ]


def test_the_reports_subset_is_never_pooled_with_balanced_ones(outputs):
    pooled = tables.pool(tables.read(outputs).numbers)
    balanced = pooled.loc[Q4, "scratch", BALANCED, "test", "accuracy"]
    # 80, 79, 81, 82, 85, 80: mean 487 / 6; squared deviations sum to 39551 - 487^2 / 6
    assert balanced["mean"] == pytest.approx(4.87 / 6)
    assert balanced["std"] == pytest.approx(((39551 - 487**2 / 6) / 5) ** 0.5 / 100)
    assert balanced["count"] == 6
    reported = pooled.loc[Q4, "scratch", REPORT, "test", "accuracy"]
    assert tuple(reported) == pytest.approx((0.55, 0.05, 3))


def test_a_seed_counts_once_whatever_the_number_of_its_subsets(outputs):
    numbers = tables.read(outputs).numbers
    assert tables.per_seed(numbers, SCRATCH).to_dict() == pytest.approx(
        {0: 0.81, 1: 0.82, 2: 0.805}
    )
    gap = tables.per_seed(numbers, dataclasses.replace(SCRATCH, split=GAP))
    assert gap.to_dict() == pytest.approx({0: 0.14, 1: 0.13, 2: 0.145})
    nothing = tables.per_seed(numbers, dataclasses.replace(SCRATCH, model="frozen"))
    assert nothing.empty


def test_differences_are_of_the_seeds_that_have_both(outputs):
    for seed in (0, 2):
        tuned = [("fine-tuned", "balanced 1", "test", "accuracy", 0.9)]
        write_step(outputs, "q5_transfer", seed, tuned)
    numbers = tables.read(outputs).numbers
    after = Number("q5_transfer", "fine-tuned", "accuracy", BALANCED)
    assert tables.differences(numbers, after, SCRATCH).to_dict() == pytest.approx(
        {0: 0.09, 2: 0.095}
    )
    assert tables.differences(numbers, after, 0.8).to_dict() == pytest.approx({0: 0.1, 2: 0.1})


@pytest.mark.parametrize(
    "change",
    [
        {"options": {"epochs": 1}},
        {"code_sha256": "0"},
        {"data_sha256": "0"},
        {"versions": {}},
        {"options": {"seed": 0}},
    ],
)
def test_only_results_like_the_first_seeds_are_pooled_and_the_others_named(change, outputs):
    write_step(outputs, Q4, 1, rows(1), **change)
    published = tables.read(outputs)
    assert set(published.numbers.seed) == {0, 2}
    assert list(published.left_out) == [f"seed1/{Q4}"]


def test_results_that_were_changed_are_left_out(outputs):
    (outputs / "seed2" / Q4 / "numbers.csv").write_text("model,subset,split,measure,value\n")
    published = tables.read(outputs)
    assert set(published.numbers.seed) == {0, 1}
    assert len(published.left_out) == 1


def write_built(outputs, step, needs, rows, **changes):
    """Write a step's results of seed 0, built on those that lie beside."""
    built_on = {}
    for name in needs:
        built_on[name] = results.result_sha256(results.read_config(outputs / name))
    return write_step(outputs, step, 0, rows, built_on=built_on, **changes)


def test_what_was_built_on_other_results_is_left_out_and_the_command_named(tmp_path):
    q1, q5, study = "q1_autoencoder", "q5_transfer", "studies/augmentation"
    write_step(tmp_path, q1, 0, [("Q1", "", "test", "l1", 0.02)])
    tuned = [("fine-tuned", "", "test", "accuracy", 0.9)]
    write_built(tmp_path, q5, [q1], tuned, command=f"python {q5}.py --shots 5")
    write_built(tmp_path, study, [q5], tuned)
    assert list(tables.read(tmp_path).firsts) == [q1, q5, study]

    write_step(tmp_path, q1, 0, [("Q1", "", "test", "l1", 0.03)])
    published = tables.read(tmp_path)
    assert list(published.firsts) == [q1] and set(published.numbers.step) == {q1}
    assert list(published.left_out) == [q5, study]  # that is built on what is built on another
    of_q5, of_study = published.left_out.values()
    assert q1 in of_q5 and f"`python {q5}.py --shots 5`" in of_q5 and q5 in of_study

    write_built(tmp_path, q5, [q1], tuned)
    assert tables.read(tmp_path).left_out == {}  # its numbers are the same again


def test_what_is_of_other_data_than_most_is_left_out_and_the_command_named(outputs):
    other = {"options": {"dataset": "kmnist"}, "data_sha256": "k" * 64}
    write_step(outputs, "q1_autoencoder", 0, [("Q1", "", "test", "l1", 0.02)], **other)
    published = tables.read(outputs)
    assert list(published.firsts) == [Q4]
    assert "`python q1_autoencoder.py`" in published.left_out["q1_autoencoder"]


def test_copies_are_no_steps_and_strange_files_no_results(outputs):
    expected = len(tables.read(outputs).numbers)
    for name in (f"{Q4} (copy)", f"{Q4}_old"):
        shutil.copytree(outputs / Q4, outputs / name)
    published = tables.read(outputs)
    assert list(published.firsts) == [Q4] and published.left_out == {}
    assert len(published.numbers) == expected

    path = write_step(outputs, "q1_autoencoder", 0, []) / "config.json"
    strange = [b"\xff\xfe\x01", "{}".encode("utf-16"), b"[" * 10**5, b'{"files_sha256": {}}', None]
    for content in strange:
        path.unlink()
        path.mkdir() if content is None else path.write_bytes(content)
        published = tables.read(outputs)
        assert list(published.firsts) == [Q4]
        assert published.left_out == {"q1_autoencoder": "unfinished, or changed since"}


def test_a_folder_without_results_is_the_users_mistake(tmp_path):
    with pytest.raises(run.InputError, match="got no results"):
        tables.read(tmp_path)


def test_a_table_has_a_row_for_each_model_and_kind_of_subset(outputs):
    table = tables.table(tables.read(outputs).numbers, Q4)
    labels = "scratch, its labelled images"
    assert list(table.index) == ["scratch", "PCA-12", "scratch, the course report's subset", labels]
    assert list(table["accuracy"]) == ["81.17% ± 2.14", "", "55.00% ± 5.00", "95.00% ± 5.48"]
    assert list(table["L1 per pixel"]) == ["", "0.1000", "", ""]  # equal values do not deviate


def test_a_table_with_more_measures_than_models_is_turned(tmp_path):
    measures = [("Q1", "", "test", "l1", 0.02), ("Q1", "", "test", "mse", 0.01)]
    write_step(tmp_path, "q1_autoencoder", 0, measures)
    table = tables.table(tables.read(tmp_path).numbers, "q1_autoencoder")
    assert table.to_dict() == {"Q1": {"L1 per pixel": "0.0200", "MSE per pixel": "0.0100"}}


def test_a_small_deviation_is_not_written_as_none():
    assert MEASURES["l1"].format_mean(0.1, 2e-5) == "0.1000 ± 2e-05"
    assert MEASURES["accuracy"].format_mean(0.99, 2e-5) == "99.00% ± 2e-03"
    assert MEASURES["accuracy"].format_mean(0.99, float("nan")) == "99.00%"


def test_an_interval_is_students_t_and_a_single_value_has_none():
    values = [0.07, 0.065, 0.08]
    low, high = stats.t(2, numpy.mean(values), stats.sem(values)).interval(0.95)
    found = interval(pandas.Series(values))
    assert (found.mean, found.low, found.high) == pytest.approx((numpy.mean(values), low, high))
    assert found.n == 3
    form = MEASURES["accuracy"].format_difference
    assert (
        tables.interval_text(form, found) == f"+7.17 points ({100 * low:+.2f} to {100 * high:+.2f})"
    )
    assert tables.interval_text(form, interval(pandas.Series([0.07]))) == "+7.00 points"


def test_an_interval_over_seeds_covers_the_truth_where_one_over_all_subsets_does_not():
    random = numpy.random.default_rng(0)
    truth, experiments, seeds, subsets = 0.5, 1_000, 10, 3
    # What a pretrained encoder adds to all subsets of its seed.
    encoders = random.normal(0, 0.6, (experiments, seeds, 1))
    differences = truth + encoders + random.normal(0, 0.6, (experiments, seeds, subsets))

    covered_by_seeds = covered_by_subsets = 0
    for of_experiment in differences:
        over_seeds = interval(of_experiment.mean(1))
        over_subsets = interval(of_experiment.ravel())  # taken for independent, as they are not
        covered_by_seeds += over_seeds.low <= truth <= over_seeds.high
        covered_by_subsets += over_subsets.low <= truth <= over_subsets.high
    assert 0.93 <= covered_by_seeds / experiments <= 0.97
    assert covered_by_subsets / experiments < 0.9
