"""What every script's run needs: shared options, device, seeds, numbers, and a folder that is swapped in whole.

PyTorch is imported where it is used, as reproduce.py, which uses this too and waits for the steps, needs none.
"""

import contextlib
import dataclasses
import errno
import hashlib
import inspect
import io
import json
import math
import os
import re
import shlex
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro

from common import results
from common.download import DATA_DIR, DatasetName
from common.results import REPOSITORY

if TYPE_CHECKING:
    import torch

MADE_BY = {
    "q1_undo": "q1_autoencoder.py --undo",
    "q2_plain": "q2_classifier.py --plain",
}  # results whose name is not their script's
# What an option may be; the others are whole numbers from 1 or other numbers from 0.
LIMITS = {"seed": (0, 2**32 - 1), "latent_dim": (2, 784), "subsets": (2, 999)}  # scikit-learn takes no larger seed
LIMITS |= {"learning_rate": (1e-9, math.inf), "label_smoothing": (0, 1)}
# By how a measure's name ends.
UNITS = {"l1": "L1 per pixel, pixels in [0, 1]", "mse": "MSE per pixel, pixels in [0, 1]", "r2": "R²"}
UNITS |= {"bce": "binary cross-entropy per pixel (nats)", "cross_entropy": "cross-entropy (nats)"}
UNITS |= {"accuracy": "accuracy (fraction)", "iteration": "training iterations"}
DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES}


class InputError(Exception):
    """The user's mistake: one line with what was found, what was expected and what to do."""

    exit_code = 2


class RunError(Exception):
    """The input was fine but the run has no result worth keeping: a collapse, a non-finite loss."""

    exit_code = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """The options that every script shares. InputError for a number outside its limits."""

    dataset: DatasetName = "mnist"
    """Which images; all four have the same shape and split sizes."""
    data_dir: Path = DATA_DIR
    """Folder of the raw data files; what is missing is fetched into it."""
    output_dir: Path = REPOSITORY / "outputs"
    """Folder of the results; each script writes into a subfolder of its own name."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute; auto takes a GPU when there is one."""
    seed: int = 0
    """Seed of every random choice, 0 to 4294967295: same seed, machine and thread count, same bits."""

    def __post_init__(self) -> None:
        require_limits(self)


def require_limits(options: Any) -> None:
    """Raise InputError for an int or float field that is not finite or not within ``LIMITS``."""
    for name, value in vars(options).items():
        if type(value) in (int, float):
            least, most = LIMITS.get(name, (1, 10**9) if type(value) is int else (0, math.inf))
            if not (least <= value <= most and value < math.inf):  # true for nan
                upper = f" to {most}" if most < math.inf else " or more"
                raise InputError(f"--{name.replace('_', '-')}: got {value}, expected {least}{upper}")


