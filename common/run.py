"""What every script's run needs: its options, device, random generators, and the numbers and folder
it leaves.

PyTorch is imported where it is used: reproduce.py uses this too, and needs none while it waits for
the steps.
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
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Literal, TextIO

import pandas
import tyro

from common import results
from common.download import DATA_DIR, DatasetName
from common.results import REPOSITORY

if TYPE_CHECKING:
    import torch

# Allowed ranges. Without an entry: int >= 1, float >= 0.
LIMITS = {
    "seed": (0, 2**32 - 1),  # scikit-learn takes no larger one
    "latent_dim": (2, 784),
    "latents": (2, 784),
    "latents_shown": (31, 10_000),  # more than t-SNE's perplexity
    "seeds": (0, 2**32 - 1),
    "subsets": (1, 999),
    "learning_rate": (1e-9, math.inf),
    "label_smoothing": (0, 1),
}
OUTPUT_DIR = REPOSITORY / "outputs"
DISK_ERRORS = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EROFS,
    errno.EACCES,
    errno.ENAMETOOLONG,
}


class InputError(Exception):
    """The user's mistake: one line with what was found, what was expected and what to do."""

    exit_code = 2


class RunError(Exception):
    """The input was fine but the run has no result worth keeping: a collapse, a loss that is not
    finite.
    """

    exit_code = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """The options that every script shares. InputError for a number outside its limits."""

    dataset: DatasetName = "mnist"
    """Which images; "own" reads four IDX files of 28x28 images in the data folder."""
    data_dir: Path = DATA_DIR
    """Folder of the raw data files; what is missing is fetched into it."""
    output_dir: Path = OUTPUT_DIR
    """Folder of the results; each script writes into a subfolder of its own name."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute; auto takes a GPU when there is one."""
    seed: int = 0
    """Seed of every random choice: same seed, machine and thread count, same bits."""
    quick: bool = False
    """A look at every figure: a tenth of the images, and no number worth keeping. Results go to
    outputs/quick, unless an output folder is given.
    """

    def __post_init__(self) -> None:
        require_limits(self)
        if self.quick and self.output_dir == OUTPUT_DIR:
            object.__setattr__(self, "output_dir", OUTPUT_DIR / "quick")  # self is frozen


def require_limits(options: Any) -> None:
    """Raise InputError unless each number in a field, or in its tuple, is within ``LIMITS``."""
    for name, values in vars(options).items():
        for value in values if isinstance(values, tuple) else (values,):
            if type(value) not in (int, float):
                continue
            least, most = LIMITS.get(name, (1, 10**9) if type(value) is int else (0, math.inf))
            if not (least <= value <= most and value < math.inf):  # true for nan
                upper = f" to {most}" if most < math.inf else " or more"
                option = f"--{name.replace('_', '-')}"
                raise InputError(f"{option}: got {value}, expected {least}{upper}")


def command_line(
    main: Callable[[Any], Any], config_class: type, arguments: list[str] | None = None
) -> None:
    """Call ``main`` with the options of the command line.

    A user's mistake, a full disk (exit code 2), a failed run (1) and Ctrl-C (130) end as one line
    on stderr. Every other exception is a bug of ours and keeps its traceback. What cannot be
    printed, since nobody reads it any more, is dropped.
    """
    description = inspect.getmodule(main).__doc__
    settings = (tyro.conf.FlagCreatePairsOff,)  # no --no-...
    with (
        Output(sys.stdout) as stdout,
        Output(sys.stderr) as stderr,
        contextlib.redirect_stdout(stdout),
        contextlib.redirect_stderr(stderr),
        one_line_errors(),
    ):
        options = tyro.cli(config_class, args=arguments, description=description, config=settings)
        main(expand_home(options))


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """End the process with one line on stderr for what is no bug of ours."""
    try:
        yield
    except (InputError, RunError) as error:
        stop(str(error), error.exit_code)
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        stop(
            f"cannot read or write {error.filename or 'the results'} ({error.strerror});"
            " earlier results are kept",
            2,
        )
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":  # torch's, of a GPU
            raise
        stop("the GPU is out of memory; try --device cpu or smaller batches", 1)
    except KeyboardInterrupt:
        stop("interrupted; earlier results are kept, and the same command starts again", 130)


