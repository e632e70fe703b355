"""Checkpoints: written whole, safe to open, and complete, so that a model is rebuilt from the file alone."""

import dataclasses
import hashlib
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from common import models
from common.run import Options, versions, written_whole

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

    Of the options all but the folders, so that the same run gives the same bytes wherever it writes; the results are
    the validation and test metrics of ``last_record``, the last one that ``train.fit`` returned.
    """
    config = {name: value for name, value in dataclasses.asdict(options).items() if not isinstance(value, Path)}
    summary = {name: last_record[name] for name in ("epoch", "step", "validation", "test")}
    content = {
        "model": _describe(model),
        "weights": {name: tensor.cpu().contiguous() for name, tensor in model.state_dict().items()},
        "config": config,
        "summary": summary,
        "versions": versions(),
    }
    with written_whole(path) as beside, beside.open("wb") as file:
        torch.save(content, file)  # through an open file: given a name, torch would write the name into the file


def load(path: Path) -> Checkpoint:
    """Rebuild the model that ``save`` wrote.

    Raises FileNotFoundError with the command that makes the file, ValueError when it is damaged or not one of ours.
    """
    remedy = f"make it with `python {path.parent.name}.py --output-dir {path.parent.parent}`"
    if not path.exists():
        raise FileNotFoundError(f"no checkpoint at {path}: {remedy}")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, KeyError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is damaged or no checkpoint ({type(error).__name__}): {remedy}") from error
    for key in KEYS:
        if not isinstance(content, dict) or key not in content:
            raise ValueError(f"{path} is not a checkpoint of this repository, it has no {key!r}: {remedy}")
    model, weights = _build(content["model"], path), content["weights"]
    expected = model.state_dict()
    for name in sorted(expected.keys() | weights.keys()):
        got, wanted = (tuple(part[name].shape) if name in part else "absent" for part in (weights, expected))
        if got != wanted:
            raise ValueError(f"{path} does not fit its own model: {name} is {got}, expected {wanted}: {remedy}")
    model.load_state_dict(weights)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    return Checkpoint(model.eval(), content["config"], content["summary"], content["versions"], sha256)


def _describe(value: Any) -> Any:
    """Turn a model into its class name and constructor arguments, the models among them likewise."""
    if not isinstance(value, nn.Module):
        return value
    return {
        "class": type(value).__name__,
        "arguments": {name: _describe(part) for name, part in value.arguments.items()},
    }


def _build(description: Any, path: Path) -> Any:
    if not isinstance(description, dict):
        return description
    if description.get("class") not in CLASSES:
        raise ValueError(f"{path} holds a model {description.get('class')!r}, expected one of {', '.join(CLASSES)}")
    arguments = {name: _build(part, path) for name, part in description["arguments"].items()}
    return CLASSES[description["class"]](**arguments)
