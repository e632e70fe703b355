"""Folders of small results that other studies read; each holds those of q1 to q5, too."""

import shutil
from pathlib import Path

import pytest

from tests import helpers


@pytest.fixture(scope="session")
def augmented(trained: Path, data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with small results of studies/augmentation.py."""
    folder = tmp_path_factory.mktemp("augmented") / "outputs"
    shutil.copytree(trained, folder)
    done = helpers.run_module(
        "studies.augmentation",
        *("--dataset", "own", "--data-dir", data_dir, "--output-dir", folder),
        *("--iterations", 20),
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="session")
def pretrained(augmented: Path, data_dir: Path) -> Path:
    """A folder with small results of studies/augmentation.py and studies/pretexts.py."""
    done = helpers.run_module(
        "studies.pretexts",
        *("--dataset", "own", "--data-dir", data_dir, "--output-dir", augmented),
        *("--undo-epochs", 3, "--views-epochs", 3),
    )
    assert done.returncode == 0, done.stderr
    return augmented