class Output:
    """A stream that a run can print to whatever becomes of it.

    A terminal that knows no "±" shows "?". Where nobody reads on (`| head`), where the disk is full
    or there is no stream at all, what is printed is dropped: it is no reason to lose a run.
    """

    def __init__(self, stream: TextIO | None):
        self._stream = stream or open(os.devnull, "w")  # noqa: SIM115 # until the process ends
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")

    def __enter__(self) -> "Output":
        return self

    def __exit__(self, *error: object) -> None:
        self.flush()

    def write(self, text: str) -> int:
        """Write a text, or drop it."""
        try:
            return self._stream.write(text)
        except OSError:
            self._drop()
            return len(text)

    def flush(self) -> None:
        """Write what was held back, or drop it."""
        try:
            self._stream.flush()
        except OSError:
            self._drop()

    def _drop(self) -> None:
        """Let what is printed from now on, and what is held back, go nowhere."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def expand_home(config: Any) -> Any:
    """Return options in whose paths a leading ~ is the home folder: no shell sees it in
    --output-dir=~/x.
    """
    paths = {}
    for name, value in vars(config).items():
        if isinstance(value, Path):
            paths[name] = Path(os.path.expanduser(value))
    return dataclasses.replace(config, **paths)


def stop(message: str, code: int) -> None:
    """Print one line on stderr and end with an exit code."""
    print("error: " + " ".join(message.split()), file=sys.stderr, flush=True)
    sys.exit(code)


def select_device(name: str) -> "torch.device":
    """Return the device of ``--device``, set up; InputError if there is none of that kind."""
    import torch

    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    usable = [kind for kind, is_usable in available.items() if is_usable]
    if name == "auto":
        name = usable[0]
    if name not in usable:
        raise InputError(
            f"--device: got {name}, which PyTorch does not find here;"
            f" expected auto or {', '.join(usable)}"
        )
    torch.backends.cudnn.deterministic = True
    # Adam's moments of a dead unit decay into denormal numbers, with which a CPU is 50 times
    # slower.
    torch.set_flush_denormal(True)
    return torch.device(name)


def generator(seed: int, purpose: str, device: "torch.device | str" = "cpu") -> "torch.Generator":
    """Return a generator of its own for one purpose ("encoder", "batches/3"), so that no choice
    disturbs another.
    """
    import torch

    digest = hashlib.sha256(f"{purpose}/{seed}".encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:8], "big") >> 1)


class Results:
    """A run under way: its device, the folder it writes into, the numbers so far. Made by
    ``start``.
    """

    def __init__(self, name: str, config: Options, needs: tuple[str, ...]):
        self.started = time.perf_counter()
        self.config = config
        self.device = select_device(config.device)
        self.needed = read_needed(name, needs, config)
        self._origin = origin(name, config)  # now, since it could fail
        target = config.output_dir / name
        self.workspace = open_workspace(target)
        self.folder = self.workspace.folder
        mark_figures(config)
        self._numbers: list[dict[str, Any]] = []
        self._histories: list[pandas.DataFrame] = []

    def log(self, measures: dict[str, float], model: str, split: str, subset: str = "") -> None:
        """Add rows to numbers.csv: values by measure, of a model on a split, trained on a labelled
        subset if named. KeyError for a measure that common/measures/names.py does not name.
        """
        from common.measures.names import MEASURES

        unnamed = sorted(measures.keys() - MEASURES.keys())
        if unnamed:
            raise KeyError(f"{unnamed[0]}: give it words and digits in common/measures/names.py")
        for measure, value in measures.items():
            row = {
                "model": model,
                "subset": subset,
                "split": split,
                "measure": measure,
                "value": float(value),
            }
            self._numbers.append(row)

    def log_history(self, history: pandas.DataFrame, model: str, subset: str = "") -> None:
        """Add what ``train.fit`` returned to history.csv."""
        self._histories.append(history.assign(model=model, subset=subset))

    @property
    def numbers(self) -> pandas.DataFrame:
        """What was logged: a row for each model, subset, split and measure, with its value."""
        return pandas.DataFrame(self._numbers)

    @property
    def history(self) -> pandas.DataFrame:
        """The histories that were logged: model, subset, step, split, measure, value."""
        columns = ["model", "subset", "step", "split", "measure", "value"]
        return pandas.concat(self._histories, ignore_index=True)[columns]

    def path_of(self, step: str, name: str = "model.safetensors") -> Path:
        """Return the path of a file that an earlier step left."""
        return self.config.output_dir / step / name

    def options_of(self, step: str) -> SimpleNamespace:
        """Return the options that an earlier step was run with."""
        return SimpleNamespace(**self.needed[step]["options"])

    def table_of(self, step: str, name: Literal["numbers", "history"]) -> pandas.DataFrame:
        """Return numbers.csv or history.csv of an earlier step."""
        return read_table(self.path_of(step, f"{name}.csv"))

    def finish(self, data_sha256: str) -> None:
        """Write numbers.csv, history.csv and config.json, swap the folder in whole, and say where
        it is.
        """
        import torch

        mark_figures(Options())  # another run in this process has its own
        self.numbers.to_csv(self.folder / "numbers.csv", index=False)
        if self._histories:
            self.history.to_csv(self.folder / "history.csv", index=False, float_format="%.6g")

        config = self._origin | {
            "device": str(self.device),
            "threads": torch.get_num_threads(),
            "seconds": round(time.perf_counter() - self.started, 1),
            "data_sha256": data_sha256,
            "built_on": {
                step: results.result_sha256(written) for step, written in self.needed.items()
            },
            "files_sha256": {
                path.name: results.sha256(path) for path in sorted(self.folder.iterdir())
            },
        }
        results.write_json(self.folder / "config.json", config)
        target = self.workspace.target
        replaced = results.read_config(target)
        try:
            self.workspace.swap_in()
        except OSError as error:
            raise RunError(str(error)) from error
        print(f"figures and numbers: {target}")
        if replaced:
            say_if_of_another_run(replaced, config)


def say_if_of_another_run(replaced: dict[str, Any], by: dict[str, Any]) -> None:
    """Say what results were replaced, if by those of other data or options."""
    for name in ("data_sha256", "command"):
        if replaced.get(name) != by[name]:
            other = "other data" if name == "data_sha256" else "other options"
            print(f"they replace those of {other}: {replaced.get('command')}", file=sys.stderr)
            return


@contextlib.contextmanager
def drawing() -> Iterator[None]:
    """Let whatever fails while figures are drawn be a line on stderr: numbers and weights are worth
    more.
    """
    try:
        yield
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        print(f"a figure was not drawn ({reason})", file=sys.stderr)


def mark_figures(config: Options) -> None:
    """Have every figure's title say what is not as published: a quick run, another data set."""
    from common.figures import style

    style.MARKS.clear()
    if config.quick:
        style.MARKS.append("quick")
    if config.dataset != "mnist":
        style.MARKS.append(config.dataset)


