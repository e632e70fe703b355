"""Tests of common/checkpoint.py: what comes back from a file, and which files are refused."""

import json
import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from common import checkpoint
from common.models import Autoencoder, Classifier, Decoder, Encoder, Head, fingerprint
from common.run import InputError

NAME = "encoder.linear.3.weight"


def classifier() -> Classifier:
    generator = torch.Generator().manual_seed(0)
    return Classifier(Encoder(2, generator=generator), Head(2, generator=generator))


@pytest.fixture
def path(tmp_path) -> Path:
    """A checkpoint on disk."""
    checkpoint.save(tmp_path / "model", classifier())
    return tmp_path / "model"


def assert_refused(path: Path, words: str = "") -> None:
    """Assert that ``load`` refuses the file in one line that names it."""
    with pytest.raises(InputError) as error:
        checkpoint.load(path)
    message = str(error.value)
    assert str(path) in message and words in message and "\n" not in message


@pytest.mark.parametrize("model", [Autoencoder(Encoder(4), Decoder(4)), classifier()], ids=type)
def test_a_model_is_rebuilt_from_its_file_alone(model, path):
    unusual = torch.tensor([float("nan"), float("-inf"), -0.0, 1e-45, 1 / 3])
    with torch.no_grad():
        next(model.parameters()).view(-1)[:5] = unusual
    before = fingerprint(model.train())
    loaded = checkpoint.save_and_reload(path, model)
    assert loaded is not model
    assert str(loaded) == str(model)
    assert fingerprint(loaded) == before == fingerprint(load_file(path))  # by any reader
    assert model.training and not any(module.training for module in loaded.modules())


def test_a_path_may_be_text_and_need_not_be_utf8(path):
    assert fingerprint(checkpoint.load(str(path))) == fingerprint(classifier())
    strange = os.fsdecode(os.fsencode(path) + b"\xff")
    try:
        path.rename(strange)
    except OSError:
        pytest.skip("no such names here")
    assert fingerprint(checkpoint.save_and_reload(strange, classifier())) == fingerprint(
        checkpoint.load(strange)
    )


def test_equal_models_equal_bytes_and_others_others(path, tmp_path):
    def content(model) -> bytes:
        checkpoint.save(tmp_path / "other name", model)
        return (tmp_path / "other name").read_bytes()

    assert content(classifier().to(memory_format=torch.channels_last)) == path.read_bytes()
    assert content(checkpoint.load(path)) == path.read_bytes()
    other = classifier()
    other.head.layers[0].bias.data[0] = 1e-30
    assert content(other) != path.read_bytes()


def test_files_that_are_missing_damaged_or_foreign_are_refused(path, tmp_path):
    whole = path.read_bytes()
    flipped = whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:]
    cut = [whole[:length] for length in (0, 1, 8, 100, len(whole) // 2, len(whole) - 1)]
    for content in [*cut, flipped, whole + b"\0", b"\xff" * 8 + whole[8:], b"<html>"]:
        path.write_bytes(content)
        assert_refused(path)
    for metadata in (None, {"format": "pt"}, {"checkpoint": "{}"}, {"checkpoint": "3"}):
        save_file(dict(classifier().state_dict()), path, metadata)
        assert_refused(path)
    assert_refused(tmp_path)
    assert_refused(tmp_path / "nowhere")


def test_code_in_a_renamed_pickle_is_not_executed(path, tmp_path):
    path.write_bytes(f"cbuiltins\nopen\n(V{tmp_path}/executed\nVw\ntR.".encode())
    assert_refused(path)
    assert not (tmp_path / "executed").exists()
    pickle.loads(path.read_bytes()).close()  # or the file would prove nothing
    assert (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("change", "weights", "words"),
    [
        ({"kind": "Sequential"}, {}, "Sequential"),
        ({"kind": "Autoencoder"}, {}, "decoder"),
        ({"latent_dim": "5"}, {}, NAME),
        ({}, {NAME: torch.zeros(7, 128)}, NAME),
        ({}, {"extra": torch.zeros(2)}, "extra"),
    ],
)
def test_another_description_or_other_weights_are_refused(change, weights, words, path):
    with safe_open(path, "pt") as file:
        metadata = json.loads(file.metadata()["checkpoint"])
    tensors = load_file(path) | weights
    # Their sha256 fits: it is the description that does not.
    metadata |= change | {"sha256": fingerprint(tensors)}
    save_file(tensors, path, {"checkpoint": json.dumps(metadata)})
    assert_refused(path, words)
