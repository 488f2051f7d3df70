"""Learned or memorised: the same net on real and on shuffled labels.

The net fits its training data on real labels, and memorises a good part of them on shuffled ones. Training accuracy alone does
not say which of the two happened; the excess of mutual information over what shuffled labels give by chance does. The
activation entropy, whose fall the papers read as a sign of learning, is the higher one for real labels here. Three seeds each,
so that the difference has a spread to be compared with.

Nothing but the labels differs here. Between nets of other widths, dropouts and learning rates the excess does not tell so well,
and there is no threshold for all data: see what `cofire reproduce memorise` found, on the page of the papers' experiments.

Writes: `learned_or_memorised.csv`.
"""

import os

import pandas as pd

import cofire

fast = bool(os.environ.get("COFIRE_GALLERY_FAST"))  # the tests run a smaller version
rows = []
for labels in ("real", "shuffled"):
    for seed in range(1 if fast else 3):
        digits = cofire.data.load("digits", shuffle_labels=labels == "shuffled", seed=seed)
        model = cofire.zoo.model("fcnn:64-256-256-10", seed=seed)
        cofire.fit(model, digits, epochs=5 if fast else 60, seed=seed)
        stats = cofire.record(model, digits.batches())
        layers = cofire.summary(stats)
        rows.append(
            {
                "labels": labels,
                "seed": seed,
                "training_accuracy": stats.accuracy,
                "excess_bits": layers["mutual_information_excess"].mean(),
                "activation_entropy_bits": layers["activation_entropy"].mean(),
                "live_units": layers["live"].sum(),
            }
        )

frame = pd.DataFrame(rows)
frame.to_csv("learned_or_memorised.csv", index=False)
print(frame.round(4).to_string(index=False))
print(
    frame.groupby("labels")[["training_accuracy", "excess_bits", "activation_entropy_bits"]]
    .agg(["mean", "min", "max"])
    .round(3)
    .T.to_string()
)
