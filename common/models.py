"""The encoder every question shares, its mirror image, and the two models built from them.

Images are (B, 1, 28, 28) float32 in [0, 1]; a batch of a wrong shape or dtype raises ValueError. The sizes follow the
report: three 3x3 stride-2 padding-1 convolutions, 28 -> 14 -> 7 -> 4, each with ReLU on its output (in place, a few per
cent faster), then two linear layers. ``hidden_relu`` puts one between these as well, of which the report says nothing:
without it they are a single linear map of low rank.
Weights come from ``generator`` (torch's global one if None), normal with variance gain / fan-in: the terms summed into
one output, and a gain of 2 for a layer followed by ReLU (He et al. 2015, eq. 10) and 1 for the others. A stride-2
transposed convolution sums k*k/4 terms per input channel, a quarter of what PyTorch assumes. Biases are zero.
"""

import hashlib
import math
from types import MethodType

import torch
from torch import Tensor, nn

IMAGE_SHAPE = (1, 28, 28)
FEATURE_SIZE = 4  # side of the last feature map: 28 -> 14 -> 7 -> 4
CLASSES = 10


class _Mirrored(nn.Module):
    """The constructor of Encoder and of Decoder, which add the layers."""

    def __init__(
        self,
        latent_dim: int = 12,
        channels: tuple[int, int, int] = (16, 32, 64),
        hidden: int = 128,
        hidden_relu: bool = True,
        *,
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        self.arguments = dict(latent_dim=latent_dim, channels=tuple(channels), hidden=hidden, hidden_relu=hidden_relu)
        self._build(latent_dim, *channels, hidden, nn.ReLU(inplace=True) if hidden_relu else nn.Identity())
        _initialise(self, generator)


class Encoder(_Mirrored):
    """Map images (B, 1, 28, 28) to latents (B, latent_dim)."""

    def _build(self, latent_dim: int, first: int, second: int, third: int, hidden: int, between: nn.Module) -> None:
        self.convolutions = nn.Sequential(
            nn.Conv2d(1, first, 3, stride=2, padding=1),  # (B, 16, 14, 14)
            nn.ReLU(inplace=True),
            nn.Conv2d(first, second, 3, stride=2, padding=1),  # (B, 32, 7, 7)
            nn.ReLU(inplace=True),
            nn.Conv2d(second, third, 3, stride=2, padding=1),  # (B, 64, 4, 4)
            nn.ReLU(inplace=True),
        )
        self.linear = nn.Sequential(nn.Linear(third * FEATURE_SIZE**2, hidden), between, nn.Linear(hidden, latent_dim))

    def forward(self, images: Tensor) -> Tensor:
        _check("Encoder", images, IMAGE_SHAPE)
        return self.linear(self.convolutions(images).flatten(1))


class Decoder(_Mirrored):
    """Map latents (B, latent_dim) to the logits of images (B, 1, 28, 28), see ``pixels``: the mirror of Encoder."""

    def _build(self, latent_dim: int, first: int, second: int, third: int, hidden: int, between: nn.Module) -> None:
        self.linear = nn.Sequential(
            nn.Linear(latent_dim, hidden),
            between,
            nn.Linear(hidden, third * FEATURE_SIZE**2),
            nn.ReLU(inplace=True),
            nn.Unflatten(1, (third, FEATURE_SIZE, FEATURE_SIZE)),  # (B, 64, 4, 4)
        )
        self.convolutions = nn.Sequential(
            nn.ConvTranspose2d(third, second, 3, stride=2, padding=1),  # (B, 32, 7, 7)
            nn.ReLU(inplace=True),
            nn.ConvTranspose2d(second, first, 3, stride=2, padding=1, output_padding=1),  # (B, 16, 14, 14)
            nn.ReLU(inplace=True),
            nn.ConvTranspose2d(first, 1, 3, stride=2, padding=1, output_padding=1),  # (B, 1, 28, 28)
        )

    def forward(self, latents: Tensor) -> Tensor:
        _check("Decoder", latents, (self.arguments["latent_dim"],))
        return self.convolutions(self.linear(latents))


def pixels(logits: Tensor) -> Tensor:
    """Turn a decoder's logits into pixels in [0, 1], same shape."""
    return torch.sigmoid(logits)


class Autoencoder(nn.Module):
    """Compose an encoder and a decoder: images (B, 1, 28, 28) to reconstruction logits of the same shape."""

    def __init__(self, encoder: nn.Module, decoder: nn.Module):
        super().__init__()
        self.arguments = {"encoder": encoder, "decoder": decoder}
        self.encoder, self.decoder = encoder, decoder

    def forward(self, images: Tensor) -> Tensor:
        return self.decoder(self.encoder(images))


class Head(nn.Module):
    """Map latents (B, latent_dim) to class logits (B, 10): a small MLP with one hidden layer."""

    def __init__(self, latent_dim: int = 12, hidden: int = 64, *, generator: torch.Generator | None = None):
        super().__init__()
        self.arguments = {"latent_dim": latent_dim, "hidden": hidden}
        self.layers = nn.Sequential(nn.Linear(latent_dim, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, CLASSES))
        _initialise(self, generator)

    def forward(self, latents: Tensor) -> Tensor:
        _check("Head", latents, (self.arguments["latent_dim"],))
        return self.layers(latents)


class Classifier(nn.Module):
    """Compose an encoder and a head: images (B, 1, 28, 28) to class logits (B, 10)."""

    def __init__(self, encoder: nn.Module, head: nn.Module):
        super().__init__()
        self.arguments = {"encoder": encoder, "head": head}
        self.encoder, self.head = encoder, head

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.encoder(images))


def frozen(module: nn.Module) -> nn.Module:
    """Freeze a module in place and return it: no gradients, and evaluation mode, which train() leaves alone."""
    module.requires_grad_(False).eval()
    module.train = MethodType(lambda self, mode=True: self, module)
    return module


def digest(weights: nn.Module | dict[str, Tensor]) -> str:
    """Return the sha256 over the names, shapes and bits of all parameters and buffers, in hexadecimal."""
    tensors = weights.state_dict() if isinstance(weights, nn.Module) else weights
    total = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        values = tensor.detach().cpu().contiguous()
        total.update(f"{name} {tuple(values.shape)} {values.dtype}\n".encode() + values.numpy().tobytes())
    return total.hexdigest()


def fan_in(layer: nn.Module) -> float | None:
    """Return how many terms the layer sums into one output, None for a layer without such a sum."""
    if isinstance(layer, nn.ConvTranspose2d):
        return layer.weight[:, 0].numel() / math.prod(layer.stride)
    return layer.weight[0].numel() if isinstance(layer, (nn.Linear, nn.Conv2d)) else None


def _initialise(module: nn.Module, generator: torch.Generator | None) -> None:
    layers = [layer for layer in module.modules() if not list(layer.children())]
    for layer, following in zip(layers, [*layers[1:], None], strict=True):
        if terms := fan_in(layer):
            variance = (2 if isinstance(following, nn.ReLU) else 1) / terms
            nn.init.normal_(layer.weight, std=math.sqrt(variance), generator=generator)
            nn.init.zeros_(layer.bias)


def _check(name: str, batch: Tensor, shape: tuple[int, ...]) -> None:
    if batch.shape[1:] != shape or batch.dtype != torch.float32:
        got, expected = f"{tuple(batch.shape)} {batch.dtype}", ", ".join(map(str, ("B", *shape)))
        advice = "reshape or convert the batch, or build the model with other sizes"
        raise ValueError(f"{name}: got {got}, expected ({expected}) torch.float32: {advice}")
