"""Positions for the vertices of a graph, so that communities can be seen: a force-directed layout."""

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["force_layout"]

_NEAR = 1e-3  # vertices do not come closer in the formulas
_TOLERANCE = 1.0  # swinging that is allowed, as a share of the movement that gets somewhere


def force_layout(
    adjacency: Float[Tensor, "vertices vertices"], seed: int = 0, steps: int | None = None, gravity: float = 0.05
) -> Float[Tensor, "vertices 2"]:
    """Positions by the forces of ForceAtlas2 in its LinLog form, which pulls communities apart.

    An edge draws its ends together by its weight times log(1 + distance); two vertices push each other away by the product
    of their degrees over the distance; all fall slowly towards the middle. The start is spectral, so that the global shape
    is there from the beginning; each step is as long as the vertices' swinging allows.

    Source:
        Jacomy et al. 2014 (the forces and the adaptive step); Noack 2009 (LinLog).

    Args:
        adjacency: Weights, symmetric, not negative.
        seed: Of the small displacements at the start.
        steps: Steps to go; by default 300, and fewer for graphs of more than a thousand vertices.
        gravity: Pull to the middle, which keeps parts without a common edge in the picture.

    Returns:
        Positions with mean zero, of which the farthest is at distance one; float64.
    """
    weights = adjacency.cpu().float()
    count = len(weights)
    if count < 2:
        return torch.zeros(count, 2, dtype=torch.float64)
    steps = max(40, min(300, int(3e8 / count**2))) if steps is None else steps
    degrees = weights.sum(1)
    mean = float(degrees.mean())
    weights = weights / mean if mean > 0 else weights
    mass = 0.2 + degrees / mean if mean > 0 else torch.ones(count)
    place = _start(weights, seed) * count**0.5
    force_before = torch.zeros_like(place)
    speed = 1.0
    push = (mass[:, None] * mass).fill_diagonal_(0) / count
    buffer, inverse = torch.empty_like(weights), torch.empty_like(weights)
    for _ in range(steps):
        squares = place.square().sum(1)
        torch.mm(place, place.T, out=buffer)
        buffer.mul_(-2).add_(squares[:, None]).add_(squares).clamp_(min=_NEAR**2)  # squared distances
        torch.reciprocal(buffer, out=inverse)
        buffer.sqrt_().log1p_().mul_(inverse.sqrt()).mul_(weights).addcmul_(push, inverse, value=-1)
        force = buffer @ place - buffer.sum(1)[:, None] * place - gravity * mass[:, None] * place / count**0.5
        swing = (force - force_before).norm(dim=1)
        gain = (force + force_before).norm(dim=1) / 2
        ideal = _TOLERANCE * float((mass * gain).sum() / (mass * swing).sum().clamp(min=1e-12))
        speed = min(ideal, 1.5 * speed)
        step = force * (speed / (1 + speed * swing.sqrt()))[:, None]
        longest = float(step.norm(dim=1).max())
        place = place + step * min(1.0, count**0.5 / max(longest, 1e-12))
        force_before = force
    place = place.double() - place.double().mean(0)
    return place / place.norm(dim=1).max().clamp(min=1e-12)


def _start(weights: Tensor, seed: int) -> Tensor:
    """The second and third eigenvector of the normalised adjacency, and a little noise to part vertices that are alike."""
    noise = torch.randn(len(weights), 3, generator=torch.Generator().manual_seed(seed))
    scale = weights.sum(1).clamp(min=1e-12).rsqrt()
    found = torch.linalg.qr(noise)[0]
    for _ in range(60):  # orthogonal iteration; half of the identity makes the largest eigenvalues the dominant ones
        found = torch.linalg.qr(scale[:, None] * (weights @ (scale[:, None] * found)) + found)[0]
    found = found[:, 1:] if found.shape[1] > 2 else torch.cat([found, torch.zeros(len(found), 3 - found.shape[1])], 1)[:, 1:]
    return found + 0.1 * noise[:, 1:] / len(weights) ** 0.5
