"""The boost of a report, as plain values."""

from typing import Any

from cofire.boosted import Boosted

__all__ = ["METHODS", "boost_contents"]

METHODS = {
    "model": "The frozen model as it was.",
    "boosted": "What the boost gives back.",
    "temperature": "The model's scores times a fitted number. As good: its confidence alone was off.",
    "class scores alone": "Logistic regression on the model's scores. As good: no hidden layer is needed.",
    "inputs": "Logistic regression on the inputs, beside the scores. As good: no net is needed.",
    "last hidden layer": "The linear probe, beside the scores. As good: one layer is enough.",
    "all hidden layers by gradients": "Logistic regression on all hidden units: what the closed form is to reach.",
    "random labels": "The closed form with labels drawn at random: what choosing on held-out samples alone gives.",
    "paper": "The auxiliary net of the paper, on the model's probabilities and the firing pattern.",
    "paper: predictions only": "The same net without the firing pattern. As good: the pattern has no part in it.",
    "paper: permuted units": "The same net with units in another order. As good: which unit fires has no part in it.",
    "one more epoch": "The model itself, trained on. As good: it was not trained to its end.",
    "hidden layers, not taken": "The boost from hidden layers, which held-out samples did not confirm.",
    "closed form": "The boost in closed form, from hidden units.",
}
"""What each row of the table of gains is, and what it tells."""


def boost_contents(boosted: Boosted) -> dict[str, Any]:
    """What a report shows of a boost: all that it found, and what its rows mean."""
    return {**boosted.record, "methods": {row["method"]: METHODS[row["method"]] for row in boosted.record["rows"]}}
