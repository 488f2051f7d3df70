"""Entangled classes: which digits share their units, and what remains when firing is independent.

A small net is trained on the digits. For its last hidden layer the co-firing graph says which classes share most of their
representative units, which communities Louvain finds, and how much of the modularity the sets of units alone would give. The
graph is written for Gephi, and the report draws it.

Writes: `digits.gexf`, `entangled.html`.
"""

import os

import cofire
from cofire import report
from cofire.structure import in_words, structure

fast = bool(os.environ.get("COFIRE_GALLERY_FAST"))  # the tests run a smaller version
train = cofire.data.load("digits")
model = cofire.zoo.model("fcnn:64-256-256-10", seed=0)
cofire.fit(model, train, epochs=2 if fast else 15, seed=0)

stats = cofire.record(model, train.batches(), cofiring="union")
for restrict in ("class", "union"):
    graph = cofire.coactivation(stats["relu2"], restrict=restrict)
    found = structure(graph)
    print(f"\npairs counted: {restrict}")
    print("\n".join(in_words(found, found.communities, stats.class_names)))

cofire.write_graph(cofire.coactivation(stats["relu2"]), "digits.gexf", layer=stats["relu2"], class_names=stats.class_names)
print("report:", report.write(stats, "entangled.html", title="Entangled digits"))
