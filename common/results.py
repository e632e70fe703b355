"""A folder of results: made beside, swapped in whole, and what its config.json says it came from. Imports no torch."""

import ast
import contextlib
import errno
import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
PACKAGES = ("torch", "torchvision", "numpy", "scikit-learn", "scipy")  # whose versions a result depends on


def read_config(folder: Path) -> dict[str, Any] | None:
    """Return config.json of the finished results in ``folder``; None if there are none or a file has changed since."""
    try:
        written = json.loads((folder / "config.json").read_text("utf-8"))
        intact = all(sha256(folder / name) == digest for name, digest in written["files_sha256"].items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return written if intact else None


def result_sha256(written: dict[str, Any]) -> str:
    """Return one sha256 of what depends on nothing but bits in results with this config.json: weights and metrics."""
    bits = {k: v for k, v in written["files_sha256"].items() if k.endswith((".safetensors", "metrics.jsonl"))}
    return hashlib.sha256(json.dumps(bits, sort_keys=True).encode()).hexdigest()


def begin(target: Path) -> Path:
    """Sweep what killed runs left beside ``target``, and return a new empty folder there. Raises OSError."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.is_file():
        raise NotADirectoryError(errno.ENOTDIR, "a file is in the way")
    _sweep(target)
    folder = target.with_name(f".{target.name}-{os.getpid()}")
    folder.mkdir()
    return folder


def swap_in(folder: Path, target: Path) -> None:
    """Put ``folder`` in the place of ``target``; of two runs at once the later one stays."""
    aside = folder.with_name(f"{folder.name}.old")
    while True:
        with contextlib.suppress(FileNotFoundError):
            os.rename(target, aside)
        try:
            os.rename(folder, target)
            break
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):  # another run came between: its results go aside too
                raise
            shutil.rmtree(aside, ignore_errors=True)
    shutil.rmtree(aside, ignore_errors=True)


def _sweep(target: Path) -> None:
    """Remove what runs that are no more left beside ``target``, after putting back what one was about to replace."""
    for folder in target.parent.glob(f".{target.name}-*"):
        process = folder.stem.rsplit("-", 1)[1]
        if not process.isdecimal() or _is_running(int(process)):
            continue
        if folder.suffix == ".old" and not target.exists():
            with contextlib.suppress(OSError):  # another run puts it back
                os.rename(folder, target)
        else:
            shutil.rmtree(folder, ignore_errors=True)


def _is_running(process: int) -> bool:
    if process == os.getpid() or os.name == "nt":  # an earlier run of this process; on Windows, asking would end it
        return os.name == "nt"
    try:
        os.kill(process, 0)
    except OSError as error:
        return not isinstance(error, ProcessLookupError)
    return True


def remove_unfinished(output_dir: Path, process: int | None = None) -> None:
    """Remove the folder that a process, this one unless given, has begun and not swapped in, if any."""
    for folder in output_dir.glob(f".*-{process or os.getpid()}"):
        shutil.rmtree(folder, ignore_errors=True)


def write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def sha256(path: Path) -> str:
    """Return the sha256 of a file, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def versions() -> dict[str, str]:
    """Return the versions that a result depends on."""
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in PACKAGES}


def code_sha256(*scripts: Path, without: str | None = None) -> str:
    """Return one sha256 of scripts and all of common/ that is imported, without plots, comments and docstrings, and
    perhaps without the functions of one name.
    """
    total, waiting, seen = hashlib.sha256(), list(scripts), set()
    while waiting:
        path = waiting.pop(0)
        seen.add(path)
        tree = ast.parse(path.read_text("utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "common":
                names = [node.module.split(".")[1]] if "." in node.module else [alias.name for alias in node.names]
                paths = {REPOSITORY / "common" / f"{name}.py" for name in names if name != "plots"}
                waiting += sorted(paths - seen - set(waiting))
            if isinstance(getattr(node, "body", None), list):
                left_out = [
                    line
                    for line in node.body
                    if (isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant))
                    or (isinstance(line, ast.FunctionDef) and line.name == without)
                ]
                node.body = [line for line in node.body if line not in left_out]
        total.update(f"{path.name} {ast.dump(tree)}\n".encode())
    return total.hexdigest()


def numbers_sha256() -> str:
    """Return the one sha256 of the code that makes numbers: every script's, without what draws."""
    return code_sha256(*sorted(REPOSITORY.glob("q[1-9]_*.py")), without="figures")


def git_commit() -> str | None:
    """Return the commit of this repository, with "-dirty" when files differ from it; None outside git."""
    line = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(line, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
