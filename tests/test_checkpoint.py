import dataclasses
import json
import pickle
import random
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from common import checkpoint, run
from common.models import Autoencoder, Classifier, Decoder, Encoder, Head, digest


@dataclasses.dataclass(frozen=True, kw_only=True)
class SomeOptions(run.Options):
    rate: float = 0.1
    extra_folder: Path = Path("extra")


SCORES = {"validation": {"l1": 0.2, "mse": 0.1}, "test": {"l1": 0.25, "mse": 0.125}}
RECORD = {"epoch": 2, "step": 18, "learning_rate": 4e-8, "train": {"l1": [0.4, 0.3]}} | SCORES
SIZES = (5, (2, 3, 4), 6)
NAME = "encoder.linear.2.weight"


def autoencoder() -> Autoencoder:
    generator = torch.Generator().manual_seed(0)
    return Autoencoder(Encoder(*SIZES, generator=generator), Decoder(*SIZES, generator=generator))


@pytest.fixture
def path(tmp_path):
    """A small checkpoint on disk."""
    checkpoint.save(tmp_path / "model", autoencoder(), SomeOptions(), RECORD)
    return tmp_path / "model"


def refusal(path: Path, model_class: type = torch.nn.Module) -> str:
    """Return the message with which ``load`` refuses the file: one line that names it and what to do."""
    with pytest.raises(
        run.InputError, match=rf"^cannot use {path} .*: run its script again\Z"
    ) as error:
        checkpoint.load(path, model_class)
    return str(error.value)


@pytest.mark.parametrize(
    "model",
    [
        Encoder(4, [2, 3, 4], 5, False),
        Decoder(4),
        Head(4, 9),
        autoencoder(),
        Classifier(Encoder(*SIZES), Head(5)),
    ],
    ids=lambda model: type(model).__name__,
)
def test_a_model_is_rebuilt_from_its_file_alone_and_saves_to_the_same_bytes(model, path):
    with torch.no_grad():
        next(model.parameters()).view(-1)[:5] = torch.tensor(
            [float("nan"), float("-inf"), -0.0, 1e-45, 1 / 3]
        )
    before = digest(model.train())
    checkpoint.save(path, model, SomeOptions(), RECORD)
    assert digest(model) == before and all(module.training for module in model.modules())
    loaded, content = checkpoint.load(path, type(model)).model, path.read_bytes()
    assert str(loaded) == str(model)
    assert (
        digest(loaded) == before == digest(load_file(path))
    )  # as any reader of safetensors has it
    assert not any(module.training for module in loaded.modules())
    assert all(
        parameter.requires_grad and parameter.device.type == "cpu"
        for parameter in loaded.parameters()
    )
    checkpoint.save(path, loaded, SomeOptions(), RECORD)
    assert path.read_bytes() == content


def test_config_without_folders_and_device_and_the_last_metrics_come_back(path):
    checkpoint.save(path, Head(), SomeOptions(seed=7, rate=1 / 3, device="cpu"), RECORD)
    loaded = checkpoint.load(path)
    assert loaded.config == {"dataset": "mnist", "seed": 7, "rate": 1 / 3}
    assert loaded.metrics == {"epoch": 2, "step": 18} | SCORES


def test_equal_content_gives_equal_bytes_and_other_content_others(path, tmp_path):
    def content(model, options, record):
        checkpoint.save(tmp_path / "other name", model, options, record)
        return (tmp_path / "other name").read_bytes()

    same, other = autoencoder().to(memory_format=torch.channels_last), autoencoder()
    elsewhere = SomeOptions(
        data_dir=tmp_path, output_dir=tmp_path, extra_folder=tmp_path, device="cpu"
    )
    assert content(same, elsewhere, pickle.loads(pickle.dumps(RECORD))) == path.read_bytes()
    other.decoder.linear[0].bias.data[0] = 1e-30
    others = [
        (other, SomeOptions(), RECORD),
        (same, SomeOptions(seed=1), RECORD),
        (same, SomeOptions(), SCORES),
    ]
    assert len({path.read_bytes(), *(content(*changed) for changed in others)}) == 4


def test_flipped_bits_are_refused_or_change_nothing(path):
    whole, original, refused = path.read_bytes(), checkpoint.load(path), 0
    description = range(whole.index(b"__metadata__"), whole.index(b"sha256"))
    for position in [*range(8), *description[::9], *random.Random(0).sample(range(len(whole)), 70)]:
        path.write_bytes(
            whole[:position] + bytes([whole[position] ^ 1 << position % 6]) + whole[position + 1 :]
        )
        try:
            loaded = checkpoint.load(path)
        except run.InputError:
            refused += 1
        else:
            assert digest(loaded.model) == digest(original.model)
            assert (loaded.config, loaded.metrics) == (original.config, original.metrics)
    assert refused > 100


def test_files_that_are_missing_cut_short_lengthened_or_foreign_are_refused(path, tmp_path):
    assert "got a Autoencoder, expected a Classifier" in refusal(path, Classifier)
    whole = path.read_bytes()
    cut = [whole[:length] for length in {*range(0, len(whole), 199), 1, 2, 8, 10, len(whole) - 1}]
    noise = [random.Random(seed).randbytes((1, 2, 10, 1_000)[seed % 4]) for seed in range(60)]
    for content in [
        *cut,
        *noise,
        whole + b"\0",
        b"\xff" * 8 + whole[8:],
        b"<html>404 not found</html>",
    ]:
        path.write_bytes(content)
        refusal(path)
    for metadata in (
        None,
        {"format": "pt"},
        {"checkpoint": "{}"},
        {"checkpoint": "3"},
        {"checkpoint": "[" * 100_000},
    ):
        save_file(dict(Head().state_dict()), path, metadata)
        refusal(path)
    torch.save(Head().state_dict(), path)
    assert all(map(refusal, (path, tmp_path, tmp_path / "nowhere")))


def test_code_in_a_renamed_pickle_is_refused_and_not_executed(path, tmp_path):
    path.write_bytes(f"cbuiltins\nopen\n(V{tmp_path}/executed\nVw\ntR.".encode())
    assert refusal(path) and not (tmp_path / "executed").exists()
    pickle.loads(path.read_bytes()).close()  # or the file would prove nothing
    assert (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    "old, new, weights, words",
    [
        ('"class": "Encoder"', '"class": "Sequential"', {}, ["'Sequential'", "Autoencoder"]),
        ('"hidden": 6', '"depth": 6', {}, ["'depth'"]),
        ('"model": {', '"model": "Encoder", "other": {', {}, ["got a str"]),
        ('"config": {', '"options": {', {}, ["'config'"]),
        (" ", "", {NAME: torch.zeros(7, 6)}, [NAME, "[7, 6]", "[5, 6]"]),
        (" ", "", {NAME: None}, ["Missing", NAME]),
        (" ", "", {"extra": torch.zeros(2)}, ["Unexpected", "extra"]),
    ],
)
def test_another_description_or_other_weights_are_refused_although_their_sha256_fits(
    old, new, weights, words, path
):
    with safe_open(path, "pt") as file:
        content = json.loads(file.metadata()["checkpoint"].replace(old, new))
    tensors = {
        name: tensor for name, tensor in (load_file(path) | weights).items() if tensor is not None
    }
    content |= {
        "sha256": checkpoint._digest({k: v for k, v in content.items() if k != "sha256"}, tensors)
    }
    save_file(tensors, path, {"checkpoint": json.dumps(content)})
    assert not [word for word in words if word not in refusal(path)]
