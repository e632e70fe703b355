"""What every script's run needs: shared options, device, seeds, and files that are written whole or not at all."""

import contextlib
import dataclasses
import hashlib
import io
import json
import math
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy
import torch
import torchvision
import tyro

from common.download import DatasetName

REPOSITORY = Path(__file__).resolve().parent.parent
RESUME = "resume.pt"  # in a script's folder while it trains
UNITS = {
    "l1": "L1 per pixel, pixels in [0, 1]",
    "mse": "MSE per pixel, pixels in [0, 1]",
    "bce": "binary cross-entropy per pixel (nats)",
    "cross_entropy": "cross-entropy (nats)",
    "accuracy": "accuracy (fraction)",
}


class RunError(RuntimeError):
    """The options were fine but the run has no result worth keeping: a collapse, a non-finite loss."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """The options that every script shares."""

    dataset: DatasetName = "mnist"
    """Which images; all four have the same shape and split sizes."""
    data_dir: Path = REPOSITORY / "data"
    """Folder of the raw data files; what is missing is fetched into it."""
    output_dir: Path = REPOSITORY / "outputs"
    """Folder of the results; each script writes into a subfolder of its own name."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute; auto takes a GPU when there is one."""
    seed: int = 0
    """Seed of every random choice, 0 to 4294967295: same seed, machine and thread count, same bits."""

    def __post_init__(self) -> None:
        require(self, "seed", least=0, most=2**32 - 1)  # scikit-learn takes no more


def require(options: Any, *names: str, least: float, most: float = sys.float_info.max) -> None:
    """Raise ValueError unless each named option is a finite number from ``least`` to ``most``."""
    for name in names:
        value = getattr(options, name)
        if not least <= value <= most:  # true for nan
            upper = f" to {most}" if most < sys.float_info.max else " or more"
            raise ValueError(f"--{name.replace('_', '-')}: got {value}, expected {least}{upper}")


def command_line(main: Callable[[Any], Any], config_class: type, arguments: list[str] | None = None) -> None:
    """Parse the command line into ``config_class`` and call ``main`` with it.

    Bad input (ValueError, OSError) ends as one line on stderr with exit code 2, a failed run (RunError) with 1;
    ``python -X dev`` shows the traceback as well.
    """
    try:
        main(parse(config_class, main.__module__, arguments))
    except (ValueError, OSError, RunError) as error:
        if sys.flags.dev_mode:
            raise
        sys.exit(_fail(str(error), 1 if isinstance(error, RunError) else 2))
    except KeyboardInterrupt:
        sys.exit(
            _fail(
                "interrupted; a script goes on from its last finished epoch when the same command is given again", 130
            )
        )


def parse(config_class: type, description_module: str, arguments: list[str] | None = None) -> Any:
    """Build a ``config_class`` from command-line arguments (the process's own if None), with the module's docstring
    as help. Raises ValueError with one line for an unknown option or an impossible value.
    """
    boxed = io.StringIO()
    try:
        with contextlib.redirect_stderr(boxed):
            return tyro.cli(config_class, args=arguments, description=sys.modules[description_module].__doc__)
    except SystemExit as stop:
        if not stop.code:  # --help
            raise
        # tyro frames its message in a box: a title, the message, then a rule and further help.
        message = boxed.getvalue().split("\n", 1)[-1].split("───", 1)[0]
        line = " ".join(message.translate(str.maketrans("│╭╮╰╯─", "      ")).split())
        line = line.removeprefix(f"Error parsing {config_class.__name__}: ").rstrip(".")
        raise ValueError(f"{line}; --help lists the options") from None


def _fail(message: str, code: int) -> int:
    print("error: " + " ".join(message.split()), file=sys.stderr)
    return code


def device(options: Options) -> torch.device:
    """Return the device that ``options.device`` names; ValueError if this machine has none of that kind."""
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    name = options.device
    if name == "auto":
        name = next(kind for kind, usable in available.items() if usable)
    if not available[name]:
        usable = ", ".join(kind for kind, usable in available.items() if usable)
        raise ValueError(
            f"--device: got {name}, which PyTorch does not find on this machine; expected auto or {usable}"
        )
    torch.backends.cudnn.deterministic = True  # same seed, same bits on a GPU too
    return torch.device(name)


