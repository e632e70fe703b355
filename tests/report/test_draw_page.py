"""Tests of common/report/draw_page.py: its script, in headless Chromium, against PyTorch."""

import base64
import itertools
import json
import math
import shutil

import numpy
import pandas
import pytest
import torch
from torch import nn

from common import checkpoint, data, run
from common.models import Autoencoder, Classifier, Decoder, Encoder, Head, pixels
from common.report import draw_page
from common.report.pages import render
from tests.browser import ask, needs_chromium
from tests.report.written import seal

SCALE = 16  # pixels of the drawing to one of an image


def random_models(latent_dim: int = 12) -> draw_page.Models:
    """Build the networks, with biases of another value each."""
    generator = torch.Generator().manual_seed(0)

    def encoder():
        return Encoder(latent_dim, generator=generator)

    def head():
        return Head(latent_dim, generator=generator)

    q1 = Autoencoder(encoder(), Decoder(latent_dim, generator=generator))
    q2 = Classifier(encoder(), head())
    models = draw_page.Models(
        q1=q1,
        q2=q2,
        q3=Autoencoder(q2.encoder, Decoder(latent_dim, generator=generator)),
        scratch=Classifier(encoder(), head()),
        fine_tuned=Classifier(encoder(), head()),
        frozen=Classifier(q1.encoder, head()),
    )
    for network in models.networks().values():
        for name, parameter in network.named_parameters():
            if name.endswith("bias"):
                nn.init.normal_(parameter, std=0.2, generator=generator)
    return models


def round_weights(models: draw_page.Models) -> None:
    """Round the weights to those of the page."""
    for network in models.networks().values():
        for parameter in network.parameters():
            parameter.data = parameter.data.half().float()


@pytest.fixture(scope="module")
def test_split(data_dir):
    return data.load("own", data_dir).test


