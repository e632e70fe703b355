"""Tests of common/over_seeds.py, and that report and published run have its figures in the place of one seed's."""

import base64
import json

import pytest

from common import check, over_seeds, plots, report
from tests.test_report import write_run

CURVE = {"scratch": (0.4, 0.8, 0.9), "frozen": (0.6, 0.85, 0.88), "fine-tuned": (0.5, 0.84, 0.95)}  # at 1, 10, 100


def values(accuracy: float) -> dict[str, list[float]]:
    """Return three seeds' accuracies, of two subsets each."""
    return {seed: [accuracy - 0.01, accuracy + 0.01] for seed in "012"}


@pytest.fixture
def pooled():
    accuracies = {f"{start}, plain": of[1] for start, of in CURVE.items()}
    accuracies |= {"scratch, augmented": 0.96, "fine-tuned, augmented": 0.97, "spread labels, augmented": 0.98}
    accuracies["scratch, plain, first images"] = 0.7
    for start, (one, _, hundred) in CURVE.items():
        accuracies |= {f"{start}, 1 per digit": one, f"{start}, 100 per digit": hundred}
    numbers = [
        {"step": step, "model": model, "measure": "accuracy", "split": "test", "values": values(accuracy)}
        for step in ("q4_few_shot", "q5_transfer")
        for model, accuracy in accuracies.items()
        if step == "q5_transfer" or (model.startswith("scratch, ") and not model.endswith("digit"))
    ]
    return {"numbers": numbers, "config": {"q4_few_shot": {"options": {"shots": 10}}}}


def test_all_values_of_all_seeds_are_drawn_and_what_the_labels_are_worth_is_by_their_means(
    pooled, tmp_path, monkeypatch
):
    dots, curves = [], []
    monkeypatch.setattr(plots, "plot_dots", lambda path, _, outcomes, *rows: dots.append((outcomes, rows)))
    monkeypatch.setattr(plots, "plot_label_curve", lambda *given: curves.append(given[2:]))
    captions = over_seeds.draw(pooled, tmp_path / "a")
    assert captions["q4_few_shot"]["comparison.png"].startswith("Q4: from scratch 80.0%, with augmentation 96.0% (3 se")
    title = "Scratch 80.0%, augmented 96.0%; fine-tuned 84.0%, augmented 97.0%; spread 98.0% (3 seeds). "
    assert captions["q5_transfer"]["comparison.png"].startswith(title)
    assert [rows for _, rows in dots] == [
        ("scratch, plain", "scratch, augmented"),
        ("scratch, plain", "frozen, plain", "fine-tuned, plain", "scratch, augmented", "fine-tuned, augmented",
         "spread labels, augmented"),
    ]  # fmt: skip
    shown = [of.metrics["test"]["accuracy"] for of in dots[0][0]["scratch, plain"].values()]
    assert sorted(shown) == pytest.approx([0.7, 0.79, 0.79, 0.79, 0.81, 0.81, 0.81])
    ((shots, series, (few, accuracy, equal)),) = curves
    assert shots == [1, 10, 100] and {name: len(of) for name, of in series.items()} == dict.fromkeys(CURVE, 3)
    assert [sum(of) / 6 for of in series["frozen"]] == pytest.approx(CURVE["frozen"])
    # 0.85, as frozen has it with 10, lies half way from 0.8 to 0.9: of the logarithm, between 10 and 100
    assert (few, accuracy, equal) == pytest.approx((10, 0.85, 10**1.5))
    start = "10 labels per digit with Q1's encoder, frozen, are worth 32 from scratch (3 seeds). "
    assert captions["q5_transfer"]["curve.png"].startswith(start)


def test_what_was_not_measured_is_not_drawn(pooled, tmp_path):
    pooled["numbers"] = [number for number in pooled["numbers"] if "spread" not in number["model"]]
    assert [*over_seeds.draw(pooled, tmp_path / "a")] == ["q4_few_shot"]
    files = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.png")}
    assert files == {"a/q4_few_shot/comparison.png"}


def test_report_and_published_run_have_them_in_the_place_of_one_seeds_and_one_seed_has_none(tmp_path, monkeypatch):
    outputs, reference, readme = write_run(tmp_path / "outputs"), tmp_path / "reference", tmp_path / "README.md"

    def draw(pooled: dict, folder) -> dict[str, dict[str, str]]:
        (folder / "q5_transfer").mkdir(parents=True)
        (folder / "q5_transfer" / "curve.png").write_bytes((outputs / "q1_undo" / "loss.png").read_bytes())
        return {"q5_transfer": {"curve.png": "Worth 23 (3 seeds)"}}

    monkeypatch.setattr(over_seeds, "draw", draw)
    ours, before = ((outputs / step).read_bytes() for step in ("q1_undo/loss.png", "q5_transfer/curve.png"))
    page = report.write(outputs).read_text("utf-8")
    place = '<a href="#q5_transfer-curve"><img src="data:image/png;base64,'
    in_page = [place + base64.b64encode(content).decode() for content in (ours, before)]
    assert f'{in_page[0]}" alt="Worth 23 (3 seeds)">' in page and in_page[1] not in page
    assert (outputs / "q5_transfer" / "curve.png").read_bytes() == before  # a result is left as it is
    readme.write_text("<!-- cards -->\n<!-- end of cards -->\n", encoding="utf-8")
    check.publish(outputs, reference, readme)
    assert (reference / "q5_transfer" / "curve.png").read_bytes() == ours
    assert json.loads((reference / "seeds.json").read_text("utf-8"))["numbers"]
    for seed in (1, 2):
        (outputs / f"seed{seed}").rename(tmp_path / f"seed{seed}")
    page = report.write(outputs).read_text("utf-8")
    assert in_page[1] in page and "Worth 23" not in page and not (outputs / report.OVER_SEEDS).exists()
