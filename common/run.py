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
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy
import scipy
import sklearn
import torch
import torchvision
import tyro
from filelock import FileLock, Timeout

from common.download import DatasetName

REPOSITORY = Path(__file__).resolve().parent.parent
SNAPSHOT = "snapshot.pt"  # what train.fit keeps of an unfinished run; its file's name ends so
UNFINISHED = "unfinished.json"  # in a script's folder until its run is complete: what the snapshots belong to
BESIDE = ".tmp-"  # how the name of a file starts until it is complete
_locks: dict[Path, FileLock] = {}  # held until the process ends, however it ends
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
    resume: bool = False
    """Go on from where a killed run with the same options stopped, to the bits it would have reached."""

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

    Bad input (ValueError, OSError) ends as one line on stderr with exit code 2, a failed run (RunError) with 1, Ctrl-C
    with 130; ``python -X dev`` shows the traceback as well.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that knows no "±" shows "?"
    try:
        main(parse(config_class, main.__module__, arguments))
    except (ValueError, OSError, RunError) as error:
        if sys.flags.dev_mode:
            raise
        sys.exit(_fail(str(error), 1 if isinstance(error, RunError) else 2))
    except (MemoryError, torch.OutOfMemoryError):
        sys.exit(_fail("out of memory; try a smaller --batch-size, or --device cpu if it was a GPU's", 1))
    except KeyboardInterrupt:
        again = " with --resume" if issubclass(config_class, Options) else ""
        sys.exit(_fail(f"interrupted; the same command{again} goes on from here", 130))


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


def _shown(path: Path) -> str:
    """Return a path as it is written down: inside the repository, relative to it."""
    return path.relative_to(REPOSITORY).as_posix() if path.is_relative_to(REPOSITORY) else str(path)


def start(options: Options, script: str, provenance: dict[str, Any]) -> Path:
    """Return ``<output-dir>/<script name>``, made if need be, for this process alone to write to until it ends.

    With ``options.resume`` the snapshots that a killed run left there stay, and ``train.fit`` goes on from them;
    without it they go. Complete files stay until new ones replace them. Raises ValueError when the killed run's
    provenance is another or another process writes there, OSError when the folder cannot be written to.
    """
    folder = options.output_dir / Path(script).stem
    unfinished = folder / UNFINISHED
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _locks.setdefault(folder.resolve(), FileLock(folder / ".lock")).acquire(timeout=0)
    except Timeout:
        raise ValueError(
            f"{folder} is being written to by {_owner(unfinished)}: wait for it, or give another --output-dir"
        ) from None
    except OSError as error:
        raise OSError(f"cannot write to {folder} ({error.strerror}): give another --output-dir") from error
    for abandoned in folder.rglob(f"{BESIDE}*"):
        abandoned.unlink()
    if options.resume and unfinished.exists():
        _require_same(unfinished, provenance)
        print(f"going on with the unfinished run in {folder}")
    else:
        if options.resume:
            print(f"no unfinished run in {folder}: starting from the beginning")
        if unfinished.exists() or (folder / "config.json").exists():
            print(f"replacing the earlier run in {folder}")
        _drop_snapshots(folder)
    write(unfinished, json.dumps({"process": os.getpid()} | provenance))
    return folder


def _owner(unfinished: Path) -> str:
    try:
        return f"process {json.loads(unfinished.read_text('utf-8'))['process']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


def _require_same(unfinished: Path, provenance: dict[str, Any]) -> None:
    """Raise ValueError, naming the fields and both values, unless the unfinished run's provenance is the same."""
    try:
        found = differences(json.loads(unfinished.read_text("utf-8")), provenance)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"cannot use {unfinished}, it is damaged: leave out --resume to start afresh") from error
    if found:
        raise ValueError(
            f"--resume: the unfinished run in {unfinished.parent} had other settings: {'; '.join(found)}."
            " Give its own, or leave out --resume to start afresh"
        )


def resumable(folder: Path, provenance: dict[str, Any]) -> bool:
    """Return whether a killed run of the same provenance left ``folder`` unfinished."""
    try:
        _require_same(folder / UNFINISHED, provenance)
    except (OSError, ValueError):
        return False
    return True


