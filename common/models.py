"""The encoder that every question shares, its mirror image, and the two models built from them.

The sizes follow the report: three 3x3 convolutions with stride 2 and padding 1, a ReLU on each,
then two linear layers. Left open by the report and chosen here: 16, 32 and 64 channels, a hidden
layer of 128 with a ReLU.

Initial weights are normal with variance gain / fan-in: gain 2 in front of a ReLU (He et al. 2015,
eq. 10), else 1; biases are zero. They come from ``generator``, or from torch's global one where
none is given.
"""

import hashlib
import math
from types import MethodType

import torch
from torch import Tensor, nn

IMAGE_SHAPE = (1, 28, 28)
CLASSES = 10


class Encoder(nn.Module):
    """Map images (B, 1, 28, 28) in [0, 1] to latents (B, D)."""

    def __init__(self, latent_dim: int = 12, generator: torch.Generator | None = None):
        super().__init__()
        self.latent_dim = latent_dim
        self.convolutions = nn.Sequential(
            nn.Conv2d(1, 16, kernel_size=3, stride=2, padding=1),  # (B, 16, 14, 14)
            nn.ReLU(inplace=True),
            nn.Conv2d(16, 32, kernel_size=3, stride=2, padding=1),  # (B, 32, 7, 7)
            nn.ReLU(inplace=True),
            nn.Conv2d(32, 64, kernel_size=3, stride=2, padding=1),  # (B, 64, 4, 4)
            nn.ReLU(inplace=True),
        )
        self.linear = nn.Sequential(
            nn.Flatten(),  # (B, 1024)
            nn.Linear(64 * 4 * 4, 128),
            nn.ReLU(inplace=True),  # without it the two linear layers would be one of low rank
            nn.Linear(128, latent_dim),
        )
        initialise(self, generator)

    def forward(self, images: Tensor) -> Tensor:
        check_shape("Encoder", images, IMAGE_SHAPE)
        return self.linear(self.convolutions(images))


class Decoder(nn.Module):
    """Map latents (B, D) to the logits of images (B, 1, 28, 28): the mirror image of Encoder."""

    def __init__(self, latent_dim: int = 12, generator: torch.Generator | None = None):
        super().__init__()
        self.latent_dim = latent_dim
        self.linear = nn.Sequential(
            nn.Linear(latent_dim, 128),
            nn.ReLU(inplace=True),
            nn.Linear(128, 64 * 4 * 4),
            nn.ReLU(inplace=True),
            nn.Unflatten(1, (64, 4, 4)),
        )
        self.convolutions = nn.Sequential(
            nn.ConvTranspose2d(64, 32, kernel_size=3, stride=2, padding=1),  # (B, 32, 7, 7)
            nn.ReLU(inplace=True),
            nn.ConvTranspose2d(  # (B, 16, 14, 14)
                32, 16, kernel_size=3, stride=2, padding=1, output_padding=1
            ),
            nn.ReLU(inplace=True),
            nn.ConvTranspose2d(  # (B, 1, 28, 28)
                16, 1, kernel_size=3, stride=2, padding=1, output_padding=1
            ),
        )
        initialise(self, generator)

    def forward(self, latents: Tensor) -> Tensor:
        check_shape("Decoder", latents, (self.latent_dim,))
        return self.convolutions(self.linear(latents))


class Head(nn.Module):
    """Map latents (B, D) to class logits (B, 10): an MLP of two layers."""

    def __init__(self, latent_dim: int = 12, generator: torch.Generator | None = None):
        super().__init__()
        self.latent_dim = latent_dim
        self.layers = nn.Sequential(
            nn.Linear(latent_dim, 64),
            nn.ReLU(inplace=True),
            nn.Linear(64, CLASSES),
        )
        initialise(self, generator)

    def forward(self, latents: Tensor) -> Tensor:
        check_shape("Head", latents, (self.latent_dim,))
        return self.layers(latents)


class Autoencoder(nn.Module):
    """Compose an encoder and a decoder: images (B, 1, 28, 28) to logits of the same shape."""

    def __init__(self, encoder: nn.Module, decoder: nn.Module):
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder

    def forward(self, images: Tensor) -> Tensor:
        return self.decoder(self.encoder(images))


class Classifier(nn.Module):
    """Compose an encoder and a head: images (B, 1, 28, 28) to class logits (B, 10)."""

    def __init__(self, encoder: nn.Module, head: nn.Module):
        super().__init__()
        self.encoder = encoder
        self.head = head

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.encoder(images))


def pixels(logits: Tensor) -> Tensor:
    """Turn a decoder's logits into pixels in [0, 1], same shape."""
    return torch.sigmoid(logits)


def freeze(module: nn.Module) -> nn.Module:
    """Freeze a module in place and return it: no gradients, and evaluation mode that ``train()``
    leaves alone.
    """
    module.requires_grad_(False).eval()
    module.train = MethodType(lambda self, mode=True: self, module)
    return module


def fingerprint(weights: nn.Module | dict[str, Tensor]) -> str:
    """Return the sha256 over names, shapes and bits of all parameters and buffers, as hex."""
    if isinstance(weights, nn.Module):
        weights = weights.state_dict()
    total = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        values = tensor.detach().cpu().contiguous()
        total.update(f"{name} {tuple(values.shape)} {values.dtype}\n".encode())
        total.update(values.numpy().tobytes())
    return total.hexdigest()


def fan_in(layer: nn.Module) -> float | None:
    """Return how many terms a layer sums into one output; None for a layer without such a sum."""
    if isinstance(layer, nn.ConvTranspose2d):
        # With stride 2 each output gets k * k / 4 terms per input channel, a quarter of what
        # PyTorch assumes.
        return layer.weight[:, 0].numel() / math.prod(layer.stride)
    if isinstance(layer, (nn.Linear, nn.Conv2d)):
        return layer.weight[0].numel()
    return None


def initialise(module: nn.Module, generator: torch.Generator | None) -> None:
    """Draw the initial weights of all layers in ``module``, in their order (see the module's
    docstring).
    """
    layers = [layer for layer in module.modules() if not list(layer.children())]
    for layer, following in zip(layers, [*layers[1:], None], strict=True):
        terms = fan_in(layer)
        if terms is None:
            continue
        gain = 2 if isinstance(following, nn.ReLU) else 1
        nn.init.normal_(layer.weight, std=math.sqrt(gain / terms), generator=generator)
        nn.init.zeros_(layer.bias)


def check_shape(name: str, batch: Tensor, shape: tuple[int, ...]) -> None:
    """Raise ValueError unless ``batch`` is (B, *shape)."""
    if batch.shape[1:] != shape:
        expected = ", ".join(["B", *map(str, shape)])
        raise ValueError(
            f"{name}: got a batch of shape {tuple(batch.shape)}, expected ({expected}): reshape it"
        )
