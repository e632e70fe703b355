"""A folder of results: written beside its place, swapped in whole, and where its numbers came from.
Imports no torch.
"""

import ast
import atexit
import contextlib
import errno
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # Windows: no locks, so nothing that a killed run left is ever removed
    fcntl = None

REPOSITORY = Path(__file__).resolve().parent.parent
# Packages whose versions a result depends on
PACKAGES = ("torch", "torchvision", "numpy", "scikit-learn", "scipy")


class Workspace:
    """An empty folder beside ``target`` that takes its place, whole, when a run is finished.

    Beside it lies a lock file that this process holds. A run that is killed leaves both, but not
    the lock: whoever gets it knows that the run is dead, whatever machine or container it ran in,
    and may tidy up.
    """

    def __init__(self, target: Path):
        """Raise OSError where no folder can be written, or none can be put in its place."""
        self.target = target.resolve()  # a link, say to a larger disk, is followed
        self.target.parent.mkdir(parents=True, exist_ok=True)
        if self.target.is_file():
            raise NotADirectoryError(errno.ENOTDIR, "a file is in the way")
        self._sweep()
        lock_path = self.target.with_name(f".{self.target.name}-{uuid.uuid4().hex[:12]}.lock")
        while True:
            self._lock = open(lock_path, "w")  # noqa: SIM115 # held until the process ends
            if fcntl:
                with contextlib.suppress(OSError):  # a file system without locks: none are swept
                    fcntl.flock(self._lock, fcntl.LOCK_EX)
            if lock_path.exists():
                break
            self._lock.close()  # another run swept it away before it was locked
        self.folder = lock_path.with_suffix(".new")
        self._replaced = lock_path.with_suffix(".old")
        atexit.register(self.discard)
        try:
            self.folder.mkdir()
            self._try_to_replace()
        except OSError:
            self.discard()
            raise

    def swap_in(self) -> None:
        """Put the folder in its place. If two runs end at the same time, the later one wins.

        OSError, saying where the folder is, if it cannot be put there: then nobody removes it.
        """
        try:
            self._swap()
        except OSError as error:
            reason = f"cannot put results into {self.target} ({error.strerror})"
            raise OSError(f"{reason}: they are finished, in {self.keep()}") from error
        self.discard()

    def keep(self) -> Path:
        """Leave the folder where it is, for nobody to remove, and return it."""
        atexit.unregister(self.discard)
        self._put_back(self._replaced)
        self._release()
        return self.folder

    def discard(self) -> None:
        """Remove what this run has left beside its place, at the latest when the process ends."""
        atexit.unregister(self.discard)
        if not self._lock.closed:  # it is done otherwise
            self._remove_folders(Path(self._lock.name))
            self._release()

    def _release(self) -> None:
        """Remove the lock while it is held, so that nobody gets it. Windows removes no open file,
        but has no locks, nor anybody who sweeps.
        """
        if fcntl is None:
            self._lock.close()
        with contextlib.suppress(OSError):  # no reason to lose a finished run
            Path(self._lock.name).unlink(missing_ok=True)
        self._lock.close()

    def _swap(self) -> None:
        while True:
            with contextlib.suppress(FileNotFoundError):
                os.rename(self.target, self._replaced)
            try:
                os.rename(self.folder, self.target)
                return
            except OSError as error:
                if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                    raise
                # Another run came between: its results go too.
                shutil.rmtree(self._replaced, ignore_errors=True)

    def _try_to_replace(self) -> None:
        """Raise OSError where earlier results cannot be moved: a mount, or a container's image.

        Nothing is moved: no folder takes the place of one that is not empty.
        """
        occupant = self.folder / "occupant"
        occupant.touch()
        try:
            os.rename(self.target, self.folder)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.EEXIST, errno.ENOTEMPTY):
                raise
        occupant.unlink()

    def _sweep(self) -> None:
        """Remove what dead runs left."""
        own_name = re.compile(rf"\.{re.escape(self.target.name)}-[0-9a-f]{{12}}\.lock")
        for path in self.target.parent.iterdir():
            if not own_name.fullmatch(path.name):
                continue
            with contextlib.ExitStack() as stack:
                try:
                    lock = stack.enter_context(open(path))
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except (AttributeError, OSError):
                    continue  # no locks on this system, or the run is alive, or has just ended
                if not os.fstat(lock.fileno()).st_size:  # ours are empty
                    self._remove_folders(path)
                    path.unlink(missing_ok=True)

    def _remove_folders(self, lock_path: Path) -> None:
        """Remove the folders of a run that is dead or done."""
        self._put_back(lock_path.with_suffix(".old"))
        shutil.rmtree(lock_path.with_suffix(".new"), ignore_errors=True)
        shutil.rmtree(lock_path.with_suffix(".old"), ignore_errors=True)

    def _put_back(self, replaced: Path) -> None:
        """Put earlier results back if the run ended before its own came in their place."""
        if not self.target.exists():
            with contextlib.suppress(OSError):
                os.rename(replaced, self.target)


