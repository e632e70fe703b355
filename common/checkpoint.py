"""Checkpoints: written whole, safe to open, and complete, so that a model is rebuilt from the file alone."""

import dataclasses
import hashlib
import io
import json
import shlex
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from common import models
from common.run import Options, versions, write

KEYS = ("model", "weights", "config", "summary", "versions")
# The only classes a checkpoint may name.
CLASSES = {
    built.__name__: built
    for built in (models.Encoder, models.Decoder, models.Autoencoder, models.Head, models.Classifier)
}


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A model rebuilt from its file, in evaluation mode on the CPU, and what the file says of it."""

    model: nn.Module
    config: dict[str, Any]
    summary: dict[str, float]
    versions: dict[str, str]
    sha256: str


def save(path: Path, model: nn.Module, options: Options, last_record: dict) -> None:
    """Write ``model`` to ``path``: constructor arguments, weights, options, results and library versions.

    Of the options all but the folders and ``resume``, so that the same run gives the same bytes wherever it writes; the
    results are what ``last_record``, the last one that ``train.fit`` returned, says of the evaluated splits.
    """
    config = {name: value for name, value in dataclasses.asdict(options).items() if not isinstance(value, Path)}
    del config["resume"]
    summary = {name: value for name, value in last_record.items() if name not in ("learning_rate", "train")}
    content = {
        "model": _describe(model),
        "config": config,
        "summary": summary,
        "versions": versions(),
    }
    # Through JSON, because pickle tells one string used twice from two equal strings: equal content, equal bytes.
    content = json.loads(json.dumps(content))
    content["weights"] = {
        name: tensor.cpu().clone(memory_format=torch.contiguous_format) for name, tensor in model.state_dict().items()
    }
    file = io.BytesIO()
    torch.save(content, file)
    write(path, file.getvalue())


def load(path: Path, model_class: type[nn.Module] = nn.Module, dataset: str | None = None) -> Checkpoint:
    """Rebuild the model that ``save`` wrote.

    Raises FileNotFoundError with the command that makes the file, ValueError when it is damaged, not one of ours, not
    of ``model_class``, or trained on another dataset than ``dataset`` (if given).
    """
    choice = f" --dataset {dataset}" if dataset else ""
    script, _, variant = path.parent.name.partition("-")
    choice = f" --{variant}{choice}" if variant else choice
    remedy = f"make it with `python {script}.py --output-dir {shlex.quote(str(path.parent.parent))}{choice}`"
    if not path.exists():
        raise FileNotFoundError(f"no checkpoint at {path}: {remedy}")
    try:
        content, sha256 = read(path)
        for key in KEYS:
            if not isinstance(content, dict) or key not in content:
                raise ValueError(f"it is not a checkpoint of this repository, it has no {key!r}")
        model = _build(content["model"])
        model.load_state_dict(content["weights"])  # strict: the error names the keys
        if not isinstance(model, model_class):
            raise ValueError(f"got a {type(model).__name__}, expected a {model_class.__name__}")
        if dataset not in (None, content["config"]["dataset"]):
            raise ValueError(f"it was trained on {content['config']['dataset']}, expected {dataset}")
    except (OSError, ValueError, AttributeError, KeyError, RuntimeError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"cannot use {path} ({type(error).__name__}: {reason}): {remedy}") from error
    return Checkpoint(model.eval(), content["config"], content["summary"], content["versions"], sha256)


def read(path: Path) -> tuple[Any, str]:
    """Return what ``torch.save`` wrote to ``path``, on the CPU, and the sha256 of the file.

    Opens no pickled code, and compares the checksums in the file, which torch does not. Raises ValueError when it is
    damaged.
    """
    raw = path.read_bytes()
    try:
        if zipfile.ZipFile(io.BytesIO(raw)).testzip():
            raise zipfile.BadZipFile
        content = torch.load(io.BytesIO(raw), map_location="cpu", weights_only=True)
    except Exception as error:  # damaged bytes can end in nearly any exception
        raise ValueError(f"{path} is damaged ({type(error).__name__})") from error
    return content, hashlib.sha256(raw).hexdigest()


def _describe(value: Any) -> Any:
    """Turn a model into its class name and constructor arguments, the models among them likewise."""
    if not isinstance(value, nn.Module):
        return value
    return {
        "class": type(value).__name__,
        "arguments": {name: _describe(part) for name, part in value.arguments.items()},
    }


def _build(description: Any) -> Any:
    if not isinstance(description, dict):
        return description
    if description.get("class") not in CLASSES:
        raise ValueError(f"the checkpoint holds a {description.get('class')!r}, expected one of {', '.join(CLASSES)}")
    arguments = {name: _build(part) for name, part in description["arguments"].items()}
    return CLASSES[description["class"]](**arguments)
