"""What all tests share."""

import os

# Before torch is imported: the tests run side by side, a process for each core.
os.environ["OMP_NUM_THREADS"] = "1"

from pathlib import Path

import filelock
import pytest

from tests import helpers


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of small digits, for ``--dataset own --data-dir``."""
    return helpers.write_idx_files(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="session")
def five_commands(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """The five commands of README, in order, with small options, into an empty folder.

    Returns the folder and, by script, what it printed. They are run once for all processes.
    """
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:  # this process's own folder lies in that of all
        folder = folder.parent
    shared = folder / "five-commands"
    with filelock.FileLock(f"{shared}.lock"):
        if not shared.exists():
            helpers.run_five_commands(shared)
    printed = {path.stem: path.read_text() for path in shared.glob("*.txt")}
    return shared / "outputs", printed


@pytest.fixture(scope="session")
def trained(five_commands: tuple[Path, dict[str, str]]) -> Path:
    """A folder of small results of q1 to q5, of dataset own and seed 0."""
    return five_commands[0]
