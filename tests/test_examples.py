import numpy
import pytest
import torch
from torch import nn

from common import examples
from common.data import Split
from common.models import Autoencoder, Decoder, Encoder
from common.run import InputError


def a_model() -> Autoencoder:
    generator = torch.Generator().manual_seed(3)
    return Autoencoder(Encoder(generator=generator), Decoder(generator=generator))


def images(count: int) -> torch.Tensor:
    return torch.rand(count, 1, 28, 28, generator=torch.Generator().manual_seed(count))


class ReadsThePixel(nn.Module):
    """Reads the digit that stands, in tenths, in the first pixel."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(10.0))

    def forward(self, inputs):
        return -((inputs[:, 0, 0, :1] * self.scale - torch.arange(10)) ** 2)


def of_digits(digits) -> numpy.ndarray:
    """Return images that ``ReadsThePixel`` reads as ``digits``; their last pixel holds their index."""
    drawn = numpy.zeros((len(digits), 1, 28, 28), numpy.float32)
    drawn[:, 0, 0, 0], drawn[:, 0, 27, 27] = (
        numpy.array(digits) / 10,
        numpy.arange(len(digits)) / 100,
    )
    return drawn


def test_frames_are_those_of_the_iterations_asked_for_and_come_back_from_their_file(tmp_path):
    model, frames, shown = a_model(), {}, images(3)
    watch = examples.watch(frames, model, shown, (2, 10))
    for iteration in range(1, 12):
        model.decoder.linear[0].bias.data += 1
        watch(iteration)
        if iteration == 10:
            by_hand = model(shown).sigmoid()
    assert [*frames] == [2, 10] and torch.allclose(frames[10], by_hand, atol=1e-6)
    assert not torch.allclose(frames[2], frames[10], atol=1e-3)
    examples.save(tmp_path / "frames", frames)
    again = examples.load(tmp_path / "frames")
    assert [*again] == [2, 10] and all(
        torch.equal(again[iteration], frames[iteration]) for iteration in frames
    )


@pytest.mark.parametrize("content", [None, b"no tensors"])
def test_frames_that_cannot_be_read_are_one_line_that_says_what_to_do(content, tmp_path):
    if content:
        (tmp_path / "frames").write_bytes(content)
    with pytest.raises(InputError, match=r"cannot use .*frames .*run its script again"):
        examples.load(tmp_path / "frames")


def test_a_walk_begins_and_ends_with_the_reconstructions_of_two_images_and_is_straight_between():
    model, test = a_model(), Split(images(20), torch.arange(20) % 10)
    groups, readings = examples.walks({"Q1": model}, test, ReadsThePixel())
    for (start, end), (title, rows) in zip(examples.WALKS, groups.items(), strict=True):
        ends = model(test.inputs[[start, end]]).sigmoid()
        assert title == f"from a {start} to a {end}" and len(rows["Q1"]) == examples.WALK_STEPS
        assert torch.allclose(rows["Q1"][[0, -1]], ends, atol=1e-5)
        middle = model.decoder(
            model.encoder(test.inputs[[start, end]]).mean(0, keepdim=True)
        ).sigmoid()
        assert torch.allclose(rows["Q1"][[examples.WALK_STEPS // 2]], middle, atol=1e-5)
        assert (readings[title]["Q1"] == (10 * rows["Q1"][:, 0, 0, 0]).round().int().numpy()).all()


def test_those_that_q1_alone_turns_into_another_digit_come_first_and_all_are_counted():
    labels = numpy.array([2, 2, 2, 7, 7, 3, 7] + [2, 7] * 9)
    original, q1, q3 = labels.copy(), labels.copy(), labels.copy()
    original[1] = 9  # no case for anyone, and not shown
    q1[[1, 2, 4, 5]] = 0  # 2 and 4 count: 1 is not read rightly in the first place, 5 is a 3
    q3[[0]] = 7
    reconstructions = {"original": of_digits(original), "Q1": of_digits(q1), "Q3": of_digits(q3)}
    (groups, readings, shown), counts = examples.misread(reconstructions, labels, ReadsThePixel())
    assert counts == (23, 2, 1)
    indices = (100 * groups[""]["original"][:, 0, 27, 27]).round().int().tolist()
    assert indices == [2, 0, 7, 9, 11, 13, 15, 17, 4, 3, 6, 8, 10, 12, 14, 16]
    assert (
        readings[""]["Q1"].tolist() == q1[indices].tolist()
        and shown[""]["Q1"].tolist() == labels[indices].tolist()
    )
    assert readings[""]["Q3"].tolist() == q3[indices].tolist()


def test_the_strip_of_an_overfit_has_the_iteration_of_the_lowest_test_loss_and_both_halves():
    losses = [9.0, 5.0, 4.0, 3.0, 2.0, 3.5, 4.5, 5.5]
    history = [{"step": 2**step, "test": {"bce": loss}} for step, loss in enumerate(losses)]
    frames = {2**step: torch.full((4, 1, 28, 28), float(step)) for step in range(8)}
    groups, lowest = examples.overfitting(frames, history, images(4))
    assert lowest == 16
    for title, half in (("labelled images, trained on", slice(0, 2)), ("test images", slice(2, 4))):
        rows = groups[title]
        assert [*rows] == [
            "original",
            "iteration 2",
            "lowest test loss:\niteration 16",
            "iteration 128",
        ]
        assert torch.equal(rows["original"], images(4)[half]) and (rows["iteration 128"] == 7).all()
