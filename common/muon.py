"""Muon: steps that are equally large in every direction of a weight matrix (Jordan et al. 2024)."""

import torch
from torch import Tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the odd polynomial that brings singular values near 1, from the source
ITERATIONS = 5


class Muon(torch.optim.Optimizer):
    """Move weights against the orthogonal matrix nearest to their momentum (Nesterov's), times ``lr`` and, where there
    are more rows (the first dimension) than columns, the root of rows over columns.
    """

    def __init__(self, params, lr: float, momentum: float = 0.95):
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            for weight in group["params"]:
                if weight not in self.state:
                    self.state[weight]["mean"] = torch.zeros_like(weight)
                mean = self.state[weight]["mean"].lerp_(weight.grad, 1 - group["momentum"])
                update = orthogonal(weight.grad.lerp(mean, group["momentum"]).flatten(1))
                size = max(1.0, update.shape[0] / update.shape[1]) ** 0.5
                weight.sub_(update.view_as(weight), alpha=group["lr"] * size)


def orthogonal(matrix: Tensor) -> Tensor:
    """Return about U V^T for a matrix (M, N) = U S V^T, with singular values between 0.7 and 1.2: Newton-Schulz
    iteration X <- (a + b G + c G^2) X on the Gram matrix G = X X^T alone, then one product with the large matrix.
    """
    if matrix.shape[0] > matrix.shape[1]:
        return orthogonal(matrix.T).T
    matrix = matrix / (matrix.norm() + 1e-7)
    gram = matrix @ matrix.T  # (M, M), the smaller side
    product = factor = _polynomial(gram)
    for _ in range(ITERATIONS - 1):
        gram = factor @ gram @ factor  # factors of one matrix commute
        factor = _polynomial(gram)
        product = factor @ product
    return product @ matrix


def _polynomial(gram: Tensor) -> Tensor:
    value = COEFFICIENTS[1] * gram + COEFFICIENTS[2] * (gram @ gram)
    value.diagonal().add_(COEFFICIENTS[0])
    return value
