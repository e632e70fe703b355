"""The five scripts, as README says to run them, on small digits and with small options."""

import json
import re
from pathlib import Path

import pandas
import pytest
import torch

import q3_frozen_decoder
import q5_transfer
from common import checkpoint, data, results, run, train
from common.figures import style
from common.models import Encoder, fingerprint
from tests import helpers

SCRIPTS = tuple(helpers.SMALL)


def numbers(folder: Path) -> pandas.DataFrame:
    return run.read_table(folder / "numbers.csv")


def value(folder: Path, **chosen: str) -> float:
    """Return the one number that is chosen by model, split, measure and perhaps subset."""
    table = numbers(folder)
    for column, wanted in chosen.items():
        table = table[table[column] == wanted]
    assert len(table) == 1
    return table.value.item()


@pytest.mark.parametrize("script", SCRIPTS)
def test_readme_names_the_command(script):
    readme = (helpers.ROOT / "README.md").read_text("utf-8")
    assert re.search(rf"^(\.venv/bin/)?python {script}", readme, re.MULTILINE)


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_writes_what_its_docstring_lists(script, trained):
    folder = trained / Path(script).stem
    written = {path.name for path in folder.iterdir()}
    docstring = (helpers.ROOT / script).read_text("utf-8").split('"""')[1]
    promised = re.search(r"Writes:(.*?)(?:Further:|\Z)", docstring, re.DOTALL).group(1)
    files = set(re.findall(r"[\w.]+\.(?:png|csv|safetensors)", promised))
    assert files <= written
    assert {name for name in written if name.endswith(".png")} <= files
    assert results.read_config(folder) is not None


def test_every_figure_has_a_title_and_a_caption(trained):
    figures = sorted(trained.glob("*/*.png"))
    assert len(figures) >= 14
    for path in figures:
        title, caption = style.texts(path)
        assert title and caption, path


def test_numbers_belong_to_the_saved_autoencoder(trained, data_dir):
    folder = trained / "q1_autoencoder"
    model = checkpoint.load(folder / "model.safetensors")
    images = data.load("own", data_dir).test.images
    with torch.inference_mode():
        errors = (model(images).sigmoid() - images).double()
    quoted = {name: value(folder, model="Q1", split="test", measure=name) for name in ("l1", "mse")}
    assert quoted["l1"] == pytest.approx(errors.abs().mean().item(), rel=1e-5)
    assert quoted["mse"] == pytest.approx(errors.square().mean().item(), rel=1e-5)


def test_numbers_belong_to_the_saved_classifiers(trained, data_dir):
    test = data.load("own", data_dir).test
    for step, model, name, subset in (
        ("q2_classifier", "Q2", "model", ""),
        ("q4_few_shot", "scratch", "scratch_report", "report"),
        ("q5_transfer", "frozen", "frozen_balanced_2", "balanced 2"),
    ):
        classifier = checkpoint.load(trained / step / f"{name}.safetensors")
        with torch.inference_mode():
            loss = torch.nn.functional.cross_entropy(classifier(test.images), test.labels)
        chosen = {"model": model, "split": "test", "subset": subset}
        quoted = value(trained / step, measure="cross_entropy", **chosen)
        assert quoted == pytest.approx(loss.item(), rel=1e-4, abs=1e-7)


def test_q3_keeps_q2s_encoder_to_the_bit(trained):
    q2 = checkpoint.load(trained / "q2_classifier" / "model.safetensors")
    q3 = checkpoint.load(trained / "q3_frozen_decoder" / "model.safetensors")
    assert fingerprint(q3.encoder) == fingerprint(q2.encoder)


def test_q5_keeps_or_moves_q1s_encoder(trained):
    q1 = checkpoint.load(trained / "q1_autoencoder" / "model.safetensors")
    for name in ("frozen_report", "frozen_all_labels"):
        frozen = checkpoint.load(trained / "q5_transfer" / f"{name}.safetensors")
        assert fingerprint(frozen.encoder) == fingerprint(q1.encoder)
    moved = checkpoint.load(trained / "q5_transfer" / "fine-tuned_report.safetensors")
    assert fingerprint(moved.encoder) != fingerprint(q1.encoder)


