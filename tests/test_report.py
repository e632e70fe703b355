"""Tests of common/report.py on small results in the scripts' own format, worked by hand."""

import base64
import html
import io
import itertools
import json
import re
import shutil
from pathlib import Path

import numpy
import pytest
from matplotlib import image
from PIL import Image
from scipy import stats

from common import cards, check, report, results, run
from tests.browser import asked, needs_chromium

INTERVAL = r"[+-]\d+\.\d+ \([+-]\d+\.\d+ to [+-]\d+\.\d+\)"
REGIMES, MODELS = ("plain", "augmented"), ("Q1", "Q3", "Q3 on plain Q2", "PCA-12")
SCRATCH = [[0.80, 0.82], [0.79, 0.85], [0.81, 0.80]]  # by seed, a value for each labelled subset
TUNED = [[0.88, 0.87], [0.86, 0.91], [0.90, 0.84]]
NUMBERS = [  # step, model, measure, split, whether it is a headline, values by seed
    ("q1_autoencoder", "Q1", "mse", "test", True, [0.0087, 0.0091, 0.0089]),
    ("q1_autoencoder", "Q1", "mse", "train", False, [0.0043, 0.0044, 0.0045]),
    ("q1_autoencoder", "mean image", "mse", "test", True, 3 * [0.0673]),
    ("q1_autoencoder", "PCA-12", "mse", "test", False, 3 * [0.0312]),
    ("q1_undo", "undo", "mse", "test", False, 3 * [0.0123]),
    ("q2_classifier", "Q2", "accuracy", "test", True, [0.99, 0.98, 0.9845]),
    ("q2_plain", "plain Q2", "accuracy", "test", False, [0.99, 0.98, 0.9845]),
    ("q3_frozen_decoder", "Q1", "slant_ridge_r2", "test", False, [0.9, 0.91, 0.89]),
    ("q3_frozen_decoder", "Q3", "slant_ridge_r2", "test", True, [0.5, 0.51, 0.49]),
    ("q4_few_shot", "scratch, plain", "accuracy", "test", True, SCRATCH),
    ("q4_few_shot", "scratch, plain", "accuracy", "labelled", False, 3 * [[1.0, 1.0]]),
    ("q4_few_shot", "scratch, plain", "cross_entropy", "test", False, SCRATCH),
    ("q4_few_shot", "nearest neighbour", "accuracy", "test", True, 3 * [0.7134]),
    ("q5_transfer", "fine-tuned, plain", "accuracy", "test", True, TUNED),
    ("q5_transfer", "scratch, plain", "accuracy", "test", False, SCRATCH),
]
FIGURES = ("loss", "classifier", "claim_a", "curve")  # of which three are in cards
CODE = results.numbers_sha256()
PAIRED = {"after": "fine-tuned, plain", "before": "scratch, plain", "measure": "accuracy", "n": 2}
CLAIM = {"claim": "(a) Q1 keeps the slant", "before": "Q1", "after": ["Q3"]}
CLAIM |= {"panels": {"slant_ridge_r2": ["slant,\nR²", "lower"]}}


