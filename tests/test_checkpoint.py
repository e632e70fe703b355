"""Tests of common/checkpoint.py: what comes back from a file, and which files are refused."""

import json
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


def classifier(latent_dim: int = 2) -> Classifier:
    generator = torch.Generator().manual_seed(0)
    return Classifier(
        Encoder(latent_dim, generator=generator), Head(latent_dim, generator=generator)
    )


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
    assert str(path) in message and words in message
    assert "\n" not in message


@pytest.mark.parametrize("model", [Autoencoder(Encoder(4), Decoder(4)), classifier()], ids=type)
def test_a_model_is_rebuilt_from_its_file_alone(model, path):
    unusual = torch.tensor([float("nan"), float("-inf"), -0.0, 1e-45, 1 / 3])
    with torch.no_grad():
        next(model.parameters()).view(-1)[:5] = unusual
    before = fingerprint(model.train())
    loaded = checkpoint.save_and_reload(path, model)
    assert fingerprint(model) == before and model.training
    assert loaded is not model
    assert str(loaded) == str(model)
    assert fingerprint(loaded) == before == fingerprint(load_file(path))  # by any reader
    assert not any(module.training for module in loaded.modules())
    assert all(parameter.requires_grad for parameter in loaded.parameters())


def test_equal_models_equal_bytes_and_others_others(path, tmp_path):
    def content(model) -> bytes:
        checkpoint.save(tmp_path / "other name", model)
        return (tmp_path / "other name").read_bytes()

    assert content(classifier().to(memory_format=torch.channels_last)) == path.read_bytes()
    assert content(checkpoint.load(path)) == path.read_bytes()
    other = classifier()
    other.head.layers[0].bias.data[0] = 1e-30
    assert content(other) != path.read_bytes()


def test_a_flipped_bit_is_refused_or_changes_nothing(path):
    whole, original, refused = path.read_bytes(), fingerprint(checkpoint.load(path)), 0
    description = range(whole.index(b"__metadata__"), whole.index(b"sha256"))
    for position in [*range(8), *description[::9], *range(2_000, len(whole), 20_000)]:
        flipped = whole[position] ^ 1 << position % 6
        path.write_bytes(whole[:position] + bytes([flipped]) + whole[position + 1 :])
        try:
            loaded = checkpoint.load(path)
        except InputError:
            refused += 1
        else:
            assert fingerprint(loaded) == original
    assert refused >= 40


def test_files_that_are_missing_cut_short_or_foreign_are_refused(path, tmp_path):
    whole = path.read_bytes()
    cut = [whole[:length] for length in (0, 1, 8, 100, len(whole) // 2, len(whole) - 1)]
    for content in [*cut, whole + b"\0", b"\xff" * 8 + whole[8:], b"<html>404</html>"]:
        path.write_bytes(content)
        assert_refused(path)
    for metadata in (None, {"format": "pt"}, {"checkpoint": "{}"}, {"checkpoint": "3"}):
        save_file(dict(classifier().state_dict()), path, metadata)
        assert_refused(path)
    torch.save(classifier().state_dict(), path)
    for unusable in (path, tmp_path, tmp_path / "nowhere"):
        assert_refused(unusable)


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
        ({}, {NAME: None}, NAME),
        ({}, {"extra": torch.zeros(2)}, "extra"),
    ],
)
def test_another_description_or_other_weights_are_refused(change, weights, words, path):
    with safe_open(path, "pt") as file:
        metadata = json.loads(file.metadata()["checkpoint"])
    tensors = load_file(path) | weights
    tensors = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    # Their sha256 fits: it is the description that does not.
    metadata |= change | {"sha256": fingerprint(tensors)}
    save_file(tensors, path, {"checkpoint": json.dumps(metadata)})
    assert_refused(path, words)
