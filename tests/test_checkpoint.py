import dataclasses
import hashlib
import pickle
import random
from pathlib import Path

import numpy
import pytest
import torch
import torchvision

from common import checkpoint, run
from common.models import Autoencoder, Classifier, Decoder, Encoder, Head, digest


@dataclasses.dataclass(frozen=True, kw_only=True)
class SomeOptions(run.Options):
    loss: str = "mse"
    rate: float = 0.1
    extra_folder: Path = Path("extra")


RECORD = {
    "epoch": 2,
    "step": 18,
    "learning_rate": 4e-8,
    "train": {"l1": 0.4, "mse": 0.3},
    "validation": {"l1": 0.2, "mse": 0.1},
    "test": {"l1": 0.25, "mse": 0.125},
}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def small_autoencoder(channels=(2, 3, 4)) -> Autoencoder:
    generator = seeded()
    encoder = Encoder(5, channels, 6, generator=generator)
    return Autoencoder(encoder, Decoder(5, channels, 6, generator=generator))


MODELS = {
    "default encoder": (Encoder, (1, 28, 28)),
    "encoder": (lambda: Encoder(5, (2, 3, 4), 6), (1, 28, 28)),
    "decoder": (lambda: Decoder(3, [4, 3, 2], 7), (3,)),
    "head": (lambda: Head(4, 9), (4,)),
    "autoencoder": (small_autoencoder, (1, 28, 28)),
    "classifier": (lambda: Classifier(Encoder(4, (2, 2, 3), 5), Head(4, 3)), (1, 28, 28)),
}


@pytest.fixture
def path(tmp_path):
    folder = tmp_path / "results" / "q1_autoencoder"
    folder.mkdir(parents=True)
    return folder / "model.pt"


@pytest.fixture
def saved(path):
    """A small checkpoint on disk."""
    checkpoint.save(path, small_autoencoder(), SomeOptions(), RECORD)
    return path


def rewritten(path: Path, change) -> None:
    """Let ``change`` edit what the file holds, and write it back with the right checksums."""
    content = torch.load(path, weights_only=True)
    change(content)
    torch.save(content, path)


def refusal(path: Path) -> str:
    """Return the message with which ``load`` refuses the file: one line that names it and the command."""
    with pytest.raises(ValueError) as error:
        checkpoint.load(path)
    message = str(error.value)
    assert str(path) in message
    assert "\n" not in message
    return message


def assert_names_command(message: str, path: Path) -> None:
    assert f"python q1_autoencoder.py --output-dir {path.parent.parent}" in message


@pytest.mark.parametrize("name", MODELS)
def test_a_model_is_rebuilt_from_its_file_alone(name, path):
    build, shape = MODELS[name]
    model = build()
    checkpoint.save(path, model, SomeOptions(), RECORD)
    loaded = checkpoint.load(path).model

    def structure(module):
        return [(name, type(part), str(part)) for name, part in module.named_modules()]

    assert structure(loaded) == structure(model)
    weights, expected = loaded.state_dict(), model.state_dict()
    assert list(weights) == list(expected)
    for key in expected:
        assert weights[key].numpy().tobytes() == expected[key].numpy().tobytes()
        assert weights[key].dtype == expected[key].dtype
    batch = torch.rand(3, *shape, generator=seeded())
    assert torch.equal(loaded(batch), model(batch))


def test_odd_weights_survive_bit_for_bit(path):
    head = Head(2, 3)
    odd = [float("nan"), float("-inf"), -0.0, 1e-45, 3.4028235e38, 1 / 3]
    head.layers[0].weight.data = torch.tensor(odd).reshape(3, 2)
    checkpoint.save(path, head, SomeOptions(), RECORD)
    weights = checkpoint.load(path).model.layers[0].weight
    assert weights.detach().numpy().tobytes() == numpy.array(odd, numpy.float32).tobytes()


def test_loaded_arguments_build_the_same_model_again(path):
    for build, _ in MODELS.values():
        checkpoint.save(path, build(), SomeOptions(), RECORD)
        loaded = checkpoint.load(path).model
        again = type(loaded)(**loaded.arguments)
        again.load_state_dict(loaded.state_dict())
        assert str(again) == str(loaded)


