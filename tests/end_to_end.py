"""The check that needs the real images and whole trainings, too slow for pytest; .ci/run calls it.

    python tests/end_to_end.py FOLDER

Runs README's five commands, in order and with no options but the folders, into an empty folder,
then reproduce.py on what they left, and checks what they promise. Ends with an AssertionError at
the first promise that does not hold.
"""

import subprocess
import sys
import time
from pathlib import Path

import torch

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

from common import checkpoint, data, run  # noqa: E402
from common.models import fingerprint  # noqa: E402

SCRIPTS = ("q1_autoencoder", "q2_classifier", "q3_frozen_decoder", "q4_few_shot", "q5_transfer")


def run_command(*arguments: str | Path) -> None:
    """Run Python as a user does, from another working directory, and print the seconds it took."""
    started = time.perf_counter()
    subprocess.run([sys.executable, *arguments], cwd="/", check=True)
    print(f"{Path(arguments[0]).name}: {time.perf_counter() - started:.0f} s", flush=True)


def test_numbers(folder: Path) -> dict[tuple[str, str], float]:
    """Return a step's numbers on test images by model and measure, means over its subsets."""
    table = run.read_table(folder / "numbers.csv")
    return table[table.split == "test"].groupby(["model", "measure"]).value.mean().to_dict()


def main(folder: Path) -> None:
    outputs = folder / "outputs"
    places = ("--data-dir", folder / "data", "--output-dir", outputs)
    for script in SCRIPTS:
        run_command(REPOSITORY / f"{script}.py", *places)
    assert sorted(path.name for path in outputs.iterdir()) == list(SCRIPTS)

    numbers = {script: test_numbers(outputs / script) for script in SCRIPTS}
    q1, q2, q3, q4, q5 = numbers.values()
    assert q1["Q1", "l1"] < 0.03 < q1["PCA-12", "l1"] < q1["mean image", "l1"]
    assert q2["Q2", "accuracy"] > 0.985 > q2["logistic regression on pixels", "accuracy"]
    assert q3["Q1", "l1"] == q1["Q1", "l1"] or abs(q3["Q1", "l1"] - q1["Q1", "l1"]) < 1e-6
    assert q3["Q1", "variance_explained"] > q3["Q3", "variance_explained"] > 0
    assert q3["original", "reading_accuracy"] > 0.99, "the reader is to be a strong one"
    assert 0.6 < q4["scratch", "accuracy"] < 0.9
    assert q5["fine-tuned", "accuracy"] > q4["scratch", "accuracy"] + 0.02
    assert q5["frozen, all labels", "accuracy"] > q5["frozen", "accuracy"] + 0.02

    # The numbers are those of the files.
    test = data.load("mnist", folder / "data").test
    model = checkpoint.load(outputs / "q1_autoencoder" / "model.safetensors")
    classifier = checkpoint.load(outputs / "q2_classifier" / "model.safetensors")
    decoder = checkpoint.load(outputs / "q3_frozen_decoder" / "model.safetensors")
    with torch.inference_mode():
        error = (model(test.images).sigmoid() - test.images).abs().mean().item()
        accuracy = (classifier(test.images).argmax(1) == test.labels).double().mean().item()
    assert abs(error - q1["Q1", "l1"]) < 1e-6
    assert abs(accuracy - q2["Q2", "accuracy"]) < 1e-6
    assert fingerprint(decoder.encoder) == fingerprint(classifier.encoder), "it was to be frozen"

    # Finished and unchanged: nothing is run again, and the pages are written.
    run_command(REPOSITORY / "reproduce.py", *places)
    for page in ("report.html", "report.md", "results.csv", "draw.html"):
        assert (outputs / page).stat().st_size > 10_000, page
    print("end to end: every promise holds")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
