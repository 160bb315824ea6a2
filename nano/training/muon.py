"""The Muon optimizer: momentum with orthogonalized updates (Keller Jordan, 2024).

Unlike torch.optim.Muon, it also takes convolutions, as matrices (out, in * height * width), and updates all matrices of a shape
at once. The update is scaled to the size of AdamW's (arXiv 2502.16982, section 2.2), so that both share a learning rate.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5


class Muon(torch.optim.Optimizer):
    """Muon.

    params: parameters of two or more dimensions.
    weight_decay: decoupled, as in AdamW.
    """

    def __init__(
        self, params: Iterable[nn.Parameter], lr: float, momentum: float = 0.95, weight_decay: float = 0.0
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        assert closure is None
        for group in self.param_groups:
            by_shape = defaultdict[tuple[int, ...], list[Tensor]](list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape[parameter.flatten(1).shape].append(parameter)
            for parameters in by_shape.values():
                self._update(parameters, group["lr"], group["momentum"], group["weight_decay"])

    def _update(self, parameters: list[Tensor], rate: float, momentum: float, weight_decay: float) -> None:
        """Update parameters whose matrices have the same shape."""
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        averages = [self._momentum(parameter) for parameter in parameters]
        torch._foreach_lerp_(averages, gradients, 1 - momentum)
        nesterov = torch._foreach_lerp(gradients, averages, momentum)
        updates = orthogonalize(torch.stack([update.flatten(1) for update in nesterov]))
        size = 0.2 * max(updates.shape[1:]) ** 0.5
        torch._foreach_mul_(parameters, 1 - rate * weight_decay)
        shaped = [update.reshape(parameter.shape) for update, parameter in zip(updates, parameters, strict=True)]
        torch._foreach_add_(parameters, shaped, alpha=-rate * size)

    def _momentum(self, parameter: Tensor) -> Tensor:
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        average: Tensor = state["momentum"]
        return average


def orthogonalize(matrices: Tensor) -> Tensor:
    """The matrices (n, rows, columns) with singular values of about one (0.7 to 1.2): a Newton-Schulz iteration in bfloat16."""
    a, b, c = COEFFICIENTS
    is_tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.bfloat16()
    x = x.mT.contiguous() if is_tall else x
    x = x / (torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(ITERATIONS):
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
    update: Tensor = (x.mT if is_tall else x).to(matrices.dtype)
    return update