def differences(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Say in what two provenances differ that decides about the bits of a result: not in folders, nor in the commit."""
    old, new = determining(then), determining(now)
    return [f"{name} {old.get(name)} then, {new.get(name)} now" for name in new | old if old.get(name) != new.get(name)]


def determining(provenance: dict[str, Any]) -> dict[str, Any]:
    """Return what of a provenance decides about the bits of a result, flat."""
    options = {k: v for k, v in provenance["options"].items() if k not in ("data_dir", "output_dir", "resume")}
    flat = {
        f"{k} {name}": v for k in ("versions", "upstream_sha256", "source_sha256") for name, v in provenance[k].items()
    }
    return options | flat | {name: provenance[name] for name in ("device", "threads", "data_sha256")}


def _drop_snapshots(folder: Path) -> None:
    for snapshot in folder.rglob(f"*{SNAPSHOT}"):
        snapshot.unlink()
    (folder / UNFINISHED).unlink(missing_ok=True)


def write(path: Path, content: bytes | str) -> None:
    """Write a file, text as UTF-8: beside ``path``, and renamed when it is complete. OSError says which."""
    beside = path.with_name(f"{BESIDE}{os.getpid()}-{path.name}")
    try:
        beside.write_bytes(content.encode() if isinstance(content, str) else content)
        os.replace(beside, path)
    except OSError as error:
        raise OSError(f"cannot write {path} ({error.strerror}); what was there before is as it was") from error
    finally:
        with contextlib.suppress(OSError):  # where nothing can be written, nothing may be there either
            beside.unlink(missing_ok=True)


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


def provenance(
    options: Options, script: str, device: torch.device, fingerprint: str, upstream: dict[Path, str]
) -> dict[str, Any]:
    """Return what a result depends on, for config.json: resolved options, device and threads, versions, the data's
    fingerprint, the sha256 of upstream checkpoints by their script, of the script and of common/, the git commit.
    """
    return {
        "options": {k: _shown(v) if isinstance(v, Path) else v for k, v in dataclasses.asdict(options).items()},
        "device": str(device),
        "threads": torch.get_num_threads(),
        "versions": versions(),
        "data_sha256": fingerprint,
        "upstream_sha256": {path.parent.name: sha256 for path, sha256 in upstream.items()},
        "git_commit": git_commit(),
        "source_sha256": source_sha256(script),
    }


def finish(folder: Path, provenance: dict[str, Any], history: list[dict], summary: dict[str, Any]) -> None:
    """Write metrics.jsonl, summary.json and, with the sha256 of every file of the folder, config.json; then drop what
    only an unfinished run needs.
    """
    texts = {
        "metrics.jsonl": "".join(json.dumps(record, allow_nan=False) + "\n" for record in history),
        "summary.json": json.dumps(summary, indent=2, allow_nan=False) + "\n",
    }
    for name, text in texts.items():
        write(folder / name, text)
    write(folder / "config.json", json.dumps(provenance | {"files_sha256": _digests(folder)}, indent=2) + "\n")
    _drop_snapshots(folder)


def complete(folder: Path) -> dict[str, Any] | None:
    """Return the provenance of the run in ``folder``, None unless it ended and its files are as it left them."""
    try:
        written = json.loads((folder / "config.json").read_text("utf-8"))
        digests = written.pop("files_sha256")
        determining(written)
        return written if all(sha256(folder / name) == digest for name, digest in digests.items()) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def sha256(path: Path) -> str:
    """Return the sha256 of a file, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _digests(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): sha256(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in (".lock", "config.json", UNFINISHED) and not path.match(f"*{SNAPSHOT}")
    }


def versions() -> dict[str, str]:
    """Return the versions that a result depends on."""
    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),  # a class of torch's own, which a safe load refuses
        "torchvision": torchvision.__version__,
        "numpy": numpy.__version__,
        "scikit-learn": sklearn.__version__,
        "scipy": scipy.__version__,
    }


def source_sha256(script: str) -> dict[str, str]:
    """Return the sha256 of the script and of each file of common/: what the commit does not tell of changed files."""
    paths = [REPOSITORY / Path(script).name, *sorted(REPOSITORY.glob("common/*.py"))]
    return {path.relative_to(REPOSITORY).as_posix(): sha256(path) for path in paths if path.exists()}


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
