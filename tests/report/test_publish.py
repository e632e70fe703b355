"""Tests of common/report/publish.py: what is copied, and what is refused."""

import pytest
import torch

from common import checkpoint, run
from common.models import Autoencoder, Decoder, Encoder
from common.report import publish
from tests.report.written import write_step

ROWS = [("Q1", "", "test", "l1", 0.027)]


def test_pages_numbers_and_figures_are_replaced_and_nothing_else(tmp_path):
    outputs, reference = tmp_path / "outputs", tmp_path / "reference"
    for seed in (0, 1):
        write_step(outputs, "q1_autoencoder", seed, ROWS)
    model = Autoencoder(Encoder(12), Decoder(12))
    checkpoint.save(outputs / "q1_autoencoder" / "model.safetensors", model)
    (outputs / "draw.html").write_text("a page")
    (reference / "q1_autoencoder").mkdir(parents=True)
    (reference / "q1_autoencoder" / "old.png").write_bytes(b"")
    (reference / "ablation.md").write_text("a log")

    publish.main(publish.Config(output_dir=outputs, reference=reference))

    names = {path.name for path in reference.iterdir()}
    assert names == {*publish.PAGES, "ablation.md", "q1_autoencoder"}
    assert not list(reference.glob("*/old.png"))
    assert len((reference / "results.csv").read_text().splitlines()) == 3

    # Half as large, and the same up to float16's rounding.
    weights = reference / "q1_autoencoder" / "model.safetensors"
    assert weights.stat().st_size < 1_000_000
    image = torch.rand(5, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(checkpoint.load(weights)(image), model(image), atol=0.01, rtol=0)


def test_a_run_with_other_options_is_refused(tmp_path):
    command = "python q1_autoencoder.py --epochs 1"
    write_step(tmp_path, "q1_autoencoder", 0, ROWS, command=command)
    with pytest.raises(run.InputError, match="--epochs 1"):
        publish.main(publish.Config(output_dir=tmp_path, reference=tmp_path / "reference"))
    assert not (tmp_path / "reference").exists()