def test_q3s_decoder_trains_alone_from_q1s_initial_weights(data_dir):
    small = data.load("own", data_dir)
    encoder = Encoder(generator=torch.Generator().manual_seed(1))
    before = fingerprint(encoder)
    model = q3_frozen_decoder.build(encoder, seed=0)
    start = fingerprint(model.decoder)
    recipe = train.Recipe(epochs=3, batch_size=50, learning_rate=0.01, weight_decay=0.0)
    q3_frozen_decoder.train_decoder(model, small, recipe, "l1", seed=0)
    assert fingerprint(model.encoder) == before
    assert fingerprint(model.decoder) != start


def test_every_fit_of_q5_starts_from_the_same_weights():
    pretrained = Encoder(generator=torch.Generator().manual_seed(1))
    first = q5_transfer.build(pretrained, seed=3)
    with torch.no_grad():
        first.encoder.linear[-1].bias += 1
    second = q5_transfer.build(pretrained, seed=3)
    assert fingerprint(second.encoder) == fingerprint(pretrained)
    assert fingerprint(second.head) == fingerprint(first.head)
    assert fingerprint(q5_transfer.build(pretrained, seed=4).head) != fingerprint(first.head)


def test_the_same_command_gives_the_same_bits(trained, data_dir, tmp_path):
    script = "q4_few_shot.py"
    places = ("--data-dir", data_dir, "--output-dir", tmp_path, "--device", "cpu")
    ended = helpers.run_script(script, "--dataset", "own", *places, *helpers.SMALL[script])
    assert ended.returncode == 0, ended.stderr
    again, first = (results.read_config(folder / "q4_few_shot") for folder in (tmp_path, trained))
    assert results.result_sha256(again) == results.result_sha256(first)


def test_what_is_missing_is_named_at_once(data_dir, tmp_path):
    places = ("--data-dir", data_dir, "--output-dir", tmp_path)
    ended = helpers.run_script("q3_frozen_decoder.py", "--dataset", "own", *places)
    assert ended.returncode == 2
    assert ended.stderr.count("\n") == 1
    for script in ("q1_autoencoder.py", "q2_classifier.py"):
        assert f"python {script} --dataset own" in ended.stderr
    assert not list(tmp_path.iterdir())


def test_a_collapse_is_refused_and_the_earlier_result_stays(trained, data_dir, tmp_path):
    kept = tmp_path / "q1_autoencoder"
    kept.mkdir()
    (kept / "earlier").write_text("result")
    options = ("--epochs", "1", "--batch-size", "1000", "--learning-rate", "1e-9")
    options += ("--muon-learning-rate", "0")
    places = ("--data-dir", data_dir, "--output-dir", tmp_path, "--device", "cpu")
    ended = helpers.run_script("q1_autoencoder.py", "--dataset", "own", *places, *options)
    assert ended.returncode == 1
    assert ended.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.rglob("*")] == ["q1_autoencoder", "earlier"]


def test_a_run_says_where_it_came_from(trained):
    config = json.loads((trained / "q5_transfer" / "config.json").read_text("utf-8"))
    assert set(config["built_on"]) == {"q1_autoencoder", "q4_few_shot"}
    assert {"q5_transfer.py", "common/train.py"} <= set(config["code_files"])
    assert config["command"].startswith("python q5_transfer.py --dataset own")


def test_a_classifier_is_composed_where_its_pretrained_encoder_is():
    pretrained = Encoder().to("meta")  # any other device than the CPU
    assert {weight.device.type for weight in q5_transfer.build(pretrained, 0).parameters()} == {
        "meta"
    }


def test_what_fails_while_figures_are_drawn_is_a_line(capsys):
    with run.drawing():
        raise ValueError("no\nfigure")
    assert capsys.readouterr().err == "a figure was not drawn (ValueError: no figure)\n"
