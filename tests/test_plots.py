import numpy
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from PIL import Image

from common import plots
from common.few_shot import Outcome


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


def test_few_shot_curves_mark_the_lowest_test_loss_and_their_legend_is_not_cut_off(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(plots, "Figure", lambda *of, **look: figures.append(Figure(*of, **look)) or figures[-1])
    losses = {"first": (9, 9, 9, 9), "subset 1": (4, 2, 1, 3), "subset 2": (4, 3, 2, 1), "subset 3": (4, 2, 1, 2)}
    of = {}
    for subset, values in losses.items():
        scores = [{"cross_entropy": value, "accuracy": 1 / value} for value in values]
        history = [{"step": step, "labelled": of, "test": of} for step, of in zip((0, 1, 10, 100), scores, strict=True)]
        of[subset] = Outcome(history, {"first 2,000 test": {}, "test": {}})
    plots.plot_few_shot_curves(tmp_path / "a.png", "A message", {"one": of, "two": of}, "cross_entropy", "accuracy")
    (figure,) = figures
    legend = figure.legends[0].get_window_extent()
    assert figure.bbox.x0 < legend.x0 and legend.x1 < figure.bbox.x1 and len(figure.legends[0].texts) == 5
    marked = [line.get_xdata() for axes in figure.axes for line in axes.lines if line.get_marker() == "v"]
    assert marked == [[10], [10]]  # the median of 10, 100 and 10
    green = [line for line in figure.axes[0].lines if line.get_color() == plots.colour("test")]
    assert [line.get_ydata().tolist() for line in green if line.get_linestyle() == "-"] == [[4, 7 / 3, 4 / 3, 2]]


def test_a_reading_that_is_not_the_label_is_framed_and_no_other(tmp_path, monkeypatch):
    framed = []
    monkeypatch.setattr(plots, "Rectangle", lambda corner, *of, **look: framed.append(corner) or Circle(corner, 1))
    rows = {"original": torch.zeros(3, 1, 28, 28), "Q1": torch.zeros(3, 1, 28, 28)}
    readings, labels = {"": {"Q1": numpy.array([2, 7, 2])}}, {"": {"Q1": numpy.array([2, 2, 2])}}
    plots.plot_images(tmp_path / "a.png", "A message", {"": rows}, readings, labels)
    assert framed == [(28 + plots.GAP - 1, 28 + plots.GAP + 10 - 1)]
