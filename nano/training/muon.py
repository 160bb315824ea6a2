"""The Muon optimizer: momentum whose matrices are brought to singular values near one (Keller Jordan, 2024).

torch.optim.Muon takes matrices only; this one also takes convolutions, as matrices of (out, in * height * width). The update is
scaled to the size of AdamW's (arXiv 2502.16982, section 2.2), so that one learning rate serves both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5


class Muon(torch.optim.Optimizer):
    """params: of two dimensions and more. weight_decay: decoupled, as AdamW's."""

    def __init__(
        self, params: Iterable[nn.Parameter], lr: float, momentum: float = 0.95, weight_decay: float = 0.0
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        assert closure is None
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group["lr"], group["momentum"], group["weight_decay"])

    def _update(self, parameter: Tensor, rate: float, momentum: float, weight_decay: float) -> None:
        assert parameter.grad is not None
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        average = state["momentum"].lerp_(parameter.grad, 1 - momentum)
        ahead = parameter.grad.lerp(average, momentum)  # Nesterov's
        update = orthogonalized(ahead.flatten(1))
        size = 0.2 * max(update.shape) ** 0.5
        parameter.mul_(1 - rate * weight_decay).add_(update.reshape(parameter.shape), alpha=-rate * size)


def orthogonalized(matrix: Tensor) -> Tensor:
    """The matrix with all singular values brought to about one (0.7 to 1.2) by Newton-Schulz iteration, in bfloat16."""
    a, b, c = COEFFICIENTS
    x = matrix.bfloat16()
    x = x.T if x.shape[0] > x.shape[1] else x
    x = x / (x.norm() + 1e-7)
    for _ in range(ITERATIONS):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    x = x.T if matrix.shape[0] > matrix.shape[1] else x
    update: Tensor = x.to(matrix.dtype)
    return update
