"""Tests of common/check.py: a fresh run against a published one."""

import json
import shutil

import pytest

from common import cards, check, report, run
from tests.test_report import CODE, FIGURES, write_run

# Step, model, seed 0's value, which is the published one, and the tolerance by hand.
TOLERANCES = [
    ("q1_autoencoder", "Q1", 0.0087, 3 * 2**0.5 * 0.0002),  # deviation of 87, 91, 89
    ("q1_autoencoder", "mean image", 0.0673, 0.03 * 0.0673),  # of equal values: 3 %
    ("q2_classifier", "Q2", 0.99, 3 * 2**0.5 * 0.0050083),  # deviation of 990, 980, 984.5
    ("q3_frozen_decoder", "Q3", 0.5, 3 * 2**0.5 * 0.01),  # deviation of 50, 51, 49: more than 3 %
    ("q4_few_shot", "nearest neighbour", 0.7134, 0.003),  # points of accuracy
]


@pytest.fixture
def runs(tmp_path):
    """Return the folders of a fresh run and of the published one, which has its seeds.json only."""
    fresh, reference = write_run(tmp_path / "outputs"), tmp_path / "reference"
    report.write(fresh)
    reference.mkdir()
    shutil.move(fresh / "seeds.json", reference)
    return fresh, reference


def edit(path, model=None, **changes):
    content = json.loads(path.read_text("utf-8"))
    (next(entry for entry in content["numbers"] if entry["model"] == model) if model else content).update(changes)
    path.write_text(json.dumps(content), encoding="utf-8")


def test_a_number_may_move_within_its_tolerance_only(runs):
    for step, model, value, tolerance in TOLERANCES:
        for factor, expected in ((0.99, True), (-0.99, True), (1.01, False), (-1.01, False)):
            edit(runs[0] / step / "summary.json", model, values=[value + factor * tolerance])
            text, reproduced = check.compare(*runs)
            assert reproduced is expected, (step, model, factor)
        failed = [line for line in text.splitlines() if "NOT reproduced" in line]
        assert len(failed) == 1 and failed[0].startswith(f"{step}: {model}, ")
        assert text.endswith("\n14 of 15 numbers reproduced")
        edit(runs[0] / step / "summary.json", model, values=[value])


def test_a_q1_that_is_ten_per_cent_worse_does_not_reproduce_the_published_one():
    published = json.loads((run.REPOSITORY / "outputs" / "reference" / "seeds.json").read_text("utf-8"))
    names = [("q1_autoencoder", "Q1", measure, "test") for measure in ("mse", "l1")]
    numbers = {cards.key(number): number for number in published["numbers"]}
    for number in (numbers[name] for name in names):
        assert 0 < check.allowed(number) < 0.1 * number["values"]["0"][0]


def test_a_missing_number_is_not_reproduced_even_where_other_seeds_have_it(runs):
    edit(runs[0] / "q1_undo" / "summary.json", "undo", measure="l1")
    text, reproduced = check.compare(*runs)
    assert not reproduced and [line[:19] for line in text.splitlines() if "missing" in line] == ["q1_undo: undo, mse,"]
    shutil.rmtree(runs[0] / "q4_few_shot")
    assert check.compare(*runs)[0].endswith("\n10 of 15 numbers reproduced")


def test_another_code_is_said_in_one_line(runs, monkeypatch):
    assert "the code" not in check.compare(*runs)[0]
    for step in ("q1_undo", "q2_classifier"):
        edit(runs[0] / step / "config.json", numbers_sha256="other")
    text, reproduced = check.compare(*runs)
    assert reproduced and text.count("the code") == 1 and text.splitlines()[-2].endswith(f", commit {'c' * 40}")
    for step in ("q1_undo", "q2_classifier"):
        edit(runs[0] / step / "config.json", numbers_sha256=CODE)
    assert "the code" not in check.compare(*runs)[0]
    monkeypatch.setattr(check.results, "numbers_sha256", lambda: "other")
    assert check.compare(*runs)[0].count("the code") == 1  # not the runs', that which is there now


def test_missing_reference_or_results_are_said(runs, tmp_path):
    with pytest.raises(run.InputError, match=r"seeds\.json.*get that of the published run"):
        check.compare(runs[0], tmp_path / "nothing")
    with pytest.raises(run.InputError, match="got no results"):
        check.compare(tmp_path / "nothing", runs[1])
    (runs[1] / "seeds.json").write_text('{"q1_autoencoder/test/mse": {"mean": 0.01}}', encoding="utf-8")
    with pytest.raises(run.InputError, match="no git_commit"):
        check.compare(*runs)


def test_command_shows_the_main_numbers_and_ends_with_1_when_one_moved(runs, capsys):
    arguments = ["--output-dir", str(runs[0]), "--reference", str(runs[1])]
    run.command_line(check.main, check.Config, arguments)
    printed = capsys.readouterr().out
    assert printed.count("  reproduced") == 7 and printed.endswith("15 of 15 numbers reproduced\n")
    edit(runs[0] / "q2_classifier" / "summary.json", "Q2", values=[0.9])
    with pytest.raises(SystemExit) as stop:
        run.command_line(check.main, check.Config, arguments)
    assert stop.value.code == 1 and "not every number was reproduced" in capsys.readouterr().err


def test_publishing_replaces_the_run_and_readmes_cards_and_leaves_all_else(tmp_path):
    fresh, reference, readme = (
        write_run(tmp_path / "outputs"),
        tmp_path / "outputs" / "reference",
        tmp_path / "README.md",
    )
    report.write(fresh)
    for name in ("q1_undo/model.safetensors", "draw.html"):
        (fresh / name).touch()
    (reference / "q1_undo").mkdir(parents=True)
    for name in ("ablation.md", "q1_undo/gone.png"):
        (reference / name).touch()
    readme.write_text("before\n<!-- cards -->\nold\n<!-- end of cards -->\nafter\n", encoding="utf-8")
    check.publish(fresh, reference, readme)
    figures = {f"{step}/{name}.png" for step in report.STEPS for name in FIGURES}
    files = {path.relative_to(reference).as_posix() for path in reference.rglob("*") if path.is_file()}
    assert files == figures | {"ablation.md", "seeds.json", "report.html", "draw.html"}
    block = cards.markdown(json.loads((reference / "seeds.json").read_text("utf-8")), "outputs/reference")
    text = readme.read_text("utf-8")
    assert (
        text == f"before\n<!-- cards -->\n{block}<!-- end of cards -->\nafter\n" and "outputs/reference/q1_auto" in text
    )
    check.publish(fresh, reference, readme)
    assert readme.read_text("utf-8") == text and check.compare(fresh, reference)[1]


@pytest.mark.parametrize(
    ("commits", "code"),
    [([f"{'c' * 40}-dirty"], CODE), (["unknown"], CODE), (["c" * 40, "e" * 40], CODE), (["c" * 40], "other")],
)
def test_only_a_run_of_one_clean_commit_and_the_present_code_is_published(commits, code, tmp_path):
    seeds = {"config": {}, "numbers": [], "git_commit": dict.fromkeys(commits), "numbers_sha256": {code: None}}
    (tmp_path / "seeds.json").write_text(json.dumps(seeds), encoding="utf-8")
    with pytest.raises(run.InputError, match=f"of commit {', '.join(commits)}, expected one of") as error:
        check.publish(tmp_path, tmp_path / "reference", tmp_path / "README.md")
    assert "\n" not in str(error.value) and [path.name for path in tmp_path.iterdir()] == ["seeds.json"]
