"""Tests of common/draw_page.py: its script, in headless Chromium, against PyTorch; what is missing or does not fit."""

import base64
import json
import math
import re
from pathlib import Path

import numpy
import pytest
import torch

import q1_autoencoder
import q2_classifier
import q3_frozen_decoder
from common import checkpoint, data, draw_page, run
from common.models import Autoencoder, Classifier, Decoder, Encoder, Head, pixels
from tests.browser import asked, needs_chromium

SIZES = {"report's": {}, "others": {"latent_dim": 5, "channels": (8, 12, 16), "hidden": 40, "hidden_relu": False}}
KEPT = {"Q1": {"slant_neighbours_r2": 0.94, "thickness_neighbours_r2": 0.88}}
KEPT |= {"Q3": {"slant_neighbours_r2": 0.5, "thickness_neighbours_r2": 0.23}}
SCALE = 16  # pixels of the drawing to one of an image


def random_models(sizes: dict, seed: int = 0) -> dict[str, torch.nn.Module]:
    """Build the three models, on Q3's Q2's encoder, with biases of another value each."""
    generator = torch.Generator().manual_seed(seed)
    q1 = Autoencoder(Encoder(**sizes, generator=generator), Decoder(**sizes, generator=generator))
    q2 = Classifier(Encoder(**sizes, generator=generator), Head(sizes.get("latent_dim", 12), generator=generator))
    q3 = Autoencoder(q2.encoder, Decoder(**sizes, generator=generator))
    for model in (q1, q2, q3):
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                torch.nn.init.normal_(parameter, std=0.2, generator=generator)
    return {"q1_autoencoder": q1, "q2_classifier": q2, "q3_frozen_decoder": q3}


def leave(output_dir: Path, data_dir: Path, models: dict[str, torch.nn.Module], kept: dict = KEPT) -> None:
    """Leave models and what Q3 measured where the scripts leave theirs."""
    for script in (q1_autoencoder, q2_classifier, q3_frozen_decoder):
        config = script.Config(output_dir=output_dir, data_dir=data_dir, device="cpu")
        step, record = run.start(config, script.__name__), {"epoch": 1, "step": 1, "test": {}}
        checkpoint.save(step.folder / "model.safetensors", models[script.__name__], config, record)
        numbers = [entry for name, values in kept.items() for entry in run.numbers(name, values, "test")]
        step.finish("fingerprint", [record], answer=["untrained"], numbers=numbers, figures={})


@pytest.fixture
def outputs(tmp_path, data_dir):
    leave(tmp_path / "outputs", data_dir, random_models({}))
    return tmp_path / "outputs"


def rounded(models: dict[str, torch.nn.Module]) -> list[torch.nn.Module]:
    """Round the weights to those of the page."""
    for model in models.values():
        for parameter in model.parameters():
            parameter.data = parameter.data.half().float()
    return list(models.values())


def as_javascript(values: torch.Tensor | numpy.ndarray) -> str:
    text = base64.b64encode(numpy.ascontiguousarray(values, numpy.float32).tobytes()).decode()
    return f"new Float32Array(bytes('{text}').buffer)"


@needs_chromium
@pytest.mark.parametrize("sizes", SIZES)
def test_networks_of_the_page_answer_as_pytorchs(sizes, tmp_path, data_dir):
    models = random_models(SIZES[sizes])
    leave(tmp_path / "outputs", data_dir, models)
    images = data.load("mnist", data_dir).test.inputs[:100]
    question = f"""(images => Array.from({{length: 100}}, (_, i) => {{
        const all = answers(images.subarray(784 * i, 784 * (i + 1)))
        return ["latents", "kept", "probabilities", "q1", "q3"].map(name => Array.from(all[name]))
    }}))({as_javascript(images)})"""
    path = draw_page.write(tmp_path / "outputs", data_dir)
    assert path.stat().st_size < 2.5e6
    answers = [torch.tensor(values) for values in zip(*asked(path, question), strict=True)]
    q1, q2, q3 = rounded(models)
    with torch.inference_mode():
        expected = [q1.encoder(images), q2.encoder(images), q2(images).softmax(1)]
        expected += [pixels(model(images)).flatten(1) for model in (q1, q3)]
    for values, reference in zip(answers, expected, strict=True):
        assert reference.std(0).mean() > 5e-3, "images that all get one answer test nothing"
        assert (values - reference).abs().max() < 1e-3


