"""Which units can go: orders beside a random one, and a smaller net that makes up for what it lost.

A net is trained on the digits and recorded with the covariance of its units. Its units are removed in several orders, layer by
layer and all together; then a net with a fifth of the units is made, with and without compensation, and neither is trained
again.

Writes: `ablation.html`, `curves.csv`, `small.safetensors`.
"""

import os

import cofire
from cofire import report
from cofire.ablation import curves_of
from cofire.export import write_curves
from cofire.pruning import accuracy_of
from cofire.verdicts import curve_findings

fast = bool(os.environ.get("COFIRE_GALLERY_FAST"))  # the tests run a smaller version
train, test = cofire.data.load("digits"), cofire.data.load("digits", "test")
model = cofire.zoo.model("fcnn:64-128-128-128-10", seed=0)
cofire.fit(model, train, epochs=3 if fast else 20, seed=0)

stats = cofire.record(model, train.batches(), covariance=True)
orders = ["mutual_information", "reconstruction"] if fast else ["mutual_information", "kl_selectivity", "reconstruction", "obs"]
curves = curves_of(model, test.batches(), stats, orders, each=True, steps=9 if fast else None, seeds=2 if fast else 5)
for finding in curve_findings(curves):
    print("-", finding.text)
write_curves(curves, "curves.csv")
print("report:", report.write(stats, "ablation.html", curves=curves, title="Which units can go"))

example = next(iter(test.batches()))
print(f"whole net: {cofire.cost(model, example).parameters:,} parameters, {accuracy_of(model, test.batches(), 10):.1%}")
for compensate in (True, False):
    small = cofire.prune(model, example, stats, keep=0.2, compensate=compensate)
    word = "with" if compensate else "without"
    size = cofire.cost(small, example).parameters
    print(f"a fifth of the units, {word} compensation: {size:,} parameters, {accuracy_of(small, test.batches(), 10):.1%}")
    if compensate:
        cofire.zoo.save_weights(small, "small.safetensors")
