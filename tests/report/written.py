"""Folders of results as the scripts leave them, with numbers worked by hand."""

import csv
import json
from pathlib import Path
from typing import Any

from common import results

CONFIG = {
    "command": "python {step}.py",
    "options": {"dataset": "mnist", "epochs": 7},
    "device": "cpu",
    "threads": 1,
    "versions": {"torch": "2.14.1"},
    "git_commit": "c" * 40,
    "code_files": [],
    "code_sha256": results.code_sha256([]),
    "data_sha256": "d" * 64,
}
Row = tuple[str, str, str, str, float]  # model, subset, split, measure, value


def write_step(output_dir: Path, step: str, seed: int, rows: list[Row], **changes: Any) -> Path:
    """Write a step's results of a seed, as reproduce.py lays them out, and return their folder.

    ``changes`` are of config.json; options are added to the others.
    """
    folder = (output_dir if seed == 0 else output_dir / f"seed{seed}") / step
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "numbers.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["model", "subset", "split", "measure", "value"])
        writer.writerows(rows)

    options = CONFIG["options"] | {"seed": seed} | changes.pop("options", {})
    config = CONFIG | {"command": CONFIG["command"].format(step=step)} | changes
    seal(folder, config | {"options": options})
    return folder


def seal(folder: Path, config: dict[str, Any] | None = None) -> None:
    """Write config.json, the one that is there unless given, with the digests of all files."""
    config = config or json.loads((folder / "config.json").read_text("utf-8"))
    files = [path for path in sorted(folder.iterdir()) if path.name != "config.json"]
    digests = {path.name: results.sha256(path) for path in files}
    results.write_json(folder / "config.json", config | {"files_sha256": digests})