def generator(seed: int, purpose: str, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a generator of its own for one purpose ("encoder", "batches/3"), so that no choice disturbs another."""
    digest = hashlib.sha256(f"{purpose}/{seed}".encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def folder(options: Options, script: str) -> Path:
    """Create and return ``<output-dir>/<script name>``; OSError if a file stands in the way."""
    path = options.output_dir / Path(script).stem
    path.mkdir(parents=True, exist_ok=True)
    return path


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yield a path beside ``path`` to write to, and rename it to ``path`` when the block ends without an error."""
    beside = path.with_name(f".{path.stem}-{os.getpid()}{path.suffix}")
    try:
        yield beside
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    with written_whole(path) as beside:
        beside.write_text(text, encoding="utf-8")


def quoted(values: dict[str, float | list[float]], split: str, prefix: str = "") -> dict[str, dict]:
    """Turn metrics (name -> the value of a run, or a list with one of each run) into the form of summary.json: mean,
    std (of the sample, None for one run), n (runs), unit and split, by the name "test/l1", or "pca_12/test/l1" with a
    prefix.
    """
    entries = {}
    for name, value in values.items():
        runs = value if isinstance(value, list) else [value]
        mean, std = statistics.fmean(runs), statistics.stdev(runs) if len(runs) > 1 else None
        entries[f"{prefix}/{split}/{name}".lstrip("/")] = {
            "mean": mean if math.isfinite(mean) else None,  # JSON has no infinity, which some measures reach
            "std": std,
            "n": len(runs),
            "unit": _unit(name),
            "split": split,
        }
    return entries


def _unit(name: str) -> str:
    """Look up a metric's unit; the measures of ``common.representation`` are fractions, R^2 or scale-free ratios."""
    if name in UNITS:
        return UNITS[name]
    return UNITS["accuracy"] if name.endswith("accuracy") else "R^2" if name.endswith("r2") else "ratio, scale-free"


def provenance(options: Options, device: torch.device, fingerprint: str, upstream: dict[str, str]) -> dict[str, Any]:
    """Return what a result depends on, for config.json: resolved options, device and threads, versions, the data's
    fingerprint, the sha256 of upstream checkpoints (path -> sha256), the git commit.
    """
    return {
        "options": {k: str(v) if isinstance(v, Path) else v for k, v in dataclasses.asdict(options).items()},
        "device": str(device),
        "threads": torch.get_num_threads(),
        "versions": versions(),
        "data_sha256": fingerprint,
        "upstream_sha256": upstream,
        "git_commit": git_commit(),
        "source_sha256": source_sha256(),
    }


def finish(folder: Path, provenance: dict[str, Any], history: list[dict], summary: dict[str, Any]) -> None:
    """Write config.json, metrics.jsonl and summary.json, and drop the state that an interrupted run would need."""
    texts = {
        "config.json": json.dumps(provenance, indent=2) + "\n",
        "metrics.jsonl": "".join(json.dumps(record, allow_nan=False) + "\n" for record in history),
        "summary.json": json.dumps(summary, indent=2, allow_nan=False) + "\n",
    }
    for name, text in texts.items():
        write_text(folder / name, text)
    for state in folder.rglob(f"*{RESUME}"):
        state.unlink()


def versions() -> dict[str, str]:
    """Return the versions that a result depends on."""
    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),  # a class of torch's own, which a safe load refuses
        "torchvision": torchvision.__version__,
        "numpy": numpy.__version__,
    }


def source_sha256() -> str:
    """Return the sha256 over the scripts and common/: what the commit does not tell of files that differ from it."""
    total = hashlib.sha256()
    for path in sorted([*REPOSITORY.glob("*.py"), *REPOSITORY.glob("common/*.py")]):
        total.update(path.read_bytes())
    return total.hexdigest()


def git_commit() -> str | None:
    """Return the commit of this repository, with "-dirty" when files differ from it; None outside git."""
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            cwd=REPOSITORY, capture_output=True, text=True, check=True,
        )  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return None
    return described.stdout.strip()
