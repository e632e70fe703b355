"""studies/augmentation.py: a small run, and the differences that it is about."""

from pathlib import Path

import numpy
import pandas
import torch

from common import checkpoint, few_shot
from common.figures import style
from common.models import fingerprint
from studies import augmentation


def test_every_fit_is_saved_and_measured_beside_q4_and_q5(augmented: Path):
    folder = augmented / "studies/augmentation"
    numbers = pandas.read_csv(folder / "numbers.csv", keep_default_na=False)
    q4 = pandas.read_csv(augmented / "q4_few_shot/numbers.csv", keep_default_na=False)
    subsets = set(q4[q4.model == "scratch"].subset)

    accuracy = numbers[(numbers.split == "test") & (numbers.measure == "accuracy")]
    assert set(accuracy.subset) == subsets
    fits = 3 * len(subsets) + 3 * (len(subsets) - 1)  # controls are of the balanced subsets
    assert len(accuracy) == len(list(folder.glob("*.safetensors"))) == fits

    # The file is found by the subset and the name of the model, and its encoder did not move.
    subset = few_shot.Subset("balanced 1", 1, torch.arange(20))
    frozen = checkpoint.load(folder / subset.file_name("frozen, augmented"))
    q1 = checkpoint.load(augmented / "q1_autoencoder/model.safetensors")
    assert fingerprint(frozen.encoder) == fingerprint(q1.encoder)
    scratch = checkpoint.load(folder / subset.file_name("scratch, augmented"))
    assert fingerprint(scratch.encoder) != fingerprint(q1.encoder)

    # Controls are fits of their own: at other rates, or of images as they are.
    of_subset = accuracy[accuracy.subset == "balanced 1"]
    assert of_subset.value.nunique() > 1
    title, caption = style.texts(folder / "comparison.png")
    assert "Q1's encoder helps" in title and "seed 0" in caption


def test_gains_are_paired_by_subset():
    values = {  # balanced 1, balanced 2
        "scratch": (0.80, 0.82),
        "scratch, augmented, short": (0.90, 0.93),
        "scratch, long": (0.81, 0.82),
        "scratch, augmented": (0.96, 0.95),
        "fine-tuned": (0.86, 0.87),
        "fine-tuned, augmented": (0.95, 0.95),
        "fine-tuned, augmented, Q5's rate": (0.92, 0.92),
        "frozen, augmented": (0.90, 0.90),
    }
    rows = []
    for model, pair in values.items():
        for number, value in enumerate(pair, 1):
            rows.append((model, f"balanced {number}", "test", "accuracy", value))
            rows.append((model, f"balanced {number}", "labelled", "accuracy", 1.0))
    columns = ["model", "subset", "split", "measure", "value"]
    gains = augmentation.gains(pandas.DataFrame(rows, columns=columns))

    expected = {
        "augmentation, all that differs": (0.16, 0.13),
        "augmentation alone, short": (0.10, 0.11),
        "augmentation alone, long": (0.15, 0.13),
        "Q1's encoder, plain": (0.06, 0.05),
        "Q1's encoder, augmented": (-0.01, 0.0),
        "the same at Q5's rate": (-0.04, -0.03),
        "Q1's encoder frozen, augmented": (-0.06, -0.05),
    }
    assert set(gains) == set(expected)
    for name, pair in expected.items():
        numpy.testing.assert_allclose(gains[name], pair, atol=1e-12)
