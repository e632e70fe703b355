import numpy
import torch
from matplotlib.patches import Circle
from PIL import Image

from common import plots


def test_each_thing_has_a_colour_of_its_own():
    alike = [("Q2", "Q3"), ("train", "labelled"), ("random encoder", "random frozen, plain", "PCA-12")]
    others = ["Q1", "Q3 on plain Q2", "validation", "test", "scratch, plain", "frozen, plain", "fine-tuned, plain"]
    groups = [{plots.colour(name) for name in names} for names in (*alike, *((name,) for name in others))]
    assert all(len(colours) == 1 for colours in groups)
    assert len(set.union(*groups)) == len(groups)
    assert plots.colour("Q1's latents") == plots.colour("Q1") == "#0072B2"


def test_a_figure_is_a_palette_on_white_in_which_the_colour_of_a_few_letters_is_kept(tmp_path):
    rows = {"original": torch.rand(9, 1, 28, 28), "Q1": torch.rand(9, 1, 28, 28)}
    plots.plot_images(tmp_path / "a.png", "A message. What else there is to say", {"": rows})
    with Image.open(tmp_path / "a.png") as image:
        assert image.mode == "P" and image.width == plots.WIDTH * 160
        pixels = numpy.array(image.convert("RGB")).astype(int)
    assert (pixels[[0, -1], :] == 255).all()
    assert (abs(pixels - (0x00, 0x72, 0xB2)).max(-1) < 24).sum() > 20


def test_a_title_is_the_first_sentence_in_lines_of_about_equal_lengths():
    assert plots._title("A message. And more") == ["A message"]
    first, second = plots._title("word " * 20 + "end. And more")
    assert abs(len(first) - len(second)) < 20


def test_a_reading_that_is_not_the_label_is_framed_and_no_other(tmp_path, monkeypatch):
    framed = []
    monkeypatch.setattr(plots, "Rectangle", lambda corner, *of, **look: framed.append(corner) or Circle(corner, 1))
    rows = {"original": torch.zeros(3, 1, 28, 28), "Q1": torch.zeros(3, 1, 28, 28)}
    readings, labels = {"": {"Q1": numpy.array([2, 7, 2])}}, {"": {"Q1": numpy.array([2, 2, 2])}}
    plots.plot_images(tmp_path / "a.png", "A message", {"": rows}, readings, labels)
    assert framed == [(28 + plots.GAP - 1, 28 + plots.GAP + 10 - 1)]
