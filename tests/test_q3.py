import dataclasses
import hashlib
import json

import pytest
import torch

import q1_autoencoder
import q2_classifier
import q3_frozen_decoder
from common import checkpoint, data, plots, representation, run, train
from common.models import digest

FILES = {".lock", "config.json", "metrics.jsonl", "model.pt", "summary.json", "table.md"}
FIGURES = {"loss.png", "reconstructions.png", "comparison.png"}
FIGURES |= {"claim_a.png", "claim_b.png", "claim_b_digits.png", "claim_c.png"}
RECORD = {"epoch": 1, "step": 1, "validation": {}, "test": {}}


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(data, "VALIDATION_IMAGES", 4_000)  # leaves 2,100 to train on
    monkeypatch.setattr(representation, "PIXEL_CLASSIFIER_IMAGES", 300)
    monkeypatch.setitem(plots.STYLE, "savefig.dpi", 30)


def save_upstream(script, output_dir, **changes):
    """Write an untrained model where the script would leave its trained one."""
    config = script.Config(**changes)
    path = output_dir / script.__name__ / "model.pt"
    path.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.save(path, script.build(config), config, RECORD)


@pytest.fixture
def config(data_dir, tmp_path):
    for script in (q1_autoencoder, q2_classifier):
        save_upstream(script, tmp_path / "outputs", batch_size=32)
    return q3_frozen_decoder.Config(data_dir=data_dir, output_dir=tmp_path / "outputs", device="cpu", epochs=2)


def test_script_keeps_its_promises(config, capsys):
    summary = q3_frozen_decoder.main(config)
    folder = config.output_dir / "q3_frozen_decoder"
    assert {path.name for path in folder.iterdir()} == FILES | FIGURES
    assert json.loads((folder / "summary.json").read_text()) == summary

    q2_encoder = checkpoint.load(config.output_dir / "q2_classifier" / "model.pt").model.encoder
    saved = checkpoint.load(folder / "model.pt")
    proof = summary["encoder_digest"]["Q3"]
    assert proof["before"] == proof["after"] == digest(q2_encoder) == digest(saved.model.encoder)
    assert proof["before"] != summary["encoder_digest"]["random encoder"]["before"]

    images = data.load("mnist", config.data_dir).test.images
    with torch.inference_mode():
        quoted = (saved.model(images).sigmoid() - images).square().mean().item()
    assert summary["metrics"]["test/mse"]["mean"] == pytest.approx(quoted, rel=1e-4)
    assert summary["baselines"]["pca_12/test/mse"]["mean"] < summary["baselines"]["random_encoder/test/mse"]["mean"]
    assert summary["baselines"]["originals/test/mse"]["mean"] == 0

    upstream = json.loads((folder / "config.json").read_text())["upstream_sha256"]
    for script in ("q1_autoencoder", "q2_classifier"):
        path = config.output_dir / script / "model.pt"
        assert upstream[script] == hashlib.sha256(path.read_bytes()).hexdigest()

    printed = capsys.readouterr().out.splitlines()
    assert printed[:3] == summary["verdicts"]
    assert str(folder) in printed[-1]
    table = (folder / "table.md").read_text()
    assert table.splitlines()[0] == "| measure | originals | Q1 | Q3 | random encoder | PCA-12 |"
    assert f"{summary['metrics']['test/mse']['mean']:.4g}" in table


def test_the_decoder_learns_and_twice_the_same(config, monkeypatch):
    for figure in ("reconstructions", "bars"):  # slow, and no part of this
        monkeypatch.setattr(plots, figure, lambda *_, **__: None)
    metrics = []
    for _ in range(2):
        q3_frozen_decoder.main(config)
        metrics.append((config.output_dir / "q3_frozen_decoder" / "metrics.jsonl").read_bytes())
    assert metrics[0] == metrics[1]
    losses = [json.loads(line)["validation"]["mse"] for line in metrics[0].splitlines()]
    assert losses[1] < losses[0]


@pytest.mark.parametrize("script", [q1_autoencoder, q2_classifier])
def test_a_missing_checkpoint_names_the_command(script, config):
    (config.output_dir / script.__name__ / "model.pt").unlink()
    with pytest.raises(FileNotFoundError, match=rf"make it with `python {script.__name__}\.py --output-dir .*outputs"):
        q3_frozen_decoder.main(config)


def test_a_checkpoint_of_another_dataset_names_the_command(config):
    save_upstream(q2_classifier, config.output_dir, dataset="kmnist")
    with pytest.raises(ValueError, match=r"trained on kmnist, expected mnist.*q2_classifier\.py .*--dataset mnist"):
        q3_frozen_decoder.main(config)