def write_page(path, models, test):
    texts = ["Q1_slant", "Q1_thickness", "Q3_slant", "Q3_thickness"]
    texts += ["Q2", "scratch", "fine_tuned", "frozen", "calibration"]
    content = {
        "page": draw_page.contents(models, test),
        "measured": dict.fromkeys(texts, "0.5"),
        "options": {"seed": 0, "dataset": "own"},
        "labels": 100,
        "seeds": 1,
    }
    path.write_text(render("draw_page.html", content), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def page(tmp_path_factory, test_split):
    return write_page(tmp_path_factory.mktemp("page") / "draw.html", random_models(), test_split)


def as_javascript(values: torch.Tensor | numpy.ndarray) -> str:
    content = numpy.ascontiguousarray(values, numpy.float32).tobytes()
    return f"new Float32Array(bytes('{base64.b64encode(content).decode()}').buffer)"


@needs_chromium
@pytest.mark.parametrize("latent_dim", [12, 5])
def test_networks_of_the_page_answer_as_pytorchs(latent_dim, test_split, tmp_path):
    models = random_models(latent_dim)
    path = write_page(tmp_path / "draw.html", models, test_split)
    images = test_split.images[:100]
    names = ["latents", "kept", "probabilities", "q1", "q3", "scratch", "fine_tuned", "frozen"]
    question = f"""(images => Array.from({{length: 100}}, (_, i) => {{
        const all = answers(images.subarray(784 * i, 784 * (i + 1)))
        return {json.dumps(names)}.map(name => Array.from(all[name]))
    }}))({as_javascript(images)})"""
    answered = ask(path, question)

    exact = answers_of_pytorch(models, images)
    round_weights(models)
    rounded = answers_of_pytorch(models, images)
    for position, name in enumerate(names):
        found = torch.tensor([of_image[position] for of_image in answered])
        assert exact[name].std(0).mean() > 3e-3, "images that all get one answer test nothing"
        assert (found - rounded[name]).abs().max() < 1e-5, name
        assert (found - exact[name]).abs().max() < 2e-3, name  # float16 keeps three digits


def answers_of_pytorch(models: draw_page.Models, images: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return what the page's function ``answers`` is to return, a row for each image."""
    with torch.inference_mode():
        return {
            "latents": models.q1.encoder(images),
            "kept": models.q2.encoder(images),
            "probabilities": models.q2(images).softmax(1),
            "q1": pixels(models.q1(images)).flatten(1),
            "q3": pixels(models.q3(images)).flatten(1),
            "scratch": models.scratch(images).softmax(1),
            "fine_tuned": models.fine_tuned(images).softmax(1),
            "frozen": models.frozen(images).softmax(1),
        }


def draw_4(x: float, y: float, scale: float = 1.0) -> str:
    """Return JavaScript that draws a 4 with a pointer, its corner at (x, y) of the drawing."""
    lines = [[(60, 0), (0, 110), (120, 110)], [(96, 20), (96, 200)]]
    points = [[(x + scale * a, y + scale * b) for a, b in line] for line in lines]
    return f"""(at("clear").onclick(), at("pen").value = {24 * scale},
    {json.dumps(points)}.forEach(line => line.forEach(([x, y], i) => {{
        const box = pad.getBoundingClientRect()
        const place = {{
            clientX: box.left + x * box.width / PAD, clientY: box.top + y * box.height / PAD,
            isPrimary: true, bubbles: true,
        }}
        pad.dispatchEvent(new PointerEvent(i ? "pointermove" : "pointerdown", place))
        if (i === line.length - 1) pad.dispatchEvent(new PointerEvent("pointerup", place))
    }})), Array.from(image))"""


@needs_chromium
def test_a_drawing_becomes_the_same_centred_image_wherever_and_however_large_it_is(page):
    drawings = [draw_4(150, 120), draw_4(20, 210), draw_4(300, 40), draw_4(100, 20, 2)]
    one, *others = ask(page, f"[{', '.join(drawings)}]")
    image = numpy.reshape(one, (28, 28))
    rows, columns = numpy.nonzero(image)
    assert numpy.ptp(rows) + 1 == 20
    assert 13 <= numpy.ptp(columns) + 1 <= 15  # 144 by 224 with the pen
    centre = (numpy.indices((28, 28)) + 0.5).reshape(2, -1) @ image.ravel() / image.sum()
    assert centre.min() >= 14 and centre.max() < 15
    assert image.max() == pytest.approx(1)
    for other, tolerance in zip(others, (1e-3, 1e-3, 0.2), strict=True):  # large ones: finer edges
        assert numpy.abs(numpy.subtract(other, one)).max() < tolerance


@needs_chromium
def test_an_image_as_mnists_comes_back_as_it_was_from_wherever_it_is_drawn(page):
    random = numpy.random.default_rng(0)
    box = random.random((20, 13)) * (random.random((20, 13)) < 0.5)
    box[[0, -1]] = box[:, [0, -1]] = 0.5  # ink up to the box's edges
    top = math.ceil(14 - (numpy.arange(20) + 0.5) @ box.sum(1) / box.sum())
    left = math.ceil(14 - (numpy.arange(13) + 0.5) @ box.sum(0) / box.sum())
    image = numpy.zeros((28, 28))
    image[top : top + 20, left : left + 13] = box

    one_corner = numpy.roll(image, (-top, -left), (0, 1))
    other_corner = numpy.roll(image, (8 - top, 15 - left), (0, 1))
    drawn = [
        numpy.kron(corner, numpy.ones((SCALE, SCALE))) for corner in (one_corner, other_corner)
    ]
    half_size = numpy.zeros((28 * SCALE, 28 * SCALE))
    half_size[5 : 5 + 14 * SCALE, 9 : 9 + 14 * SCALE] = drawn[0][::2, ::2]
    drawn.append(half_size)
    parts = [f"Array.from(normalised({as_javascript(ink)}, PAD))" for ink in drawn]
    *images, nothing = ask(page, f"[{', '.join(parts)}, normalised(new Float32Array(16), 4)]")
    assert nothing is None
    for found in images:
        assert numpy.abs(numpy.reshape(found, (28, 28)) - image).max() < 1e-5


@needs_chromium
def test_pen_and_slant_redraw_what_is_there_and_undo_takes_a_stroke_back(page):
    question = f"""(() => {{
        const states = [], note = () => states.push(Array.from(image ?? []))
        const set = (name, value) => {{
            at(name).value = value
            at(name).dispatchEvent(new Event("input"))
            note()
        }}
        note()  // an example to begin with
        ;{draw_4(150, 120)}
        note()
        set("pen", 60)
        set("slant", 0.5)
        set("slant", 0)
        set("pen", 24)
        at("undo").click()
        note()
        at("undo").click()
        note()
        return states
    }})()"""
    example, drawn, thick, slanted, upright, thin, one_stroke, nothing = ask(page, question)
    assert sum(example) > 20 and example != drawn
    assert sum(thick) > 1.5 * sum(drawn)
    assert slope_of(slanted) > slope_of(thick) + 0.2
    assert upright == thick and thin == drawn
    assert sum(one_stroke) > 20 and one_stroke != drawn
    assert nothing == []


def slope_of(image) -> float:
    """Return how many pixels ink moves to the right for each pixel upwards."""
    ink = numpy.reshape(image, (28, 28))
    y, x = numpy.indices((28, 28))
    x_mean, y_mean = (ink * x).sum() / ink.sum(), (ink * y).sum() / ink.sum()
    covariance = (ink * (x - x_mean) * (y_mean - y)).sum()
    return covariance / (ink * (y - y_mean) ** 2).sum()


@needs_chromium
def test_a_drawing_is_kept_in_the_pages_address(page):
    question = f"""(() => {{
        {draw_4(150, 120)}
        at("slant").value = 0.3
        redraw()
        return [address(), Array.from(image)]
    }})()"""
    address, drawn = ask(page, question)
    assert len(address) < 100  # a short link
    damaged = ["#", "#42", "#42_0_-_1a", "#42_0_-_1a2b3", "#42_0_-_1A2B", "#<script>"]
    restored, again, *others = ask(
        page,
        f"""[Array.from(image), address(), ...{json.dumps(damaged)}.map(hash => {{
            restore(hash)
            return address()
        }})]""",
        fragment=address,
    )
    assert numpy.abs(numpy.subtract(restored, drawn)).max() < 0.1  # points are rounded
    assert again == address
    assert others == len(damaged) * [address]  # these change nothing


@needs_chromium
def test_sliders_test_images_and_walk_show_what_the_decoders_make_of_them(page, test_split):
    question = """(shown => {
        document.querySelectorAll("#rows button")[3].click()
        const result = [shown("seen"), sliders.map(slider => Number(slider.value))]
        sliders[2].value = 0.5
        sliders[2].dispatchEvent(new Event("input"))
        result.push(shown("tuned"))
        at("from").querySelector("input[value='1']").click()
        at("to").querySelector("input[value='8']").click()
        at("step").value = 0.25
        at("step").dispatchEvent(new Event("input"))
        return [...result, sliders[2].value, ...["walk-q1", "walk-q3", "strip-q3"].map(shown)]
    })(name => {
        const {data} = at(name).getContext("2d").getImageData(0, 0, at(name).width, 28)
        return Array.from({length: data.length / 4}, (_, i) => data[4 * i + 3] / 255)
    })"""
    seen, latents, tuned, moved, walk_q1, walk_q3, strip = ask(page, question)
    first = test_split.images[data.first_of_each_digit(test_split.labels)[:, 0]]
    models = random_models()
    low, _, high = torch.tensor(draw_page.contents(models, test_split)["sliders"]).T
    round_weights(models)
    with torch.inference_mode():
        codes = models.q1.encoder(first[3:4])
        step = ((high - low) / 200).max()
        assert numpy.abs(codes[0].clamp(low, high).numpy() - latents).max() < 0.5 * step + 1e-3
        codes[0, 2] = float(moved)
        pictures = [models.q1.decoder(codes)]
        for model, share in ((models.q1, 0.25), (models.q3, 0.25), (models.q3, 0.9)):
            one, eight = model.encoder(first[[1, 8]])
            pictures.append(model.decoder((one + share * (eight - one))[None]))
    frame = numpy.reshape(strip, (28, 11, 28))[:, 9].ravel()  # the last but one of 11
    for shown, logits in zip((tuned, walk_q1, walk_q3, frame), pictures, strict=True):
        expected = pixels(logits).flatten().numpy()
        assert numpy.abs(shown - expected).max() < 1e-3 + 0.5 / 255
    assert numpy.abs(seen - first[3].flatten().numpy()).max() < 1e-3


@needs_chromium
@pytest.mark.parametrize("size", [(360, 740), (1280, 900)])
def test_all_that_answers_is_in_the_window_and_stays_where_it_is_while_one_draws(size, page):
    # A request to anything outside would be refused, and the console say so.
    needed = ["pad", "pen", "slant", "undo", "clear", "copy"]
    needed += ["seen", "answer", "bars", "q1", "q3", "few-scratch", "few-fine_tuned", "few-frozen"]
    question = f"""(() => {{
        const boxes = () => {json.dumps(needed)}.map(name => {{
            const {{left, top, right, bottom}} = at(name).getBoundingClientRect()
            return [left, top, right, bottom]
        }})
        const before = boxes()
        const root = document.documentElement
        const height = root.scrollHeight
        ;{draw_4(150, 120)}
        return {{
            before,
            after: boxes(),
            width: root.scrollWidth,
            grown: root.scrollHeight - height,
            touch: getComputedStyle(pad).touchAction,
        }}
    }})()"""
    found = ask(page, question, size)
    for name, before, after in zip(needed, found["before"], found["after"], strict=True):
        left, top, right, bottom = after
        assert 0 <= left < right <= size[0] and 0 <= top < bottom <= size[1], name
        assert top == before[1], f"{name} moved"
    assert found["width"] <= size[0]
    assert found["grown"] == 0
    assert found["touch"] == "none"  # drawing does not scroll


@needs_chromium
@pytest.mark.parametrize("size", [(360, 740), (1280, 900)])
def test_page_can_be_heard(size, page):
    question = f"""(() => {{
        const all = query => Array.from(document.querySelectorAll(query))
        const observer = new MutationObserver(() => {{}})
        for (const live of all("[aria-live], [role=status], [role=alert], output")) {{
            observer.observe(live, {{childList: true, characterData: true, subtree: true}})
        }}
        ;{draw_4(150, 120)}
        return {{
            said: observer.takeRecords().length,
            sentence: at("said").textContent,
            headings: all("h1, h2, h3, h4").map(heading => {{
                return [Number(heading.tagName[1]), heading.getClientRects().length]
            }}),
            mains: all("main").length,
            nameless: all("[role=img], button, input, [role=radiogroup]").filter(control => {{
                return !control.ariaLabel && !control.textContent.trim()
            }}).map(control => control.outerHTML),
        }}
    }})()"""
    found = ask(page, question, size)
    assert found["said"] == 3  # cleared, and two strokes: not each move of the pointer
    assert "Q2 reads" in found["sentence"]
    assert found["nameless"] == []
    assert found["mains"] == 1
    levels = [level for level, _ in found["headings"]]
    assert levels[0] == 1 and levels.count(1) == 1
    assert max(after - before for before, after in itertools.pairwise(levels)) == 1
    assert all(boxes for _, boxes in found["headings"]), "a heading that is not displayed"


def test_images_on_offer_are_first_most_different_and_most_surely_misread():
    labels = torch.arange(40) % 10
    test = data.Split(torch.rand(40, 1, 28, 28), labels)
    probabilities = nn.functional.one_hot(labels, 10).float()
    for index, confidence in ((21, 0.6), (31, 0.8), (17, 0.7)):
        probabilities[index] = torch.eye(10)[0] * confidence  # read as 0
    distances = torch.zeros(40)
    distances[torch.tensor([13, 23, 12, 21])] = torch.tensor([0.3, 0.5, 0.4, 0.9])
    first, different, misread = draw_page.choose_images(test, probabilities, distances).values()
    assert first == list(range(10))
    assert different[1:4] == [1, 12, 23]  # 21 is misread
    assert misread == [31, 17]


def test_page_is_written_small_from_the_five_questions(trained, data_dir, tmp_path):
    outputs = shutil.copytree(trained, tmp_path / "outputs")
    path = draw_page.write(outputs, data_dir)
    assert path == outputs / "draw.html"
    assert path.stat().st_size < 2.6e6
    text = path.read_text("utf-8")
    assert "default-src 'none'; script-src 'unsafe-inline'" in text

    # The accuracies are those of the networks that answer: the first balanced subset's.
    for step, models in (("q4_few_shot", ["scratch"]), ("q5_transfer", ["fine-tuned", "frozen"])):
        numbers = pandas.read_csv(outputs / step / "numbers.csv")
        chosen = numbers[(numbers.subset == "balanced 1") & (numbers.split == "test")]
        accuracies = chosen[chosen.measure == "accuracy"].set_index("model").value
        for model in models:
            assert f"{accuracies[model]:.2%}" in text


def test_questions_that_are_missing_are_named_all_at_once(trained, data_dir, tmp_path):
    outputs = shutil.copytree(trained, tmp_path / "outputs")
    shutil.rmtree(outputs / "q2_classifier")
    shutil.rmtree(outputs / "q5_transfer")
    with pytest.raises(run.InputError, match=r"q2_classifier.*q5_transfer"):
        draw_page.write(outputs, data_dir)


@pytest.mark.parametrize(
    ("replaced", "complaint"), [("q2_classifier", "q3_frozen_decoder"), ("q1_autoencoder", "q5")]
)
def test_networks_that_were_not_built_on_each_other_are_refused(
    replaced, complaint, trained, data_dir, tmp_path
):
    outputs = shutil.copytree(trained, tmp_path / "outputs")
    other = random_models()
    model = other.q2 if replaced == "q2_classifier" else other.q1
    checkpoint.save(outputs / replaced / "model.safetensors", model)
    seal(outputs / replaced)
    with pytest.raises(run.InputError, match=rf"{complaint}.*again"):
        draw_page.write(outputs, data_dir)


def test_a_layer_that_the_page_cannot_run_is_refused():
    with pytest.raises(TypeError, match="MaxPool2d"):
        draw_page.describe(nn.Sequential(nn.Conv2d(1, 2, 3), nn.MaxPool2d(2)))