def command_line(main: Callable[[Any], Any], config_class: type, arguments: list[str] | None = None) -> None:
    """Call ``main`` with what the command line says. An InputError or RunError, a disk that takes no more (2), Ctrl-C
    (130) end as one line on stderr; every other exception keeps its traceback. What is unfinished is removed.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that knows no "±" shows "?"
    config, interrupted = None, 0
    try:
        config = parse(config_class, inspect.getmodule(main).__doc__, arguments)
        main(config)
    except (InputError, RunError) as error:
        sys.exit(_say(error, error.exit_code))
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        path = error.filename or "the results"
        sys.exit(_say(f"cannot write {path} ({error.strerror}); earlier results are kept", 2))
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and type(error).__name__ != "OutOfMemoryError":  # torch's, of a GPU
            raise
        sys.exit(_say("out of memory; try a smaller --batch-size, or --device cpu if it was a GPU's", 1))
    except KeyboardInterrupt:
        interrupted = _say("interrupted; earlier results are kept, and the same command starts again", 130)
    finally:
        if isinstance(config, Options):
            results.remove_unfinished(config.output_dir)
    if interrupted:
        os._exit(interrupted)  # at once: fits in other threads have nothing to lose


def parse(config_class: type, description: str | None, arguments: list[str] | None = None) -> Any:
    """Build a ``config_class`` from command-line arguments; InputError for an unknown option or an impossible value."""
    boxed = io.StringIO()
    try:
        with contextlib.redirect_stderr(boxed):
            return tyro.cli(config_class, args=arguments, description=description)
    except SystemExit as stop:
        if not stop.code:  # --help
            raise
        # tyro prints a box, of hyphens for an ASCII terminal: a title, the message, then a rule and further help.
        parts = re.split(r"(?m)^[ │]*[─-]{5,}[ │]*$", boxed.getvalue().split("\n", 1)[-1])
        message = next(filter(str.strip, parts), "")
        line = " ".join(message.replace("│", " ").split()).removeprefix(f"Error parsing {config_class.__name__}: ")
        raise InputError(f"{line.rstrip('.')}; --help lists the options") from None


def _say(message: object, code: int) -> int:
    print("error: " + " ".join(str(message).split()), file=sys.stderr, flush=True)
    return code


def device(name: str) -> "torch.device":
    """Return the device of ``--device``, set up; InputError if this machine has none of that kind."""
    import torch

    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(kind for kind, usable in available.items() if usable)
    if not available[name]:
        usable = ", ".join(kind for kind, usable in available.items() if usable)
        raise InputError(f"--device: got {name}, which PyTorch does not find here; expected auto or {usable}")
    torch.backends.cudnn.deterministic = True
    # The momentum of a unit that is dead falls by 5 % a step until a CPU takes 50 times as long for a product with it.
    torch.set_flush_denormal(True)
    return torch.device(name)


def generator(seed: int, purpose: str, device: "torch.device | str" = "cpu") -> "torch.Generator":
    """Return a generator of its own for one purpose ("encoder", "batches/3"), so that no choice disturbs another."""
    import torch

    digest = hashlib.sha256(f"{purpose}/{seed}".encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def numbers(model: str, metrics: dict[str, Any], split: str, headline: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    """Return metrics (name -> one value, or a list) as entries of summary.json; ``headline`` are the main ones."""
    entries = []
    for measure, value in metrics.items():
        values = value if isinstance(value, list) else [value]
        spread = {"mean": statistics.fmean(values), "std": statistics.stdev(values) if len(values) > 1 else None}
        kind = next((kind for kind in UNITS if measure.endswith(kind)), None)
        whose = {"model": model, "measure": measure, "split": split, "unit": UNITS.get(kind, "ratio")}
        entries.append(whose | spread | {"n": len(values), "values": values, "headline": measure in headline})
    return entries


@dataclasses.dataclass(frozen=True)
class Step:
    """A run under way: its options, the device, where it writes until it is complete, and what it builds on."""

    config: Options
    device: "torch.device"
    folder: Path
    target: Path
    upstream: dict[str, str]
    started: float

    def finish(self, fingerprint: str, history: list[dict], **summary: Any) -> dict[str, Any]:
        """Write metrics.jsonl (``history``, a line each), config.json and summary.json, swap the folder in whole, say
        the answer and where the figures are. ``fingerprint`` is the dataset's; ``summary`` holds answer (sentences),
        numbers (``run.numbers``), figures (captions by file), perhaps paired (``few_shot.compared``) and claims.
        """
        import torch

        module = inspect.getmodule(type(self.config))
        script, seconds = Path(module.__file__), time.perf_counter() - self.started
        summary = {"question": module.__doc__.splitlines()[0], **summary, "seconds": seconds}
        lines = (json.dumps(record, allow_nan=False) + "\n" for record in history)
        (self.folder / "metrics.jsonl").write_text("".join(lines), encoding="utf-8")
        results.write_json(self.folder / "summary.json", summary)
        config = {
            "command": command(script.name, self.config),
            "options": {k: v for k, v in vars(self.config).items() if not isinstance(v, Path)},
            "device": str(self.device),
            "threads": torch.get_num_threads(),
            "versions": results.versions(),
            "data_sha256": fingerprint,
            "upstream_sha256": self.upstream,
            "code_sha256": results.code_sha256(script),
            "numbers_sha256": results.numbers_sha256(),
            "git_commit": results.git_commit(),
            "files_sha256": {path.name: results.sha256(path) for path in sorted(self.folder.iterdir())},
        }
        results.write_json(self.folder / "config.json", config)
        results.swap_in(self.folder, self.target)
        print(*summary["answer"], f"figures and numbers: {self.target}", sep="\n")
        return summary


def start(config: Options, name: str, needs: tuple[str, ...] = ()) -> Step:
    """Begin a run in an empty folder beside ``<output-dir>/<name>``; InputError if that or what it ``needs`` fails."""
    started, torch_device = time.perf_counter(), device(config.device)
    upstream = {}
    for needed in needs:
        written = results.read_config(config.output_dir / needed)
        dataset = written["options"]["dataset"] if written else "no finished results"
        if dataset != config.dataset:
            remedy = f"python {MADE_BY.get(needed, f'{needed}.py')} --dataset {config.dataset} --output-dir"
            where, folder = config.output_dir / needed, shlex.quote(str(config.output_dir))
            raise InputError(f"{where}: got {dataset}, expected {config.dataset}: make it with `{remedy} {folder}`")
        upstream[needed] = results.result_sha256(written)
    target = config.output_dir / name
    try:
        folder = results.begin(target)
    except OSError as error:
        raise InputError(f"cannot write to {target} ({error.strerror}): give another --output-dir") from error
    return Step(config, torch_device, folder, target, upstream, started)


def command(script: str, config: Options) -> str:
    """Return the command that repeats a run: its options that are not the default, folders and device aside."""
    words = ["python", script]
    for field in dataclasses.fields(config):
        value, option = getattr(config, field.name), field.name.replace("_", "-")
        if field.name not in ("data_dir", "output_dir", "device") and value != field.default:
            words += [f"--{option}", str(value)] if type(value) is not bool else [f"--{'' if value else 'no-'}{option}"]
    return shlex.join(words)
