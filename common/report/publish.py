"""Copy what a run has to show into outputs/reference: pages, all numbers, figures, small weights.

python -m common.report.publish --output-dir outputs    # after reproduce.py
"""

import dataclasses
import shutil
from pathlib import Path

from common import checkpoint, run
from common.report import check, pages
from common.report import numbers as tables

WEIGHTS = ("q1_autoencoder", "q2_classifier", "q3_frozen_decoder")
PAGES = ("results.csv", "report.md", "report.html", "draw.html")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    output_dir: Path = run.REPOSITORY / "outputs"
    """Folder of the results to publish."""
    reference: Path = run.REPOSITORY / "outputs" / "reference"
    """Folder of what is published; of each step that was run its figures are replaced."""


def copy_figures(source: Path, target: Path) -> None:
    """Copy a step's figures, in the place of those that are there, and the table of claims."""
    target.mkdir(parents=True, exist_ok=True)
    for path in target.glob("*.png"):
        path.unlink()
    for path in source.glob("*.png"):
        shutil.copyfile(path, target / path.name)
    if (source / "claims.csv").exists():
        shutil.copyfile(source / "claims.csv", target / "claims.csv")


def copy_weights(source: Path, target: Path) -> None:
    """Copy a step's weights as float16, half as large; they are loaded as float32."""
    model = checkpoint.load(source / "model.safetensors")
    checkpoint.save(target / "model.safetensors", model.half())


def main(config: Config) -> None:
    """Publish a run of MNIST by the scripts' own options; InputError for any other."""
    published = tables.read(config.output_dir)
    check.refuse_others(published)
    if not (config.output_dir / "draw.html").exists():
        raise run.InputError(
            f"{config.output_dir}: got no draw.html, expected what `python reproduce.py` leaves"
        )

    pages.write(config.output_dir)
    for step, first in published.firsts.items():
        copy_figures(first.folder, config.reference / step)
        if step in WEIGHTS:
            copy_weights(first.folder, config.reference / step)
    for name in PAGES:
        shutil.copyfile(config.output_dir / name, config.reference / name)

    for notice in pages.notices(published):
        print(notice)
    print(f"published: {config.reference}")


if __name__ == "__main__":
    run.command_line(main, Config)
