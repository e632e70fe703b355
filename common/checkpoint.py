"""Checkpoints: safetensors files from which a model is rebuilt with nothing else, and in which nothing can run."""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as parse_tensors
from safetensors.torch import save as serialise_tensors
from torch import nn

from common import models
from common.run import InputError, Options

# The only classes a checkpoint may name.
BUILDABLE = {name: getattr(models, name) for name in ("Encoder", "Decoder", "Autoencoder", "Head", "Classifier")}


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A model rebuilt from its file, in evaluation mode on the CPU, and what the file says of it."""

    model: nn.Module
    config: dict[str, Any]
    metrics: dict[str, Any]


def save(path: Path, model: nn.Module, options: Options, last_record: dict) -> None:
    """Write weights and, as one JSON entry of the metadata, class and constructor arguments, options but for folders
    and device, and the metrics of ``last_record``, the last that ``train.fit`` returned. Equal content, equal bytes.
    """
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    content = {
        "model": _describe(model),
        "config": {k: v for k, v in vars(options).items() if not isinstance(v, Path) and k != "device"},
        "metrics": {k: v for k, v in last_record.items() if k not in ("learning_rate", "train")},
    }
    content["sha256"] = _digest(content, weights)
    path.write_bytes(serialise_tensors(weights, {"checkpoint": json.dumps(content)}))


def reloaded(path: Path, model: nn.Module, options: Options, last_record: dict) -> nn.Module:
    """Save a model and return what its file gives, on the same device: numbers that are quoted are this one's."""
    save(path, model, options, last_record)
    return load(path).model.to(next(model.parameters()).device, memory_format=torch.channels_last)


def load(path: Path, model_class: type[nn.Module] = nn.Module) -> Checkpoint:
    """Rebuild what ``save`` wrote. InputError when the file is missing, damaged, not ours or not of ``model_class``."""
    try:
        raw = path.read_bytes()
        weights = parse_tensors(raw)
        header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])  # safetensors' format
        content = json.loads(header["__metadata__"]["checkpoint"])
        if content.pop("sha256") != _digest(content, weights):
            raise ValueError("weights or description do not fit their sha256")
        model = _build(content["model"])
        if not isinstance(model, model_class):
            raise ValueError(f"got a {type(model).__name__}, expected a {model_class.__name__}")
        model.load_state_dict(weights)  # strict: the error names the keys
        return Checkpoint(model.eval(), content["config"], content["metrics"])
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"cannot use {path} ({type(error).__name__}: {reason}): run its script again") from error


def _digest(content: dict[str, Any], weights: dict[str, torch.Tensor]) -> str:
    return hashlib.sha256((json.dumps(content, sort_keys=True) + models.digest(weights)).encode()).hexdigest()


def _describe(value: Any) -> Any:
    """Turn a model into its class name and constructor arguments, the models among them likewise."""
    if not isinstance(value, nn.Module):
        return value
    arguments = {name: _describe(part) for name, part in value.arguments.items()}
    return {"class": type(value).__name__, "arguments": arguments}


def _build(description: Any) -> Any:
    if not isinstance(description, dict):
        return description
    if description.get("class") not in BUILDABLE:
        raise ValueError(f"it holds a {description.get('class')!r}, expected one of {', '.join(BUILDABLE)}")
    arguments = {name: _build(part) for name, part in description["arguments"].items()}
    return BUILDABLE[description["class"]](**arguments)