def test_a_loaded_model_is_in_evaluation_mode_on_the_cpu_and_trainable(saved):
    model = checkpoint.load(saved).model
    assert not any(module.training for module in model.modules())
    assert {parameter.device.type for parameter in model.parameters()} == {"cpu"}
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_config_summary_versions_and_sha256_come_back(path):
    options = SomeOptions(seed=7, dataset="kmnist", loss="bce", rate=1 / 3)
    checkpoint.save(path, small_autoencoder(), options, RECORD)
    loaded = checkpoint.load(path)
    assert loaded.config == {"dataset": "kmnist", "device": "auto", "seed": 7, "loss": "bce", "rate": 1 / 3}
    assert loaded.summary == {
        "epoch": 2,
        "step": 18,
        "validation": {"l1": 0.2, "mse": 0.1},
        "test": {"l1": 0.25, "mse": 0.125},
    }
    assert loaded.versions["torch"] == torch.__version__
    assert loaded.versions["torchvision"] == torchvision.__version__
    assert loaded.versions["numpy"] == numpy.__version__
    assert loaded.versions["python"].count(".") == 2
    assert loaded.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_saving_changes_neither_the_model_nor_its_mode(path):
    model = small_autoencoder().train()
    before = digest(model)
    checkpoint.save(path, model, SomeOptions(), RECORD)
    assert digest(model) == before
    assert all(module.training for module in model.modules())


def test_equal_content_gives_equal_bytes_in_other_folders_and_names(path, tmp_path):
    checkpoint.save(path, small_autoencoder(), SomeOptions(), RECORD)
    elsewhere = tmp_path / "a much longer name of a folder"
    elsewhere.mkdir()
    options = SomeOptions(data_dir=tmp_path, output_dir=elsewhere, extra_folder=elsewhere)
    checkpoint.save(elsewhere / "other.pt", small_autoencoder(), options, RECORD)
    assert (elsewhere / "other.pt").read_bytes() == path.read_bytes()


def test_equal_content_gives_equal_bytes_when_the_record_was_read_from_a_file(saved, tmp_path):
    # As after a run that was interrupted past its last epoch: equal values, other objects.
    record = pickle.loads(pickle.dumps(RECORD))
    checkpoint.save(tmp_path / "again.pt", small_autoencoder(), SomeOptions(), record)
    assert (tmp_path / "again.pt").read_bytes() == saved.read_bytes()


def test_equal_content_gives_equal_bytes_whatever_the_memory_format(saved, tmp_path):
    model = small_autoencoder().to(memory_format=torch.channels_last)
    checkpoint.save(tmp_path / "again.pt", model, SomeOptions(), RECORD)
    assert (tmp_path / "again.pt").read_bytes() == saved.read_bytes()


def test_a_loaded_model_saves_to_the_same_bytes(saved, tmp_path):
    checkpoint.save(tmp_path / "again.pt", checkpoint.load(saved).model, SomeOptions(), RECORD)
    assert (tmp_path / "again.pt").read_bytes() == saved.read_bytes()


def test_other_content_gives_other_bytes(saved):
    first = checkpoint.load(saved).sha256
    model = small_autoencoder()
    model.decoder.linear[0].bias.data[0] = 1e-45
    other_record = RECORD | {"test": {"l1": 0.25, "mse": 0.126}}
    for arguments in (
        (model, SomeOptions(), RECORD),
        (small_autoencoder(), SomeOptions(seed=1), RECORD),
        (small_autoencoder(), SomeOptions(), other_record),
    ):
        checkpoint.save(saved, *arguments)
        assert checkpoint.load(saved).sha256 != first


def test_a_missing_file_names_the_command_that_makes_it(path):
    with pytest.raises(FileNotFoundError) as error:
        checkpoint.load(path)
    message = str(error.value)
    assert str(path) in message
    assert "\n" not in message
    assert_names_command(message, path)


def test_a_file_cut_short_anywhere_is_refused(saved):
    whole = saved.read_bytes()
    for length in {*range(0, len(whole), 199), 1, 2, 10, len(whole) - 1}:
        saved.write_bytes(whole[:length])
        assert_names_command(refusal(saved), saved)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_random_bytes_are_refused(path):
    for seed in range(60):
        path.write_bytes(random.Random(seed).randbytes((1, 2, 10, 1_000)[seed % 4]))
        assert_names_command(refusal(path), path)


def test_a_page_of_text_is_refused(path):
    path.write_text("<html>404 not found</html>")
    assert_names_command(refusal(path), path)


def test_one_flipped_bit_in_the_weights_is_refused(saved):
    content = bytearray(saved.read_bytes())
    weights = small_autoencoder().state_dict()["encoder.linear.0.weight"].numpy().tobytes()
    position = bytes(content).index(weights) + len(weights) // 2
    content[position] ^= 1
    saved.write_bytes(content)
    assert_names_command(refusal(saved), saved)


