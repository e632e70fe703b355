"""Tests of common/report/pages.py: both pages, of results as the scripts leave them."""

import base64
import re
import shutil

import pandas
import pytest

from common import run
from common.figures import style
from common.report import pages, verdicts
from tests.browser import ask, needs_chromium
from tests.report.written import seal, write_step

Q1 = "q1_autoencoder"
STUDY = "studies/label_curve"  # any script


@pytest.fixture
def outputs(trained, tmp_path):
    """The five questions, of two seeds."""
    shutil.copytree(trained, tmp_path / "outputs")
    for folder in sorted(trained.glob("q*")):
        copied = tmp_path / "outputs" / "seed1" / folder.name
        shutil.copytree(folder, copied)
        config = pages.results.read_config(copied)
        seal(copied, config | {"options": config["options"] | {"seed": 1}})
    return tmp_path / "outputs"


def write_figure(path, title, caption):
    with style.figure(path, 1.0, title, caption) as figure:
        figure.subplots()


def test_report_shows_every_figure_whole_and_asks_for_nothing_outside(outputs):
    page = pages.write(outputs).read_text("utf-8")
    figures = sorted(outputs.glob("q*/*.png"))
    assert len(figures) > 10
    for path in figures:
        assert base64.b64encode(path.read_bytes()).decode() in page
    assert page.count("<img") == len(figures)
    assert not re.search(r"<script|<link|https?:|url\(|@import", page)
    anchors = set(re.findall('href="#(.*?)"', page))
    assert anchors <= set(re.findall('id="(.*?)"', page))


def test_markdown_links_every_figure_and_has_whole_tables(outputs):
    pages.write(outputs)
    text = (outputs / "report.md").read_text("utf-8")
    linked = re.findall(r"\]\((q.*?\.png)\)", text)
    assert {outputs / name for name in linked} == set(outputs.glob("q*/*.png"))
    tables = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    assert len(tables) == 2 + 5 + 1  # claims and controls, the questions, the environment
    for table in tables:
        lines = table.splitlines()
        assert {line.count("|") for line in lines} == {lines[0].count("|")}, table
        assert set(lines[1]) == {"|", "-"}


def test_titles_and_captions_come_from_the_figures_and_are_escaped(tmp_path):
    folder = write_step(tmp_path, Q1, 0, [("Q1", "", "test", "l1", 0.02)])
    write_figure(folder / "loss.png", "Loss < 1 & falling", 'It "falls" (seed 0)')
    write_figure(folder / "reconstructions.png", "Digits", "The first ones")
    write_figure(folder / "new.png", "Something new", "In between")
    seal(folder)
    page = pages.write(tmp_path).read_text("utf-8")
    assert re.findall('alt="(.*?)"', page) == [
        "Digits",
        "Something new",
        "Loss &lt; 1 &amp; falling",
    ]
    assert "<figcaption>It &#34;falls&#34; (seed 0)</figcaption>" in page
    assert "Q1: what does an encoder keep" in page  # the script's docstring


def test_a_damaged_figure_that_no_script_wrote_is_not_shown(tmp_path):
    folder = write_step(tmp_path, Q1, 0, [("Q1", "", "test", "l1", 0.02)])
    write_figure(folder / "loss.png", "Loss", "It falls")
    seal(folder)
    (folder / "mine.png").write_bytes((folder / "loss.png").read_bytes()[:999])
    (folder / "folder.png").mkdir()
    assert pages.write(tmp_path).read_text("utf-8").count("<img") == 1
    assert sorted(path.name for path in tmp_path.iterdir() if path.name[0] == ".") == []


def test_studies_come_after_the_questions(tmp_path):
    write_step(tmp_path, STUDY, 0, [("scratch", "", "test", "accuracy", 0.5)])
    write_step(tmp_path, Q1, 0, [("Q1", "", "test", "l1", 0.02)])
    page = pages.write(tmp_path).read_text("utf-8")
    assert page.index('id="q1_autoencoder"') < page.index('id="studies-label_curve"')


