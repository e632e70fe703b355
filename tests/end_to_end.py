"""The check that needs the real images and whole scripts, too slow for pytest; .ci/run calls it.

    python tests/end_to_end.py FOLDER

Fetches MNIST through common.download into FOLDER/data, runs the scripts twice with small budgets and checks what they
promise. Ends with an AssertionError at the first promise that does not hold.
"""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import torch

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

from common import checkpoint, data, download  # noqa: E402
from common.models import digest  # noqa: E402

EPOCHS = 2
FILES = {"config.json", "metrics.jsonl", "model.pt", "summary.json"}
FIGURES = {
    "q1_autoencoder": {"latents.png", "loss.png", "reconstructions.png"},
    "q2_classifier": {"accuracy.png", "confusion.png", "loss.png", "mistakes.png"},
    "q3_frozen_decoder": {
        "table.md",
        "loss.png",
        "reconstructions.png",
        "comparison.png",
        "claim_a.png",
        "claim_b.png",
        "claim_b_digits.png",
        "claim_c.png",
    },
}
FEW = ["--draws", "2", "--plain-iterations", "60", "--iterations", "100"]
FEW_SHOT_FIGURES = {
    "q4_few_shot": {
        "loss.png",
        "accuracy.png",
        "comparison.png",
        "autoencoder_loss.png",
        "autoencoder_comparison.png",
        "reconstructions.png",
    },
    "q5_transfer": {"loss.png", "accuracy.png", "comparison.png", "table.md"},
}


def run(script: str, data_dir: Path, output_dir: Path, options: list[str]) -> Path:
    """Run a script as a user does, from another working directory, and return its folder."""
    command = [sys.executable, REPOSITORY / f"{script}.py", "--data-dir", data_dir, "--output-dir", output_dir]
    subprocess.run([*command, *options], cwd=data_dir, check=True)
    return output_dir / script


def check_files(script: str, folder: Path) -> dict:
    """Check that exactly the promised files are there and fit together; return the summary."""
    found = {path.name for path in folder.iterdir()} - {".lock"}
    assert found == FILES | FIGURES[script], f"{folder} holds {sorted(found)}"
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["checkpoint_sha256"] == hashlib.sha256((folder / "model.pt").read_bytes()).hexdigest()
    epochs = [json.loads(line)["epoch"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert epochs == list(range(1, EPOCHS + 1)), epochs
    for name in FIGURES[script] - {"table.md"}:
        assert (folder / name).read_bytes().startswith(b"\x89PNG"), name
    return summary


@torch.inference_mode()
def outputs(folder: Path, images: torch.Tensor) -> torch.Tensor:
    """Return what the model of a checkpoint makes of ``images``, on the CPU in one batch."""
    return checkpoint.load(folder / "model.pt").model(images)


def main(folder: Path) -> None:
    data_dir = folder / "data"
    _, origins = download.prepare("mnist", data_dir)
    print(*(f"{name}: {origin}" for name, origin in origins.items()), sep="\n")
    test = data.load("mnist", data_dir).test

    folders = {}
    for script in FIGURES:
        folders[script] = run(script, data_dir, folder / "outputs", ["--epochs", str(EPOCHS)])
        again = run(script, data_dir, folder / "again", ["--epochs", str(EPOCHS)])
        for name in ("metrics.jsonl", "model.pt"):
            same = (folders[script] / name).read_bytes() == (again / name).read_bytes()
            assert same, f"{script}: two runs with one seed differ in {name}"

    summary = check_files("q1_autoencoder", folders["q1_autoencoder"])
    quoted, pca = summary["metrics"]["test/mse"]["mean"], summary["baselines"]["pca_12/test/mse"]["mean"]
    measured = (outputs(folders["q1_autoencoder"], test.images).sigmoid() - test.images).square().mean().item()
    assert abs(measured - quoted) < 1e-6, f"the checkpoint gives MSE {measured}, the summary says {quoted}"
    assert quoted < pca, f"test MSE {quoted} does not beat PCA's {pca}"

    summary = check_files("q2_classifier", folders["q2_classifier"])
    quoted = summary["metrics"]["test/accuracy"]["mean"]
    measured = (outputs(folders["q2_classifier"], test.images).argmax(1) == test.labels).double().mean().item()
    assert abs(measured - quoted) < 1e-6, f"the checkpoint gives accuracy {measured}, the summary says {quoted}"
    assert quoted > 0.97, f"test accuracy {quoted}"

    summary = check_files("q3_frozen_decoder", folders["q3_frozen_decoder"])
    quoted = summary["metrics"]["test/mse"]["mean"]
    measured = (outputs(folders["q3_frozen_decoder"], test.images).sigmoid() - test.images).square().mean().item()
    assert abs(measured - quoted) < 1e-6, f"the checkpoint gives MSE {measured}, the summary says {quoted}"
    assert quoted > json.loads((folders["q1_autoencoder"] / "summary.json").read_text())["metrics"]["test/mse"]["mean"]
    encoders = [
        checkpoint.load(folders[name] / "model.pt").model.encoder for name in ("q2_classifier", "q3_frozen_decoder")
    ]
    assert digest(encoders[0]) == digest(encoders[1]) == summary["encoder_digest"]["Q3"]["after"]

    run("q1_autoencoder", data_dir, folder / "outputs", ["--undo", "--undo-epochs", "1"])
    run("q1_autoencoder", data_dir, folder / "again", ["--undo", "--undo-epochs", "1"])
    for script, figures in FEW_SHOT_FIGURES.items():
        options = FEW if script == "q4_few_shot" else [*FEW, "--spread-epochs", "1"]
        folders[script] = run(script, data_dir, folder / "outputs", options)
        again = run(script, data_dir, folder / "again", options)
        same = (folders[script] / "metrics.jsonl").read_bytes() == (again / "metrics.jsonl").read_bytes()
        assert same, f"{script}: two runs with one seed differ in metrics.jsonl"
        missing = figures - {path.name for path in folders[script].iterdir()}
        assert not missing, f"{script} did not write {missing}"
    few, transfer = (json.loads((folders[name] / "summary.json").read_text()) for name in FEW_SHOT_FIGURES)
    assert transfer["draws"]["scratch/plain"] == few["draws"]["scratch/plain"]
    gain = transfer["paired"]["frozen/plain - random frozen/plain"]["mean"]
    assert gain > 0.1, f"Q1's encoder is hardly better than a random one: {gain}"
    print("end to end: every promise holds")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
