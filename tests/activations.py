"""Activations for tests: drawn by hypothesis, as they are met in practice, or written by hand."""

import numpy as np
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import special, stats

import cofire

__all__ = ["KINDS", "apart", "column", "law", "layer_of", "realistic", "recordings"]

# The kernels work on small chunks: threads that compete with other processes for a core make them hundreds of times slower.
torch.set_num_threads(1)

law = settings(deadline=None, max_examples=60)


def layer_of(acts, labels=None, classes=None, **options) -> cofire.LayerStats:
    """Statistics of one layer "fc1"; without labels, of one class."""
    acts = torch.as_tensor(acts)
    labels = torch.zeros(len(acts), dtype=torch.long) if labels is None else labels
    return cofire.FiringStats.from_activations({"fc1": acts}, labels, classes, **options)["fc1"]


def column(*values, dtype=torch.float32) -> torch.Tensor:
    """One unit's activations, [samples, 1]."""
    return torch.tensor(values, dtype=dtype)[:, None]


def apart(ours, theirs) -> float:
    """Largest difference; infinite where only one of them is NaN."""
    ours, theirs = np.asarray(ours, dtype=float), np.asarray(theirs, dtype=float)
    if ours.shape != theirs.shape or (np.isnan(ours) != np.isnan(theirs)).any():
        return np.inf
    return float(np.nan_to_num(np.abs(ours - theirs)).max(initial=0))


@st.composite
def recordings(draw, most=30, least=1, negative=True):
    """Activations [samples, units] with many exact zeros and ties, labels, and the number of classes, each of them seen."""
    classes = draw(st.integers(1, 4))
    samples, units = draw(st.integers(max(least, classes), most)), draw(st.integers(1, 4))
    bottom = -100 if negative else 0
    values = st.sampled_from([0.0, 0.5, 1.0, *((-0.0, -1.0) if negative else ())]) | st.floats(bottom, 100, width=32)
    acts = draw(hnp.arrays(np.float32, (samples, units), elements=values))
    more = draw(st.lists(st.integers(0, classes - 1), min_size=samples - classes, max_size=samples - classes))
    return torch.tensor(acts), torch.tensor([*range(classes), *more]), classes


KINDS = {
    "relu": lambda g, spread: np.maximum(g - 0.36, 0) * spread,  # 64 % zeros
    "gelu": lambda g, spread: g * spread * stats.norm.cdf(g * spread),
    "sigmoid": lambda g, spread: special.expit(g * spread),
    "tanh": lambda g, spread: np.tanh(g * spread),
    "heavy tails": lambda g, spread: g * np.abs(g) ** 2 * spread,
    "all negative": lambda g, spread: -np.exp(g) * spread,
}
"""From standard normal numbers [samples, units] and each unit's spread."""


def realistic(kind: str, samples: int, units: int, classes: int = 4, dtype=torch.float32, seed: int = 0):
    """Activations whose units differ in size by hundreds and depend on the class, and labels as a list."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, samples)
    shift = random.normal(0, 0.5, (classes, units))[labels]
    spread = np.exp(random.uniform(-2.7, 3.6, units))
    acts = KINDS[kind](random.standard_normal((samples, units)) + shift, spread)
    return torch.tensor(acts).to(dtype), labels.tolist()
