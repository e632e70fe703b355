"""Muon: steps that are equally large in every direction of a weight matrix (Jordan et al. 2024)."""

import torch
from torch import Tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the odd polynomial that brings singular values near 1, from the source
ITERATIONS = 5


class Muon(torch.optim.Optimizer):
    """Move weights against the orthogonal matrix nearest to their momentum (Nesterov's), times ``lr``.

    A weight counts as a matrix with its first dimension as rows, and steps grow with the root of rows over columns
    where there are more rows. For the weights between the first layer and the last; the others are AdamW's.
    """

    def __init__(self, params, lr: float, momentum: float = 0.95):
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            for weight in group["params"]:
                state = self.state[weight]
                if not state:
                    state["mean"] = torch.zeros_like(weight)
                mean = state["mean"]
                mean.lerp_(weight.grad, 1 - group["momentum"])
                update = orthogonal(weight.grad.lerp(mean, group["momentum"]).flatten(1))
                size = max(1.0, update.shape[0] / update.shape[1]) ** 0.5
                weight.sub_(update.view_as(weight), alpha=group["lr"] * size)


def orthogonal(matrix: Tensor) -> Tensor:
    """Return about U V^T for a matrix (M, N) = U S V^T: singular values between 0.7 and 1.2 in the place of S.

    Newton-Schulz iteration X <- a X + b (X X^T) X + c (X X^T)^2 X, here on the small Gram matrix X X^T alone: every
    factor is a polynomial in it, so the large matrix is multiplied once, at the end.
    """
    tall = matrix.shape[0] > matrix.shape[1]
    wide = matrix.T if tall else matrix
    wide = wide / (wide.norm() + 1e-7)
    gram = wide @ wide.T  # (m, m), the smaller side
    product = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    a, b, c = COEFFICIENTS
    for _ in range(ITERATIONS):
        factor = b * gram + c * (gram @ gram)
        factor.diagonal().add_(a)
        product = factor @ product
        gram = factor @ gram @ factor  # factors of one matrix commute
    wide = product @ wide
    return wide.T if tall else wide