def test_a_checkpoint_of_another_shape_or_kind_is_refused(config):
    save_upstream(q2_classifier, config.output_dir, latent_dim=5)
    with pytest.raises(ValueError, match=r"python q2_classifier\.py` and Q1's --latent-dim"):
        q3_frozen_decoder.main(config)
    path = config.output_dir / "q2_classifier" / "model.pt"
    path.write_bytes((config.output_dir / "q1_autoencoder" / "model.pt").read_bytes())
    with pytest.raises(ValueError, match=r"got a Autoencoder, expected a Classifier.*python q2_classifier\.py"):
        q3_frozen_decoder.main(config)


def test_latents_are_computed_once_and_stay_paired_with_their_images(config):
    dataset = data.load("mnist", config.data_dir)
    encoder = q2_classifier.build(q2_classifier.Config()).encoder
    calls = []
    encoder.register_forward_hook(lambda *_: calls.append(1))
    encoded = train.encode(encoder, dataset)
    assert torch.equal(encoded.train.labels, dataset.train.images)
    with torch.inference_mode():
        expected = encoder(dataset.train.images[700:701])
    assert torch.allclose(encoded.train.images[700:701], expected, atol=1e-5)
    assert len(calls) == 5 + 8 + 1 + 1  # 2,100, 4,000 and 300 images in batches of 500, and the one above


Q1 = {
    "mse": 0.01,
    "latent_slant_within_digit_r2": 0.9,
    "latent_thickness_within_digit_r2": 0.8,
    "latent_size_within_digit_r2": 0.7,
    "latent_linear_probe_accuracy": 0.94,
    "within_class_std_ratio": 0.9,
    "latent_within_class_share": 0.5,
    "fisher_ratio": 0.3,
    "reading_accuracy": 0.9,
    "latent_silhouette": 0.1,
}
Q3 = {
    "mse": 0.03,
    "latent_slant_within_digit_r2": 0.3,
    "latent_thickness_within_digit_r2": 0.2,
    "latent_size_within_digit_r2": 0.1,
    "latent_linear_probe_accuracy": 0.99,
    "within_class_std_ratio": 0.6,
    "latent_within_class_share": 0.2,
    "fisher_ratio": 0.6,
    "reading_accuracy": 0.95,
    "latent_silhouette": 0.5,
}


def holding(q1, q3):
    sentences = q3_frozen_decoder.verdicts(q1, q3)
    assert [sentence[:3] for sentence in sentences] == ["(a)", "(b)", "(c)"]
    assert all(("holds" in sentence) != ("does not hold" in sentence) for sentence in sentences)
    return ["holds" in sentence for sentence in sentences]


def test_verdicts_follow_the_numbers_both_ways():
    assert holding(Q1, Q3) == [True, True, True]
    assert holding(Q3, Q1) == [False, False, False]
    sentence = q3_frozen_decoder.verdicts(Q1, Q3)[1]
    assert "0.9 in Q1, 0.6 in Q3" in sentence


@pytest.mark.parametrize(
    ("name", "claim"), [(name, 0) for name in list(Q1)[:5]] + [(name, 1) for name in list(Q1)[5:7]]
)
def test_one_comparison_the_other_way_is_enough_against_a_claim(name, claim):
    turned = Q3 | {name: 2 * Q1[name] - Q3[name]}
    expected = [True, True, True]
    expected[claim] = False
    assert holding(Q1, turned) == expected
    assert q3_frozen_decoder.verdicts(Q1, turned)[claim].count("(against the claim)") == 1
    assert holding(Q1, Q3 | {name: Q1[name]}) == expected, "equal is neither above nor below"


@pytest.mark.parametrize("name", list(Q1)[7:])
def test_about_the_same_separation_is_enough_and_clearly_less_is_not(name):
    assert holding(Q1, Q3 | {name: 0.96 * Q1[name]})[2]
    assert not holding(Q1, Q3 | {name: 0.94 * Q1[name]})[2]
    negative = Q1 | {name: -0.1}
    assert holding(negative, Q3 | {name: -0.104})[2]
    assert not holding(negative, Q3 | {name: -0.106})[2]


def test_a_collapsed_decoder_is_refused(config, monkeypatch):
    save_upstream(q1_autoencoder, config.output_dir, learning_rate=1e-9)
    with pytest.raises(run.RunError, match="collapsed"):
        q3_frozen_decoder.main(config)
    assert not (config.output_dir / "q3_frozen_decoder" / "model.pt").exists()


def test_the_wide_decoder_has_four_times_the_weights_and_a_folder_of_its_own(config, monkeypatch):
    def seen(decoder, *_, **__):
        raise KeyboardInterrupt(decoder)

    monkeypatch.setattr(train, "fit", seen)
    counts = []
    for wide, name in ((False, "q3_frozen_decoder"), (True, "q3_frozen_decoder-wide")):
        with pytest.raises(KeyboardInterrupt) as error:
            q3_frozen_decoder.main(dataclasses.replace(config, wide=wide))
        counts.append(sum(weights.numel() for weights in error.value.args[0].parameters()))
        assert (config.output_dir / name).exists()
    assert 3.5 < counts[1] / counts[0] < 4.5