@pytest.mark.parametrize("key", ["model", "weights", "config", "summary", "versions"])
def test_a_file_without_one_of_the_keys_names_it(saved, key):
    rewritten(saved, lambda content: content.pop(key))
    message = refusal(saved)
    assert repr(key) in message
    assert_names_command(message, saved)


@pytest.mark.parametrize(
    "foreign", [{"epoch": 3, "state_dict": {}}, {}, [1, 2], "text", torch.zeros(2), dict(Head().state_dict())]
)
def test_a_foreign_torch_file_names_the_missing_key(path, foreign):
    torch.save(foreign, path)
    message = refusal(path)
    assert "'model'" in message
    assert_names_command(message, path)


class Touch:
    """Unpickled, creates the file ``marker``."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return open, (str(self.marker), "w")


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_code_in_a_pickle_is_refused_and_not_executed(path, tmp_path):
    marker = tmp_path / "executed"
    path.write_bytes(pickle.dumps(Touch(marker)))
    refusal(path)
    assert not marker.exists()
    pickle.loads(path.read_bytes()).close()  # or the file would prove nothing
    assert marker.exists()


def test_code_in_a_torch_file_is_refused_and_not_executed(saved, tmp_path):
    marker = tmp_path / "executed"
    rewritten(saved, lambda content: content["config"].update(seed=Touch(marker)))
    refusal(saved)
    assert not marker.exists()
    torch.load(saved, weights_only=False)["config"]["seed"].close()
    assert marker.exists()


def test_weights_of_another_shape_are_named(saved):
    name = "encoder.linear.2.weight"
    rewritten(saved, lambda content: content["weights"].update({name: torch.zeros(7, 6)}))
    message = refusal(saved)
    assert name in message
    assert "[7, 6]" in message
    assert "[5, 6]" in message


def test_absent_and_unexpected_weights_are_named(saved):
    rewritten(saved, lambda content: content["weights"].pop("decoder.linear.0.bias"))
    message = refusal(saved)
    assert 'Missing key(s) in state_dict: "decoder.linear.0.bias"' in message
    checkpoint.save(saved, small_autoencoder(), SomeOptions(), RECORD)
    rewritten(saved, lambda content: content["weights"].update({"extra.bias": torch.zeros(2)}))
    message = refusal(saved)
    assert "extra.bias" in message
    assert "absent" in message


def test_an_unknown_class_is_refused_wherever_it_stands(saved):
    original = saved.read_bytes()
    rewritten(saved, lambda content: content["model"].update({"class": "Transformer"}))
    message = refusal(saved)
    assert "'Transformer'" in message
    assert "Autoencoder" in message
    saved.write_bytes(original)
    rewritten(saved, lambda content: content["model"]["arguments"]["encoder"].update({"class": "Sequential"}))
    assert "'Sequential'" in refusal(saved)


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content["model"]["arguments"]["encoder"]["arguments"].update(depth=3),
        lambda content: content["model"]["arguments"].pop("decoder"),
        lambda content: content["model"].pop("arguments"),
        lambda content: content.update(model="autoencoder"),
        lambda content: content.update(weights=[]),
        lambda content: content["weights"].update({"encoder.linear.0.bias": 3}),
    ],
    ids=["unknown argument", "missing argument", "no arguments", "no description", "no weights", "no tensor"],
)
def test_a_file_of_another_version_of_this_repository_is_refused(saved, change):
    rewritten(saved, change)
    refusal(saved)


def test_a_write_that_fails_leaves_the_old_file_and_nothing_beside(saved, monkeypatch):
    before = saved.read_bytes()

    def disk_full(content, file):
        file.write(b"half of a ")
        raise OSError("no space left on device")

    monkeypatch.setattr(checkpoint.torch, "save", disk_full)
    with pytest.raises(OSError, match="no space left"):
        checkpoint.save(saved, Head(), SomeOptions(), RECORD)
    assert saved.read_bytes() == before
    assert [entry.name for entry in saved.parent.iterdir()] == ["model.pt"]


def test_a_write_leaves_nothing_beside_and_replaces_the_old_file(saved):
    checkpoint.save(saved, Head(3, 4), SomeOptions(), RECORD)
    assert [entry.name for entry in saved.parent.iterdir()] == ["model.pt"]
    assert type(checkpoint.load(saved).model) is Head