def strokes(x: float, y: float, scale: float = 1.0) -> str:
    """Return JavaScript that draws a 4 with a pointer, its corner at (x, y), in pixels of the drawing."""
    lines = [[(60, 0), (0, 110), (120, 110)], [(96, 20), (96, 200)]]
    points = json.dumps([[(x + scale * a, y + scale * b) for a, b in line] for line in lines])
    return f"""(at('clear').onclick(), at('pen').value = {24 * scale},
    {points}.forEach(line => line.forEach(([x, y], i) => {{
        const box = pad.getBoundingClientRect(), to = {{clientX: box.left + x * box.width / PAD}}
        const all = {{...to, clientY: box.top + y * box.height / PAD, isPrimary: true, bubbles: true}}
        pad.dispatchEvent(new PointerEvent(i ? 'pointermove' : 'pointerdown', all))
        if (i === line.length - 1) pad.dispatchEvent(new PointerEvent('pointerup', all))
    }})), Array.from(image))"""


@needs_chromium
def test_a_drawing_becomes_the_same_centred_image_wherever_and_however_large_it_is(outputs, data_dir):
    path = draw_page.write(outputs, data_dir)
    drawings = [strokes(150, 120), strokes(20, 210), strokes(300, 40), strokes(100, 20, 2)]
    said = "[at('answer').textContent, at('hint').hidden, Number(document.body.dataset.milliseconds)]"
    one, *others, [answer, hidden, milliseconds] = asked(path, f"[{', '.join(drawings)}, {said}]")
    image = numpy.reshape(one, (28, 28))
    rows, columns = numpy.nonzero(image)
    assert numpy.ptp(rows) + 1 == 20 and 13 <= numpy.ptp(columns) + 1 <= 15  # 144 by 224 with the pen
    centre = (numpy.indices((28, 28)) + 0.5).reshape(2, -1) @ image.ravel() / image.sum()
    assert centre.min() >= 14 and centre.max() < 15 and image.max() == pytest.approx(1)
    for other, tolerance in zip(others, (1e-3, 1e-3, 0.2), strict=True):  # a larger one has finer edges
        assert numpy.abs(numpy.subtract(other, one)).max() < tolerance
    assert re.fullmatch(r"\dQ2, [\d.]+ %", answer) and hidden and milliseconds >= 0


@needs_chromium
def test_an_image_as_mnists_comes_back_as_it_was_from_wherever_it_is_drawn(outputs, data_dir):
    generator = numpy.random.default_rng(0)
    box = generator.random((20, 13)) * (generator.random((20, 13)) < 0.5)
    box[[0, -1]] = box[:, [0, -1]] = 0.5  # ink up to the box's edges
    image = numpy.zeros((28, 28))
    top, left = (math.ceil(14 - (numpy.arange(n) + 0.5) @ box.sum(axis) / box.sum()) for axis, n in ((1, 20), (0, 13)))
    image[top : top + 20, left : left + 13] = box
    corners = [numpy.roll(image, (-top, -left), (0, 1)), numpy.roll(image, (8 - top, 15 - left), (0, 1))]
    drawn = [numpy.kron(corner, numpy.ones((SCALE, SCALE))) for corner in corners]
    quarter = numpy.zeros((28 * SCALE, 28 * SCALE))
    quarter[5 : 5 + 14 * SCALE, 9 : 9 + 14 * SCALE] = drawn[0][::2, ::2]
    question = ", ".join(f"Array.from(normalised({as_javascript(ink)}, PAD))" for ink in (*drawn, quarter))
    *images, nothing = asked(draw_page.write(outputs, data_dir), f"[{question}, normalised(new Float32Array(16), 4)]")
    assert nothing is None
    for found in images:
        assert numpy.abs(numpy.reshape(found, (28, 28)) - image).max() < 1e-5


@needs_chromium
def test_sliders_test_images_and_walk_show_what_the_decoders_make_of_them(outputs, data_dir):
    alphas = "name => { const d = at(name).getContext('2d').getImageData(0, 0, at(name).width, 28).data;"
    alphas += "return Array.from({length: d.length / 4}, (_, i) => d[4 * i + 3] / 255) }"
    question = f"""(shown => {{
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
    }})({alphas})"""
    seen, latents, tuned, moved, *walked, strip = asked(draw_page.write(outputs, data_dir), question)
    test = data.load("mnist", data_dir).test
    first = test.inputs[data.first_of_each_digit(test.targets)]
    q1, _, q3 = rounded(random_models({}))
    with torch.inference_mode():
        codes = q1.encoder(first[3:4])
        low, _, high = torch.tensor(draw_page.contents(draw_page.load(outputs), test)["sliders"]).T
        assert numpy.abs(codes[0].clamp(low, high).numpy() - latents).max() < 0.5 * ((high - low) / 200).max() + 1e-3
        codes[0, 2] = float(moved)
        pictures = [q1.decoder(codes)]
        for model, share in ((q1, 0.25), (q3, 0.25), (q3, 0.9)):
            one, eight = model.encoder(first[[1, 8]])
            pictures.append(model.decoder((one + share * (eight - one))[None]))
    frame = numpy.reshape(strip, (28, 11, 28))[:, 9].ravel()  # the last but one of 11
    for shown, logits in zip((tuned, *walked, frame), pictures, strict=True):
        assert numpy.abs(shown - pixels(logits).flatten().numpy()).max() < 1e-3 + 0.5 / 255
    assert numpy.abs(seen - first[3].flatten().numpy()).max() < 1e-3