def read_config(folder: Path) -> dict[str, Any] | None:
    """Return config.json of the finished results in ``folder``; None if there are none or a file
    has changed since.
    """
    try:
        config = json.loads((folder / "config.json").read_text("utf-8"))
        for name, digest in config["files_sha256"].items():
            if sha256(folder / name) != digest:
                return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return config


def result_sha256(config: dict[str, Any]) -> str:
    """Return one sha256 of the weights and numbers that a config.json lists: equal results, equal
    sum.
    """
    names = sorted(
        name for name in config["files_sha256"] if name.endswith((".safetensors", ".csv"))
    )
    return hashlib.sha256(
        "".join(config["files_sha256"][name] for name in names).encode()
    ).hexdigest()


def write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def sha256(path: Path) -> str:
    """Return the sha256 of a file, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def versions() -> dict[str, str]:
    """Return the versions that a result depends on."""
    return {"python": platform.python_version()} | {
        name: importlib.metadata.version(name) for name in PACKAGES
    }


def imported_files() -> list[str]:
    """Return the files of this repository that this process has imported, relative to it."""
    files = set()
    for module in list(sys.modules.values()):
        path = Path(getattr(module, "__file__", None) or "/").resolve()
        if path.is_file() and path.is_relative_to(REPOSITORY):
            relative = path.relative_to(REPOSITORY)
            if len(relative.parts) == 1 or relative.parts[0] in ("common", "studies"):
                files.add(relative.as_posix())
    return sorted(files)


def code_sha256(files: list[str]) -> str:
    """Return one sha256 of the present code of Python ``files``, relative to this repository.

    Comments, docstrings and layout do not count: the published numbers are written into docstrings
    after the run that made them.
    """
    total = hashlib.sha256()
    for name in files:
        path = REPOSITORY / name
        source = path.read_text("utf-8") if path.is_file() else ""
        try:
            code = ast.unparse(WithoutDocstrings().visit(ast.parse(source)))
        except SyntaxError:
            code = source
        total.update(f"{name} {len(code)}\n{code}".encode())
    return total.hexdigest()


class WithoutDocstrings(ast.NodeTransformer):
    """Removes strings that stand alone."""

    def visit_Expr(self, node: ast.Expr) -> ast.Expr | None:
        is_text = isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        return None if is_text else node


def git_commit() -> str | None:
    """Return the commit of this repository, with "-dirty" when files differ from it; None where it
    is no checkout.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    # A copy inside somebody else's repository is not that repository's commit.
    environment["GIT_CEILING_DIRECTORIES"] = str(REPOSITORY.parent)
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    settings = {
        "cwd": REPOSITORY,
        "env": environment,
        "capture_output": True,
        "text": True,
        "check": True,
    }
    try:
        return subprocess.run(command, **settings).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
