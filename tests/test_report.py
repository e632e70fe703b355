"""Tests of common/report.py on the published run, and of README's numbers against it."""

import json
import re
import shutil
import statistics
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from scipy import stats

from common import report

ROOT = Path(__file__).resolve().parents[1]
REFERENCE = ROOT / "outputs" / "reference"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
CHROMIUM_OPTIONS = ["--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files"]


@pytest.fixture
def outputs(tmp_path):
    return Path(shutil.copytree(REFERENCE, tmp_path / "outputs"))


class Page(HTMLParser):
    def __init__(self, text: str):
        super().__init__()
        self.tags, self.text = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, found):
        self.text.append(found)

    def all(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.tags if name == tag]


def test_page_is_self_contained_and_has_every_section_figure_and_number(outputs):
    text = report.write(outputs).read_text("utf-8")
    page = Page(text)
    ids = {attributes.get("id") for _, attributes in page.tags}
    assert {"results", "q1", "q2", "q3", "q4", "q5", "elsewhere", "environment"} <= ids
    expected = sum(len(question.figures) for question in report.QUESTIONS)
    absent = [name for question in report.QUESTIONS for name in question.figures if not (outputs / name).exists()]
    images = page.all("img")
    assert len(images) == expected - len(absent) and set(absent) <= {"q5_transfer/curve.png"}
    assert all(image["src"].startswith("data:image/png;base64,") and len(image["alt"]) > 20 for image in images)
    assert not page.all("script") and not page.all("link")
    assert not re.search(r"https?://", re.sub(r"base64,[^\"]*", "", text))
    assert "partial" not in text
    found = report.numbers(outputs)
    for question in report.QUESTIONS:
        for name in question.rows.values():
            assert report.worded(found[name]) in text, name
    for script in ("q3_frozen_decoder", "q4_few_shot", "q5_transfer"):
        for verdict in json.loads((outputs / script / "summary.json").read_text("utf-8"))["verdicts"]:
            assert verdict in "".join(page.text)


def test_partial_results_give_a_partial_report_with_the_commands(outputs):
    shutil.rmtree(outputs / "q3_frozen_decoder")
    shutil.rmtree(outputs / "q1_autoencoder-undo")
    text = report.write(outputs).read_text("utf-8")
    assert "partial" in text and "python q3_frozen_decoder.py" in text and "python q1_autoencoder.py --undo" in text
    with pytest.raises(FileNotFoundError, match=r"python reproduce\.py"):
        report.write(outputs / "nothing")


def test_numbers_are_over_seeds_and_of_few_shot_over_all_draws(outputs):
    found = report.numbers(outputs)
    folders = report.seed_folders(outputs)
    summaries = [json.loads((folder / "q2_classifier" / "summary.json").read_text("utf-8")) for folder in folders]
    values = [summary["metrics"]["test/accuracy"]["mean"] for summary in summaries]
    entry = found["q2_classifier/test/accuracy"]
    assert entry["n"] == len(folders) and entry["mean"] == pytest.approx(statistics.mean(values))
    summaries = [json.loads((folder / "q4_few_shot" / "summary.json").read_text("utf-8")) for folder in folders]
    drawn = [
        summary["draws"]["scratch/plain"][f"draw {number}"]["test"]["accuracy"]
        for summary in summaries
        for number in range(1, 6)
    ]
    entry = found["q4_few_shot/scratch/plain/test/accuracy"]
    assert entry["n"] == 5 * len(folders) and entry["mean"] == pytest.approx(statistics.mean(drawn))
    assert entry["std"] == pytest.approx(statistics.stdev(drawn))


def test_compare_finds_what_was_not_reproduced(outputs):
    text, reproduced = report.compare(outputs, REFERENCE)
    assert reproduced and "NOT" not in text
    path = outputs / "q2_classifier" / "summary.json"
    summary = json.loads(path.read_text("utf-8"))
    summary["metrics"]["test/accuracy"]["mean"] -= 0.02
    path.write_text(json.dumps(summary), encoding="utf-8")
    text, reproduced = report.compare(outputs, REFERENCE)
    assert not reproduced
    assert [line.split()[0] for line in text.splitlines() if "NOT" in line] == ["q2_classifier/test/accuracy"]