def start(name: str, config: Options, needs: tuple[str, ...] = ()) -> Results:
    """Begin a run that writes to ``<output-dir>/<name>`` and reads the steps it ``needs``.

    A name is the script's path without ".py", such as "studies/label_curve": by it reproduce.py and
    the report find the results.

    InputError if the folder cannot be written, or naming every step that is missing with the
    command that makes it. What is unfinished when the process ends is removed.
    """
    return Results(name, config, needs)


def open_workspace(target: Path) -> results.Workspace:
    """Return the folder that is to take the place of ``target``; InputError if none can."""
    try:
        return results.Workspace(target)
    except OSError as error:
        raise InputError(
            f"cannot write to {target} ({error.strerror}): give another --output-dir"
        ) from error


def origin(name: str, config: Options) -> dict[str, Any]:
    """Return what config.json says about the code and the options of a run."""
    # A class made in a notebook has no file.
    script = getattr(sys.modules[type(config).__module__], "__file__", None)
    files = results.imported_files()
    known = {
        "command": command(script or REPOSITORY / f"{name}.py", config),
        "options": saved_options(config),
        "versions": results.versions(),
        "git_commit": results.git_commit(),
        "code_files": files,
        "code_sha256": results.code_sha256(files),
    }
    json.dumps(known, allow_nan=False)  # fails now rather than after training
    return known


def read_needed(name: str, needs: tuple[str, ...], config: Options) -> dict[str, dict[str, Any]]:
    """Return the config.json of each step that ``name`` needs; InputError if any is missing or of
    other images.
    """
    found, missing = {}, []
    for step in needs:
        written = results.read_config(config.output_dir / step)
        options = (written or {}).get("options", {})
        if (
            options.get("dataset") == config.dataset
            and options.get("seed") == config.seed
            and options.get("quick", False) == config.quick
        ):
            found[step] = written
        else:
            missing.append(step)
    if missing:
        options = shlex.join(shared_options(config))
        commands = []
        for step in missing:
            without_options = command(REPOSITORY / f"{step}.py", Options())
            commands.append(f"{without_options} {options}".strip())
        raise InputError(
            f"{name} needs finished results of {', '.join(needs)} for {config.dataset},"
            f" seed {config.seed}, in {config.output_dir}: got none of {', '.join(missing)}:"
            f" run {'; '.join(commands)}"
        )
    return found


def read_table(path: Path) -> pandas.DataFrame:
    """Return a numbers.csv or history.csv; InputError if it cannot be read."""
    try:
        return pandas.read_csv(path, keep_default_na=False, na_values={"value": [""]})
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path} ({error}): run its script again") from error


def shared_options(config: Options) -> list[str]:
    """Return the options with which another step finds this one's data and results."""
    words = []
    for name in ("dataset", "seed", "data_dir", "output_dir"):
        if getattr(config, name) != getattr(Options, name):
            words += [f"--{name.replace('_', '-')}", str(getattr(config, name))]
    return words + ["--quick"] * config.quick


def saved_options(config: Options) -> dict[str, Any]:
    """Return the options that change numbers: all but folders and device."""
    kept = {}
    for name, value in vars(config).items():
        if not isinstance(value, Path) and name != "device":
            kept[name] = value
    return kept


def command(script: str | Path, config: Options) -> str:
    """Return the command that repeats a run: options that are not the default, without folders and
    device.
    """
    path = Path(script).resolve()
    if path.parent == REPOSITORY / "studies":
        words = ["python", "-m", f"studies.{path.stem}"]
    else:
        words = ["python", path.name]
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name in saved_options(config) and value != field.default:
            words.append(f"--{field.name.replace('_', '-')}")
            if isinstance(value, (list, tuple)):
                words += [str(item) for item in value]
            elif value is not True:
                words.append(str(value))
    return shlex.join(words)
