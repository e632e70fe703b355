"""Checkpoints: safetensors files from which a model is rebuilt with nothing else, and in which
nothing can run.
"""

import json
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load as deserialise
from safetensors.torch import save as serialise
from torch import nn

from common.models import Autoencoder, Classifier, Decoder, Encoder, Head, fingerprint
from common.run import InputError


def rebuild(kind: str, latent_dim: int) -> nn.Module:
    """Return an untrained model of the kind that a checkpoint names."""
    if kind == "Autoencoder":
        return Autoencoder(Encoder(latent_dim), Decoder(latent_dim))
    if kind == "Classifier":
        return Classifier(Encoder(latent_dim), Head(latent_dim))
    raise ValueError(f"it holds a {kind!r}, expected an Autoencoder or a Classifier")


def save(path: Path | str, model: Autoencoder | Classifier) -> None:
    """Write a model's weights and, in the file's metadata, what it takes to rebuild it. Equal
    models, equal bytes.
    """
    weights = {
        name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()
    }
    metadata = {
        "kind": type(model).__name__,
        "latent_dim": str(model.encoder.latent_dim),
        "sha256": fingerprint(weights),
    }
    Path(path).write_bytes(serialise(weights, {"checkpoint": json.dumps(metadata)}))


def load(path: Path | str, device: torch.device | str = "cpu") -> Autoencoder | Classifier:
    """Rebuild a model, in evaluation mode. InputError when the file is missing, damaged or not
    ours.
    """
    try:
        content = Path(path).read_bytes()
        weights = deserialise(content)
        # A safetensors file begins with the size of its header, JSON.
        size = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + size])
        metadata = json.loads(header["__metadata__"]["checkpoint"])
        if metadata["sha256"] != fingerprint(weights):
            raise ValueError("the weights do not fit their sha256")
        model = rebuild(metadata["kind"], int(metadata["latent_dim"]))
        model.load_state_dict(weights)  # strict: the error names the keys
    except (OSError, ValueError, LookupError, TypeError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"cannot use {path} ({type(error).__name__}: {reason}): run its script again"
        ) from error
    return model.eval().to(device, memory_format=torch.channels_last)


def save_and_reload(path: Path | str, model: Autoencoder | Classifier) -> Autoencoder | Classifier:
    """Save, load again and return the loaded model, so that reported numbers belong to the file."""
    save(path, model)
    return load(path, next(model.parameters()).device)