def test_seeds_of_other_options_or_code_are_not_pooled(outputs):
    shutil.copytree(outputs / "q2_classifier", outputs / "seed7" / "q2_classifier")
    before = report.numbers(outputs)["q2_classifier/test/accuracy"]["n"]
    path = outputs / "seed7" / "q2_classifier" / "config.json"
    config = json.loads(path.read_text("utf-8"))
    config["options"] |= {"seed": 7, "epochs": 1}
    path.write_text(json.dumps(config), encoding="utf-8")
    assert report.numbers(outputs)["q2_classifier/test/accuracy"]["n"] == before - 1


def test_no_reference_is_said(outputs, tmp_path):
    with pytest.raises(FileNotFoundError, match="no published run"):
        report.compare(outputs, tmp_path)


def test_words():
    assert report.worded({"mean": 0.97456, "std": 0.0055, "unit": "accuracy (fraction)"}) == "97.46% ± 0.55"
    assert report.worded({"mean": 0.00941, "std": None, "unit": "MSE per pixel"}) == "0.0094"


@pytest.mark.skipif(not CHROMIUM, reason="no chromium on this machine")
@pytest.mark.parametrize("width", [360, 1280])
def test_page_in_a_browser(outputs, width):
    text = report.write(outputs).read_text("utf-8")
    probe = """<script>addEventListener("load", () => { parent.document.title = JSON.stringify({
        wide: document.documentElement.scrollWidth, inner: innerWidth,
        broken: [...document.images].filter(image => !image.naturalWidth).length,
        images: document.images.length, outside: performance.getEntriesByType("resource").filter(
        entry => entry.name.startsWith("http")).length}) })</script></body>"""
    (outputs / "probed.html").write_text(text.replace("</body>", probe), encoding="utf-8")
    frame = f"<!doctype html><meta charset=utf-8><iframe src=probed.html width={width} height=800></iframe>"
    (outputs / "frame.html").write_text(frame, encoding="utf-8")
    command = [CHROMIUM, *CHROMIUM_OPTIONS, "--enable-logging=stderr", f"--window-size={max(width, 600)},900"]
    command += ["--virtual-time-budget=20000", "--dump-dom", (outputs / "frame.html").as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "CONSOLE" not in done.stderr, done.stderr
    found = json.loads(re.search(r"<title>(.*?)</title>", done.stdout)[1].replace("&quot;", '"'))
    assert found["inner"] == width and found["wide"] <= width
    assert found["images"] > 20 and not found["broken"] and not found["outside"]


def test_every_number_of_readmes_table_is_one_of_the_published_run():
    readme = (ROOT / "README.md").read_text("utf-8")
    table = [line for line in readme.splitlines() if line.startswith("| Q")]
    assert len(table) == 5
    published = {report.worded(entry) for entry in report.numbers(REFERENCE).values()}
    quoted = [number for line in table for number in re.findall(r"\d+\.\d+%? ± \d+\.\d+", line)]
    assert len(quoted) >= 12
    assert not set(quoted) - published


def test_readmes_intervals_are_those_of_the_published_run():
    readme = (ROOT / "README.md").read_text("utf-8")
    found = report.differences(REFERENCE)
    for pair in ("fine-tuned/plain - scratch/plain", "fine-tuned/augmented - scratch/augmented"):
        mean, low, high = (100 * found[pair][name] for name in ("mean", "low", "high"))
        assert f"{mean:+.2f}" in readme and f"{low:.2f} to {high:.2f}" in readme
    # Student's t by hand, from the draws of the summaries
    paired = []
    for folder in report.seed_folders(REFERENCE):
        draws = json.loads((folder / "q5_transfer" / "summary.json").read_text("utf-8"))["draws"]
        for number in range(1, 6):
            after, before = (draws[f"{start}/plain"][f"draw {number}"]["test"] for start in ("fine-tuned", "scratch"))
            paired.append(after["accuracy"] - before["accuracy"])
    half = stats.t.ppf(0.975, len(paired) - 1) * statistics.stdev(paired) / len(paired) ** 0.5
    entry = found["fine-tuned/plain - scratch/plain"]
    assert entry["n"] == len(paired) and entry["mean"] == pytest.approx(statistics.mean(paired))
    assert entry["high"] - entry["mean"] == pytest.approx(half)


def test_readme_is_short_enough():
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= 200
