"""Products with curvature by plain double backward passes in float64: the reference of the differential grid.

Nothing of the project is used. The Gauss-Newton matrix comes from the Jacobian, row by row.
"""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_flatten, tree_unflatten


def products(
    module: nn.Module,
    loss: Callable,
    inputs: Tensor,
    targets: Tensor,
    vectors: Tensor,
    plain: Callable | None = None,
) -> dict[str, Tensor]:
    """Return the products of Hessian, Gauss-Newton matrix and their difference with each of ``vectors`` (k, N).

    Args:
        loss: of outputs and targets; the mean is taken where it returns one value per sample.
        plain: a function (module, inputs) -> outputs to be used in place of the module's own.
    """
    module = copied(module)
    parameters = [p for p in module.parameters() if p.requires_grad]
    with sdpa_kernel(SDPBackend.MATH):
        leaves, form = tree_flatten(plain(module, inputs) if plain else module(inputs))
        gradient = flat(
            torch.autograd.grad(loss(tree_unflatten(leaves, form), targets).mean(), parameters, create_graph=True),
            parameters,
        )
        hessian = rows(gradient, parameters, vectors)
        outputs = torch.cat([leaf.reshape(-1) for leaf in leaves])
        jacobian = rows(outputs, parameters, torch.eye(len(outputs), dtype=torch.float64))
    apart = outputs.detach().requires_grad_(True)
    parts = [
        part.view(leaf.shape) for part, leaf in zip(apart.split([leaf.numel() for leaf in leaves]), leaves, strict=True)
    ]
    (slope,) = torch.autograd.grad(loss(tree_unflatten(parts, form), targets).mean(), apart, create_graph=True)
    curved = rows(slope, [apart], torch.eye(len(apart), dtype=torch.float64))
    ggn = vectors @ jacobian.T @ curved @ jacobian
    return {"hessian": hessian, "ggn": ggn, "residual": hessian - ggn}


def copied(module: nn.Module) -> nn.Module:
    """Return a copy in float64. ``weight_norm`` keeps a weight that it computes anew, and that cannot be copied."""
    for part in module.modules():
        for name, value in list(vars(part).items()):
            if isinstance(value, Tensor) and not value.is_leaf:
                vars(part)[name] = value.detach()
    return copy.deepcopy(module).double().eval()


def rows(values: Tensor, at: list[Tensor], along: Tensor) -> Tensor:
    """Return the derivative of <values, row> for each row of ``along``, (k, N); zero where nothing depends on them."""
    if not values.requires_grad:
        return torch.zeros(len(along), sum(p.numel() for p in at), dtype=torch.float64)
    return torch.stack(
        [flat(torch.autograd.grad(values, at, row, retain_graph=True, allow_unused=True), at) for row in along]
    )


def flat(parts: tuple[Tensor | None, ...], at: list[Tensor]) -> Tensor:
    """Return derivatives as one vector, zero where there is none."""
    return torch.cat(
        [
            torch.zeros(p.numel(), dtype=torch.float64) if g is None else g.reshape(-1)
            for g, p in zip(parts, at, strict=True)
        ]
    )
