"""The check that needs the real images and whole scripts, too slow for pytest; .ci/run calls it.

    python tests/end_to_end.py FOLDER

Fetches MNIST through common.download into FOLDER/data, runs every step of reproduce.py with small budgets, the quick
ones twice, and checks what they promise. Ends with an AssertionError at the first promise that does not hold.
"""

import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import torch

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

from common import checkpoint, data, draw_page, report, results  # noqa: E402
from common.models import digest  # noqa: E402
from reproduce import STEPS  # noqa: E402

BUDGET = {
    "q1_autoencoder": ["--epochs", "2"],
    "q1_undo": ["--epochs", "1"],
    "q2_classifier": ["--epochs", "2"],
    "q2_plain": ["--epochs", "1"],
    "q3_frozen_decoder": ["--epochs", "2"],
    "q4_few_shot": ["--subsets", "2", "--plain-iterations", "60", "--iterations", "100"],
    "q5_transfer": ["--spread-epochs", "1"],
}


TWICE = ("q1_autoencoder", "q2_classifier", "q4_few_shot")  # that two runs give the same bits; the others take minutes


def run_steps(data_dir: Path, output_dir: Path, names: Iterable[str]) -> None:
    """Run steps as a user does, from another working directory."""
    for step in (step for step in STEPS if step.folder in names):
        command = [sys.executable, REPOSITORY / step.script, *step.options, *BUDGET[step.folder]]
        command += ["--data-dir", data_dir, "--output-dir", output_dir]
        subprocess.run(command, cwd=data_dir, check=True)


def numbers(folder: Path) -> dict[tuple[str, str], float]:
    """Return the test numbers of a step by model and measure."""
    entries = json.loads((folder / "summary.json").read_text("utf-8"))["numbers"]
    return {(entry["model"], entry["measure"]): entry["mean"] for entry in entries if entry["split"] == "test"}


def main(folder: Path) -> None:
    data_dir, outputs, again = folder / "data", folder / "outputs", folder / "again"
    test = data.load("mnist", data_dir).test
    run_steps(data_dir, outputs, BUDGET)
    run_steps(data_dir, again, TWICE)
    for name in TWICE:
        written, repeated = (results.read_config(where / name) for where in (outputs, again))
        assert results.result_sha256(written) == results.result_sha256(repeated), f"{name}: other bits"
    for step in STEPS:
        summary = json.loads((outputs / step.folder / "summary.json").read_text("utf-8"))
        assert set(summary["figures"]) == {path.name for path in (outputs / step.folder).glob("*.png")}
    assert not list(outputs.glob(".*")), "something was left beside"

    models = {}
    for name, model in (("q1_autoencoder", "Q1"), ("q3_frozen_decoder", "Q3")):
        models[name] = checkpoint.load(outputs / name / "model.safetensors").model
        with torch.inference_mode():
            measured = (models[name](test.inputs).sigmoid() - test.inputs).square().mean().item()
        quoted = numbers(outputs / name)[model, "mse"]
        assert abs(measured - quoted) < 1e-6, f"{name}: the checkpoint gives MSE {measured}, the summary says {quoted}"
    q2 = checkpoint.load(outputs / "q2_classifier" / "model.safetensors").model
    with torch.inference_mode():
        measured = (q2(test.inputs).argmax(1) == test.targets).double().mean().item()
    quoted = numbers(outputs / "q2_classifier")["Q2", "accuracy"]
    assert abs(measured - quoted) < 1e-6 and quoted > 0.97, (
        f"the checkpoint gives {measured}, the summary says {quoted}"
    )
    assert digest(q2.encoder) == digest(models["q3_frozen_decoder"].encoder), "the frozen encoder changed"

    q3 = numbers(outputs / "q3_frozen_decoder")
    assert q3["Q1", "mse"] < q3["PCA-12", "mse"] and q3["Q1", "mse"] < q3["Q3", "mse"] < q3["random encoder", "mse"]
    assert q3["original", "reading_accuracy"] > 0.99, "the reader is to be a strong one"
    q4, q5 = numbers(outputs / "q4_few_shot"), numbers(outputs / "q5_transfer")
    assert q4["scratch, plain", "accuracy"] == q5["scratch, plain", "accuracy"]
    gain = q5["frozen, plain", "accuracy"] - q5["random frozen, plain", "accuracy"]
    assert gain > 0.1, f"Q1's encoder is hardly better than a random one: {gain}"
    text = report.write(outputs).read_text("utf-8")
    assert text.count("data:image/png") == sum(len(list((outputs / step.folder).glob("*.png"))) for step in STEPS)
    assert draw_page.write(outputs, data_dir).stat().st_size < 2.5e6
    print("end to end: every promise holds")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