@needs_chromium
@pytest.mark.parametrize("width", [360, 1280])
def test_page_fits_a_window_and_asks_for_nothing_outside(width, outputs, data_dir):
    path = draw_page.write(outputs, data_dir)
    assert "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'\"" in path.read_text("utf-8")
    question = """(root => [innerWidth, root.scrollWidth,  // a request would be refused, and the console say so
        [...document.querySelectorAll("canvas")].filter(canvas => canvas.getBoundingClientRect().width < 10).length,
        getComputedStyle(pad).touchAction, root.scrollHeight,
        (document.querySelector("#rows button").click(), root.scrollHeight)])(document.documentElement)"""
    inner, scrolled, hidden, touch, height, drawn_height = asked(path, question, width)
    assert inner == width and scrolled <= width and not hidden and touch == "none"
    assert height == drawn_height, "the page is to stay where it is while one draws"


def test_first_sentence_says_what_was_measured(outputs, data_dir):
    text = " ".join(re.sub("<[^>]+>", "", draw_page.write(outputs, data_dir).read_text("utf-8")).split())
    assert "tell 94 % of a digit's slant and 88 % of its thickness" in text and "50 % and 23 %" in text


def test_images_on_offer_are_first_most_different_and_most_surely_misread():
    labels = torch.arange(40) % 10
    test = data.Split(torch.rand(40, 1, 28, 28, generator=torch.Generator().manual_seed(0)), labels)
    probabilities = torch.nn.functional.one_hot(labels, 10).float()
    reconstructions = (torch.zeros(40, 1, 28, 28), torch.zeros(40, 1, 28, 28))
    reconstructions[1][[13, 23, 12, 21]] = torch.tensor([0.3, 0.5, 0.4, 0.9]).view(4, 1, 1, 1)
    for index, confidence in ((21, 0.6), (31, 0.8), (17, 0.7)):
        probabilities[index] = torch.eye(10)[0] * confidence
    first, different, misread = draw_page.shown_images(test, probabilities, reconstructions).values()
    coded = [base64.b64encode((255 * image).round().byte().numpy().tobytes()).decode() for image in test.inputs]
    assert [entry["pixels"] for entry in first] == coded[:10] and [entry["label"] for entry in first] == list(range(10))
    assert [coded.index(entry["pixels"]) for entry in different][1:4] == [1, 12, 23] and len(different) == 10
    assert [coded.index(entry["pixels"]) for entry in misread] == [31, 17]


def test_results_that_are_missing_or_do_not_fit_end_in_one_line(outputs, data_dir, tmp_path, capsys):
    options = ["--output-dir", str(outputs), "--data-dir", str(data_dir)]
    run.command_line(draw_page.main, draw_page.Config, options)
    assert capsys.readouterr().out == f"draw a digit: {outputs / 'draw.html'}\n"
    (outputs / "draw.html").unlink()
    models = random_models({})
    damages = [
        (models, {"Q1": KEPT["Q1"]}, "no slant_neighbours_r2"),
        (models | {"q2_classifier": random_models({}, 1)["q2_classifier"]}, KEPT, "for another Q2"),
    ]
    for others, kept, complaint in damages:
        leave(outputs, data_dir, others, kept)
        with pytest.raises(run.InputError, match=rf"{complaint}.*run q3_frozen_decoder.py again"):
            draw_page.write(outputs, data_dir)
    (outputs / "q1_autoencoder" / "model.safetensors").unlink()
    capsys.readouterr()
    with pytest.raises(SystemExit, match=r"^2$"):
        run.command_line(draw_page.main, draw_page.Config, options)
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1 and "q1_autoencoder" in printed and "run its script again" in printed
    assert not (outputs / "draw.html").exists()


def test_a_layer_that_the_page_cannot_run_is_refused():
    with pytest.raises(TypeError, match="MaxPool2d"):
        draw_page.describe(torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.MaxPool2d(2)))
