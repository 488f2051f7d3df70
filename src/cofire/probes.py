"""Classifiers fitted by gradients on a frozen model's scores and hidden values: the controls of a boost."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

__all__ = ["RIDGES", "Auxiliary", "proposed", "residual_probes", "train_auxiliary"]

RIDGES = (1.0, 0.1, 0.01, 1e-3, 1e-4)
"""Penalties of the squared weights, strongest first."""


def residual_probes(
    rows: Float[Tensor, "samples features"], scores: Float[Tensor, "samples classes"], labels: Int[Tensor, " samples"],
    ridges: Sequence[float] = RIDGES, steps: int = 25,
) -> Float[Tensor, "ridges rows classes"]:  # fmt: skip
    """Multinomial logistic regressions that add to the model's scores, one per ridge; the last row is the intercept.

    With strong ridges nothing is added. Each starts from the one before.

    Args:
        rows: Features.
        scores: The model's class scores.
        labels: True classes.
        ridges: Penalties of the squared weights, strongest first.
        steps: Of L-BFGS, for each ridge.
    """
    own = scores.to(rows)
    weights = torch.zeros(rows.shape[1] + 1, own.shape[1], dtype=rows.dtype, device=rows.device)
    found = []
    for ridge in ridges:
        weights = weights.clone().requires_grad_()
        optimizer = torch.optim.LBFGS([weights], max_iter=steps, history_size=10, line_search_fn="strong_wolfe")

        def loss(weights=weights, optimizer=optimizer, ridge=ridge) -> Tensor:
            optimizer.zero_grad()
            added = torch.addmm(weights[-1], rows, weights[:-1])
            value = F.cross_entropy(own + added, labels) + ridge / 2 * weights[:-1].square().sum()
            value.backward()
            return value

        with torch.enable_grad():
            optimizer.step(loss)
        weights = weights.detach()
        found.append(weights.double())
    return torch.stack(found)


def proposed(
    probability: Float[Tensor, "classes units"], fires: Float[Tensor, "samples units"],
    predicted: Float[Tensor, "samples classes"], scaled: bool = True,
) -> Float[Tensor, "samples classes"]:  # fmt: skip
    r"""The paper's second opinion: how well a sample's firing fits each class, times the model's probability.

    .. math:: Y_{proposed} = (P\, U^*) \odot Y_{predicted}

    Source:
        Paper 000, equation 16. *Departure:* scaled to sum one by default; raw values reach the hundreds.

    Args:
        probability: Firing probability P of every unit by class; NaN counts as 0.
        fires: Firing of the samples, zeros and ones.
        predicted: The model's probabilities.
        scaled: Divide by the sum over classes.
    """
    found = (fires @ probability.nan_to_num(0.0).to(fires).T) * predicted.to(fires)
    return found / found.sum(1, keepdim=True).clamp(min=1e-12) if scaled else found


class Auxiliary(nn.Sequential):
    """The paper's auxiliary net: [Y_predicted, Y_proposed], one hidden layer of twice the classes with ReLU, class scores.

    Source:
        Paper 000, section 5.2.

    Args:
        classes: Number of classes.
        inputs: Numbers per sample; by default twice the classes.
    """

    def __init__(self, classes: int, inputs: int | None = None):
        super().__init__(nn.Linear(inputs or 2 * classes, 2 * classes), nn.ReLU(), nn.Linear(2 * classes, classes))


def train_auxiliary(
    inputs: Float[Tensor, "samples numbers"], labels: Int[Tensor, " samples"], classes: int, *,
    epochs: int | None = None, batch: int = 256, rate: float = 3e-3, seed: int = 0,
) -> Auxiliary:  # fmt: skip
    """An auxiliary net, trained with Adam; the global random state stays as it was.

    Args:
        inputs: What it reads.
        labels: True classes.
        classes: Number of classes.
        epochs: Times through the samples; by default 30, and with few samples as many as 3,000 steps take.
        batch: Samples per step.
        rate: Learning rate.
        seed: Of its first weights and the order of samples.
    """
    epochs = max(30, -(-3000 // -(-len(inputs) // batch))) if epochs is None else epochs
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.default_generator.manual_seed(seed)  # of the processor alone, which is what is given back
        net = Auxiliary(classes, inputs.shape[1]).to(inputs)
        optimizer = torch.optim.Adam(net.parameters(), rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
        for _ in range(epochs):
            for chosen in torch.randperm(len(inputs)).to(inputs.device).split(batch):
                optimizer.zero_grad()
                F.cross_entropy(net(inputs[chosen]), labels[chosen]).backward()
                optimizer.step()
            schedule.step()
    return net.eval().requires_grad_(False)