def test_each_section_says_over_what_it_was_measured(tmp_path):
    write_step(tmp_path, Q1, 0, [("Q1", "", "test", "l1", 0.02)])
    write_step(tmp_path, Q1, 1, [("Q1", "", "test", "l1", 0.03)])
    write_step(tmp_path, STUDY, 0, [("scratch", "", "test", "accuracy", 0.5)])
    write_step(tmp_path, "studies/other_data", 0, [("mnist, Q1", "", "test", "l1", 0.02)])
    page = pages.write(tmp_path).read_text("utf-8")
    said = re.findall(r"</code>, (.*?)</p>", page)
    assert said == ["2 seeds", "1 seed", "means over the seeds of each data set"]


def test_results_csv_holds_every_number_of_every_seed(outputs):
    pages.write(outputs)
    written = pandas.read_csv(outputs / "results.csv", keep_default_na=False)
    assert list(written) == ["step", "model", "subset", "split", "measure", "seed", "value"]
    for seed, folder in ((0, outputs), (1, outputs / "seed1")):
        for path in folder.glob("q*/numbers.csv"):
            numbers = pandas.read_csv(path, keep_default_na=False)
            of_step = written[(written.step == path.parent.name) & (written.seed == seed)]
            assert list(of_step.measure) == list(numbers.measure)
            assert list(of_step.value) == pytest.approx(list(numbers.value), rel=1e-5)


def test_every_claim_stands_in_both_pages_with_its_verdict(outputs):
    page = pages.write(outputs).read_text("utf-8")
    markdown = (outputs / "report.md").read_text("utf-8")
    judged = verdicts.judge_all(pages.tables.read(outputs).numbers)
    shown = re.findall('class="verdict (.*?)"', page)
    assert shown == [claim.verdict for claim in judged]
    for claim in judged:
        for comparison in claim.primary:
            assert comparison.text() in page
            assert comparison.text() in markdown


def test_what_is_missing_left_out_or_out_of_date_is_said(tmp_path):
    rows = [("Q1", "", "test", "l1", 0.02)]
    write_step(tmp_path, Q1, 0, rows, code_sha256="other")
    write_step(tmp_path, Q1, 1, rows, data_sha256="other", code_sha256="other")
    page = pages.write(tmp_path).read_text("utf-8")
    missing, left_out, changed = re.findall('class="notice">(.*?)</p>', page, re.DOTALL)
    assert "q2_classifier.py" in missing and Q1 not in missing and "--output-dir" in missing
    assert f"seed1/{Q1}" in left_out
    assert Q1 in changed


def test_no_results_leave_no_page(tmp_path):
    with pytest.raises(run.InputError):
        pages.write(tmp_path)
    assert not list(tmp_path.iterdir())


@needs_chromium
@pytest.mark.parametrize("width", [360, 1280])
def test_report_fits_a_window_and_opens_a_figure_in_it(width, outputs):
    question = """(() => {
        document.querySelectorAll("details").forEach(details => details.open = true)
        const root = document.documentElement, box = element => element.getBoundingClientRect()
        const tables = [...document.querySelectorAll(".wide")]
        const cut = tables.filter(table => table.scrollWidth > table.clientWidth)
        scrollTo(0, 3000)
        const contents = box(document.querySelector("nav")).top
        location.hash = "#q3_frozen_decoder-digits"
        const image = document.querySelector("figure:target img")
        return {
            width: root.scrollWidth,
            height: root.scrollHeight,
            mains: document.querySelectorAll("main").length,
            unreachable: cut.filter(table => table.tabIndex !== 0).length,
            contents,
            opened: [box(image).right, box(image).bottom],
        }
    })()"""
    found = ask(pages.write(outputs), question, (width, 900))
    assert found["width"] <= width
    assert found["mains"] == 1
    assert found["unreachable"] == 0
    assert found["contents"] == 0  # they stay in view
    if width == 1280:
        assert found["height"] < 18_000
        assert found["opened"][0] <= 1280 and found["opened"][1] <= 900
