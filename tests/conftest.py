"""The synthetic digits as fixtures."""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported: the tests run side by side, a process per core

import pytest

from tests import synthetic


@pytest.fixture(scope="session")
def raw_contents() -> dict[str, bytes]:
    """The four files of the synthetic dataset, name -> plain content."""
    return synthetic.raw_contents()


@pytest.fixture
def known_files(raw_contents, monkeypatch):
    """Make "mnist" mean the synthetic files, with their checksums and with mirrors that do not exist."""
    return synthetic.make_known(monkeypatch, raw_contents)


@pytest.fixture
def data_dir(tmp_path, raw_contents, known_files):
    """A data folder that holds the synthetic files."""
    return synthetic.write(tmp_path / "data", raw_contents)