def write_step(folder: Path, step: str, seed: int, options: dict | None = None, **changes) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    figures = {f"{name}.png": f"The {name} figure of {step}, with <angles> & more." for name in FIGURES}
    for name in figures:
        image.imsave(folder / name, [list(range(1200))] * (len(step + name) + 50 * seed))  # no two are equal
    numbers = []
    for _, model, measure, split, headline, values in (row for row in NUMBERS if row[0] == step):
        numbers += run.numbers(model, {measure: values[seed]}, split, (measure,) if headline else ())
    summary = {"question": f"What does {step} ask?", "answer": [f"{step} keeps < 3 %."], "numbers": numbers}
    mean = float(numpy.subtract(TUNED[seed], SCRATCH[seed]).mean())
    summary |= {
        "paired": [PAIRED | {"mean": mean}] if step == "q5_transfer" else [],
        "figures": figures,
        "seconds": 12.3,
    }
    summary |= {"claims": [CLAIM]} if step == "q3_frozen_decoder" else {}
    options = {"dataset": "mnist", "seed": seed, "epochs": 7, "output_dir": str(folder.parent)} | (options or {})
    config = {"command": f"python {step}.py --epochs 7", "options": options, "device": "cpu", "threads": 2}
    config |= {"versions": {"torch": "2.14.1"}, "data_sha256": "d" * 64, "code_sha256": step, "git_commit": "c" * 40}
    config["numbers_sha256"] = CODE
    (folder / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    (folder / "config.json").write_text(json.dumps(config | changes), encoding="utf-8")


def write_run(output_dir: Path) -> Path:
    for seed, step in itertools.product(range(3), report.STEPS):
        write_step(report.seed_folder(output_dir, seed) / step, step, seed)
    return output_dir


@pytest.fixture
def outputs(tmp_path):
    return write_run(tmp_path / "outputs")


def pooled_accuracy(outputs: Path, step: str, model: str) -> dict:
    numbers = {cards.key(number): number for number in report.pool(report.read(outputs))["numbers"]}
    return cards.summarise(numbers[step, model, "accuracy", "test"])


def test_page_is_self_contained_with_every_section_figure_caption_and_number(outputs):
    page = report.write(outputs).read_text("utf-8")
    sections = {"answers", *report.STEPS, "verdicts", "numbers", "elsewhere", "environment"}
    assert sections == set(re.findall(r'<h2 id="(\w+)"', page))
    contents = re.search("<nav.*?</nav>", page)[0]
    assert sections == set(re.findall('href="#(.*?)"', contents)) and "Q1, undo" in contents
    assert set(re.findall('href="#(.*?)"', page)) <= set(re.findall('id="(.*?)"', page))
    for step in report.STEPS:
        summary = json.loads((outputs / step / "summary.json").read_text("utf-8"))
        assert f">{summary['question']}" in page and f"python {step}.py --epochs 7</code>: 12 s" in page
        assert f"of seed 0 alone</summary>\n<ul><li>{html.escape(summary['answer'][0])}</li>" in page
        for name, caption in summary["figures"].items():
            content, text = base64.b64encode((outputs / step / name).read_bytes()).decode(), html.escape(caption)
            assert f'{content}" alt="{text}"></a>\n<figcaption>{text} Seed 0.' in page
    assert not re.search(r"<script|<link|https?:|url\(|@import|partial|notice\">", page)
    assert "prefers-color-scheme: dark" in page and "@media print" in page
    assert not re.search(r"slant_ridge|cross_entropy|R\^2|\+-", page)
    sections, main = page.split('<h2 id="numbers">')
    for number in map(cards.summarise, report.pool(report.read(outputs))["numbers"]):
        cell = f">{cards.formatted(number)}</td>"
        assert (cell in main or not number["headline"]) and (cell in sections or number["split"] != "test")
    assert "0.0044" not in page  # the error on training images, which is no headline
    tables = page.split("<summary>All numbers")[1:]
    columns = [re.findall("<th>(.*?)</th>", table.split("<tbody>")[0]) for table in tables]
    assert columns[0] == ["", "MSE per pixel"]  # of three models, which are rows: the table is narrower
    assert columns[5] == ["", "scratch, plain", "nearest neighbour"]
    assert '<th scope="row">cross-entropy, nats</th>' in tables[5]


def test_equal_values_show_no_deviation_and_small_ones_never_zero(outputs):
    page = report.write(outputs).read_text("utf-8")
    assert ">0.0673</td>" in page and ">71.34%</td>" in page and not re.search(r"± 0\.0+\b", page)
    assert cards.formatted({"measure": "l1", "mean": 0.1, "std": 2e-5}) == "0.1000 ± 2e-05"


def test_partial_results_name_the_command_that_makes_the_rest(outputs):
    shutil.rmtree(outputs / "q1_undo")
    shutil.rmtree(outputs / "q3_frozen_decoder")
    page = report.write(outputs).read_text("utf-8")
    assert f"Missing: q1_undo (<code>python q1_autoencoder.py --undo --output-dir {outputs}</code>);" in page
    assert f"q3_frozen_decoder (<code>python q3_frozen_decoder.py --output-dir {outputs}</code>)." in page


def test_cards_say_the_verdict_one_number_and_the_figure_worked_by_hand(outputs):
    pooled, page = report.pool(report.read(outputs)), report.write(outputs).read_text("utf-8")
    of = {card["name"]: card for card in cards.cards(pooled)}
    assert list(of) == ["Q1", "(a)", "Q4", "Q5"]  # the others were not measured here
    assert {card["verdict"] for card in of.values()} == {"holds"}
    assert (of["Q1"]["number"], of["Q1"]["what"]) == ("0.0089 ± 0.0002", "MSE per pixel, Q1; PCA-12: 0.0312")
    assert of["(a)"]["number"] == "0.5000 ± 0.0100" and of["(a)"]["what"].endswith(
        "linear, R², Q3; Q1: 0.9000 ± 0.0100"
    )
    low, high = stats.t(2, 0.19, stats.sem([0.19, 0.18, 0.195])).interval(0.95)  # 100 % minus each seed's mean
    mean = numpy.mean([0.19, 0.18, 0.195])
    shift = mean - 0.19
    over = f"{100 * mean:+.2f} ({100 * (low + shift):+.2f} to {100 * (high + shift):+.2f}) points"
    assert of["Q4"]["number"] == over
    assert of["Q4"]["what"] == "accuracy: scratch, plain, labelled minus test images (the latter: 81.17% ± 2.14)"
    sections = re.split('<div class="card ', page.split('<h2 id="q1_autoencoder">')[0])[1:]
    for card, section in zip(of.values(), sections, strict=True):
        for text in (card["says"], card["number"], card["what"], f'<span class="verdict {card["verdict"]}">'):
            assert html.escape(text, quote=False).replace("'", "&#39;") in section or text in section
        small = re.search(r'href="#([\w-]+)"><img src="data:image/webp;base64,([^"]+)"', section)
        assert (small is None) == (card["figure"] == "reconstructions.png")  # which this run has not
        if small:
            assert small[1] == f"{card['step']}-{card['figure'][:-4]}"
            thumbnail = Image.open(io.BytesIO(base64.b64decode(small[2])))
            assert thumbnail.size == (640, 291)  # a figure that is wider than a card is shown whole, on white
            assert thumbnail.getpixel((320, 290)) == (255, 255, 255)
    caption = page.split('alt="The claim_a figure of q3_frozen_decoder')[1].split("</figcaption>")[0]
    assert f"Over 3 seeds: <b>{of['(a)']['number']}</b>" in caption and caption.endswith("<b>holds</b>.")


def test_markdown_is_a_table_of_the_cards_with_figures_and_two_of_a_number_per_cell(outputs):
    text, *tables = cards.markdown(report.pool(report.read(outputs)), "some/where").split("\n\n")
    lines = text.splitlines()
    assert [line.count(" | ") for line in lines] == [4, 0, 4, 4, 4, 4]
    assert tables[0].splitlines() == [  # of this run's models there is no row
        "| | MSE per pixel | L1 per pixel | share of the variance within a digit explained |",
        "|---|---|---|---|",
    ]
    assert tables[1].splitlines() == [
        "| | labels | test accuracy | averaged over warped copies |",
        "|---|---|---|---|",
        "| **Q2**, `q2_classifier.py` | 55,000 | 98.48% ± 0.50 |  |",
        "| **Q4**, plain, `q4_few_shot.py` | 100 | 81.17% ± 2.14 |  |",
        "| **Q5**, Q1's encoder fine-tuned, plain, `q5_transfer.py` | 100 | 87.67% ± 2.58 |  |",
    ]
    image = '[<img src="some/where/q1_autoencoder/reconstructions.png" width="120" alt="Q1">]'
    what = "**holds** | **0.0089 ± 0.0002** MSE per pixel, Q1; PCA-12: 0.0312"
    assert (
        lines[2] == f"| Q1 | {cards.CARDS[0].says} | {what} | {image}(some/where/q1_autoencoder/reconstructions.png) |"
    )


def test_another_code_and_other_commits_are_said_in_a_line_each(outputs):
    other = {"git_commit": "e" * 40, "numbers_sha256": "other"}
    for seed in range(3):
        write_step(report.seed_folder(outputs, seed) / "q1_undo", "q1_undo", seed, **(other if seed else {}))
    notices = re.findall('class="notice">(.*)</p>', report.write(outputs).read_text("utf-8"))
    assert len(notices) == 2 and "is now another" in notices[0]
    assert notices[1].endswith(f"by {'c' * 40}; q1_undo by {'e' * 40}.")
    pooled = report.pool(report.read(outputs))
    assert pooled["numbers_sha256"] == {CODE: list(report.STEPS), "other": ["q1_undo"]}


def test_page_where_one_draws_is_linked_where_it_is(outputs):
    assert "draw.html" not in report.write(outputs).read_text("utf-8")
    (outputs / "draw.html").touch()
    assert '<a href="draw.html">' in report.write(outputs).read_text("utf-8")


def test_nothing_to_report_and_damaged_results_are_the_users_to_mend(outputs, tmp_path):
    with pytest.raises(run.InputError, match=r"got no results.*python reproduce\.py"):
        report.write(tmp_path / "nothing")
    (outputs / "q2_classifier" / "loss.png").unlink()
    with pytest.raises(run.InputError, match=r"q2_classifier.loss\.png.*run its script again"):
        report.write(outputs)
    assert not (outputs / "report.html").exists() and not (outputs / "seeds.json").exists()
    for damage, complaint in (('{"metrics": {}}', "no question"), ('{"question', "Unterminated")):
        (outputs / "q2_classifier" / "summary.json").write_text(damage, encoding="utf-8")
        with pytest.raises(run.InputError, match=rf"q2_classifier.summary\.json: got {complaint}.*remove its folder"):
            report.write(outputs)


def test_numbers_are_pooled_over_the_values_of_all_seeds(outputs):
    seeds = json.loads((report.write(outputs).parent / "seeds.json").read_text("utf-8"))
    assert seeds == report.pool(report.read(outputs)) and seeds["git_commit"] == {"c" * 40: list(report.STEPS)}
    assert seeds["config"]["q2_plain"]["versions"] == {"torch": "2.14.1"}
    assert not re.search(r"\.0*[1-9]\d{6}", (outputs / "seeds.json").read_text("utf-8"))  # six digits are enough
    number = pooled_accuracy(outputs, "q4_few_shot", "scratch, plain")
    assert number["values"] == dict(zip("012", SCRATCH, strict=True)) and number["headline"]
    # 80, 82, 79, 85, 81, 80: mean 487 / 6; squared deviations sum to 39551 - 487^2 / 6
    assert (number["mean"], number["std"]) == pytest.approx((4.87 / 6, ((39551 - 487**2 / 6) / 5) ** 0.5 / 100))
    assert number["n"] == 6 and cards.formatted(number) == "81.17% ± 2.14"


def test_paired_interval_is_students_t_over_the_means_of_the_seeds_and_a_single_one_has_none(outputs):
    differences = numpy.subtract(TUNED, SCRATCH).mean(1)
    low, high = stats.t(2, differences.mean(), stats.sem(differences)).interval(0.95)
    expected = pytest.approx([differences.mean(), low, high, 3])
    entry = report.pool(report.read(outputs))["paired"][0]
    assert [entry[name] for name in ("mean", "low", "high", "n")] == expected
    page = report.write(outputs).read_text("utf-8")
    assert f">{100 * differences.mean():+.2f} ({100 * low:+.2f} to {100 * high:+.2f}) points<" in page
    assert re.search(INTERVAL, page) and "over labelled subsets" not in page
    for seed in (1, 2):
        shutil.rmtree(outputs / f"seed{seed}")
    entry = report.pool(report.read(outputs))["paired"][0]
    assert entry["mean"] == pytest.approx(differences[0]) and (entry["low"], entry["high"], entry["n"]) == (
        None,
        None,
        1,
    )
    page = report.write(outputs).read_text("utf-8")
    assert ">one seed: no verdict</span>" in page and "outputs/reference/report.html has those." in page
    assert f">{100 * differences[0]:+.2f} points<" in page and "deviation over labelled subsets" in page
    assert not re.search(INTERVAL, page) and set(re.findall('class="verdict (.*?)"', page)) == {"one seed"}
    same = report.interval([0.25, 0.25])
    assert same["low"] == same["mean"] == same["high"] == 0.25


def test_an_interval_over_seeds_covers_the_truth_where_one_over_all_subsets_does_not():
    random = numpy.random.default_rng(0)
    truth, experiments, seeds, subsets = 0.5, 1_000, 10, 3
    encoders = random.normal(0, 0.6, (experiments, seeds, 1))  # what a pretrained encoder adds to all its subsets
    differences = truth + encoders + random.normal(0, 0.6, (experiments, seeds, subsets))

    def coverage(of_experiment) -> float:
        intervals = [report.interval(of_experiment(values).tolist()) for values in differences]
        return numpy.mean([entry["low"] <= truth <= entry["high"] for entry in intervals])

    assert 0.93 <= coverage(lambda values: values.mean(1)) <= 0.97
    assert coverage(numpy.ravel) < 0.9  # 30 pairs taken for independent, as before


@pytest.mark.parametrize(
    ("wanted", "q3", "verdict"),
    [
        ("lower", [0.5, 0.6, 0.55], "holds"),
        ("lower", [0.5, 0.6, 0.95], "in direction"),  # on the mean, but an interval that reaches beyond 0
        ("lower", [0.95, 0.9, 0.96], "refuted"),
        ("higher", [0.95, 0.94, 0.96], "holds"),
        ("higher", [0.5, 0.6, 0.55], "refuted"),
        ("about the same or higher", [0.95, 0.94, 0.96], "holds"),
        ("about the same or higher", [0.88, 0.881, 0.879], "holds"),  # 2 % lower
        ("about the same or higher", [0.88, 0.89, 0.83], "in direction"),  # with an interval to more than 5 % lower
        ("about the same or higher", [0.85, 0.851, 0.849], "refuted"),  # 6 % lower
    ],
)
def test_a_claims_verdict_is_worked_by_hand_over_seeds(wanted, q3, verdict, outputs):
    for seed in range(3):
        path = report.seed_folder(outputs, seed) / "q3_frozen_decoder" / "summary.json"
        summary = json.loads(path.read_text("utf-8"))
        values = {"Q1": (0.9, 0.901, 0.899)[seed], "Q3": q3[seed], "control": 0.1}
        summary["numbers"] = [
            entry for name, of in values.items() for entry in run.numbers(name, {"slant_ridge_r2": of}, "test")
        ]
        summary["numbers"] += [
            entry
            for name in ("Q1", "Q3", "control")
            for entry in run.numbers(name, {"l1": 0.1 * (name != "Q1")}, "test")
        ]
        panels = {"slant_ridge_r2": ["slant,\nR²", wanted], "l1": ["L1", "higher"]}
        summary["claims"] = [CLAIM | {"panels": panels, "after": ["Q3", "control"]}]
        path.write_text(json.dumps(summary), encoding="utf-8")
    claim, control = (of for of in report.pool(report.read(outputs))["claims"] if of["claim"].startswith("(a)"))
    slant, error = claim["compared"]
    assert (slant["verdict"], error["verdict"], claim["verdict"]) == (verdict, "holds", verdict)
    assert slant["words"] == "slant, R²" and slant["mean_before"] == pytest.approx(0.9)
    assert slant["mean"] == pytest.approx(numpy.mean(q3) - 0.9, abs=1e-6) and slant["n"] == 3
    assert control["verdict"] == ("holds" if wanted == "lower" else "refuted")
    assert f'<span class="verdict {verdict}">{verdict}</span>' in report.write(outputs).read_text("utf-8")


def test_seeds_are_pooled_once_each_and_only_under_the_same_options_code_data_and_versions(outputs):
    write_step(outputs / "seed7" / "q2_classifier", "q2_classifier", 0)
    write_step(outputs / "seed1" / "q2_classifier", "q2_classifier", 1, {"device": "cuda"}, device="cuda")
    assert pooled_accuracy(outputs, "q2_classifier", "Q2")["values"] == {"0": [0.99], "1": [0.98], "2": [0.9845]}
    assert report.read(outputs)["q2_classifier"][0].folder == outputs / "q2_classifier"
    for change in ({"options": {"epochs": 1}}, {"code_sha256": "0"}, {"data_sha256": "0"}, {"versions": {}}):
        write_step(outputs / "seed1" / "q2_classifier", "q2_classifier", 1, **change)
        assert pooled_accuracy(outputs, "q2_classifier", "Q2")["values"] == {"0": [0.99], "2": [0.9845]}


@needs_chromium
@pytest.mark.parametrize("width", [360, 1280])
def test_page_fits_a_browser_window_asks_for_nothing_outside_and_opens_a_figure_in_full(width, outputs):
    shutil.rmtree(outputs / "q2_plain")  # so that a long command is shown
    probe = """(() => {
        document.querySelectorAll("details").forEach(details => details.open = true)
        const box = element => element.getBoundingClientRect(), images = [...document.images]
        const table = document.querySelector("#verdicts ~ .wide"), first = table.querySelector("tbody th")
        const page = [innerWidth, document.documentElement.scrollWidth,
            images.filter(image => image.naturalWidth).length,
            performance.getEntriesByType("resource").filter(entry => !entry.name.startsWith("data:")).length]
        table.scrollLeft = 1000
        const sticks = [table.scrollLeft, box(first).left - box(table).left]
        location.hash = "#q1_autoencoder-loss"
        const figure = document.querySelector("figure:target"), image = figure.querySelector("img")
        const wide = box(figure).width - document.documentElement.clientWidth
        return [page, sticks, [box(figure).top, wide, image.width, getComputedStyle(figure).overflowX]]
    })()"""
    page, (scrolled, left), open_figure = asked(report.write(outputs), probe, width)
    assert page[0] == width and page[1] <= width and page[2:] == [4 * 6 + 3, 0]  # figures and thumbnails; no request
    assert (scrolled > 0) == (width == 360) and left == 0  # the first column stays
    assert open_figure == [0, 0, 1200, "auto"]


def test_readmes_cards_and_numbers_are_those_of_the_published_run():
    published = json.loads((run.REPOSITORY / "outputs" / "reference" / "seeds.json").read_text("utf-8"))
    readme = (run.REPOSITORY / "README.md").read_text("utf-8")
    block = check.README_CARDS.search(readme)[0]
    assert block == cards.markdown(published, "outputs/reference") and len(cards.cards(published)) == len(cards.CARDS)
    ours = "".join(line for line in readme.splitlines(True) if "as published" not in line and " et al. 20" not in line)
    quoted = set(re.findall(r"\d+\.\d+%? ± \d+\.\d+", ours))
    assert not quoted - {cards.formatted(cards.summarise(number)) for number in published["numbers"]}
    compared = [*published["paired"], *(entry for claim in published["claims"] for entry in claim["compared"])]
    intervals = set(re.findall(INTERVAL, ours))
    assert not intervals - {cards.difference(entry).removesuffix(" points") for entry in compared}
    assert len(quoted) >= 10 and len(intervals) >= 4
    of = {cards.key(number): cards.summarise(number) for number in published["numbers"]}
    kept = {name: of["q3_frozen_decoder", name, "within_digit_variance_explained", "test"] for name in MODELS}
    plain, augmented = (of["q4_few_shot", f"scratch, {regime}", "accuracy", "test"]["mean"] for regime in REGIMES)
    gain = next(entry["mean"] for entry in published["paired"] if entry["after"] == "fine-tuned, plain")
    right = of["q5_transfer", "labels by both latents", "accuracy", "unlabelled"]["mean"]
    words = " ".join(readme.split())
    for phrase in (
        f"measured, over {kept['Q1']['n']} seeds",
        f"gives back {100 * kept['Q1']['mean']:.0f} % of the variance within a digit",
        f"gives back {100 * kept['Q3']['mean']:.0f} %, and",
        f"and {100 * kept['Q3 on plain Q2']['mean']:.0f} % if Q2 trains without",
        f"principal components give {100 * kept['PCA-12']['mean']:.0f} %",
        f"fine-tuned, are worth {100 * gain:.1f} points",
        f"is worth {100 * (augmented - plain):.1f} by itself",
        f"standard deviation of {kept['Q1']['n']} seeds (Q4, Q5: of {3 * kept['Q1']['n']} class-balanced subsets",
        f"and {100 * right:.1f} % of these get the right one",
    ):
        assert phrase in words
    augmented = next(entry for entry in published["paired"] if entry["after"] == "fine-tuned, augmented")
    assert augmented["low"] < 0 < augmented["high"]  # none that can be measured
    assert {number["measure"] for number in published["numbers"]} <= cards.WORDS.keys()


def test_readme_is_short_what_it_shows_is_there_and_the_published_run_is_small():
    readme = (run.REPOSITORY / "README.md").read_text("utf-8")
    shown = re.findall(r'(?:!\[[^]]*\]\(|src=")([^)"]+)', readme)
    assert shown and not [path for path in shown if not (run.REPOSITORY / path).exists()]
    files = (run.REPOSITORY / "outputs" / "reference").rglob("*")
    assert sum(path.stat().st_size for path in files if path.is_file()) < 6e6
    assert len(readme.splitlines()) <= 150
