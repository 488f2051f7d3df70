"""Any model: what the channels of a ResNet do, layer by layer.

A torchvision ResNet-18 is given ten outputs and trained briefly on the digits, enlarged to 32 pixels. No layer is named: its 17
activation calls are found, each call of a reused ReLU a layer of its own. The table shows how class information grows with
depth, and the report has the mean maps and every channel.

Writes: `resnet18.html`.
"""

import os

import cofire
from cofire import report

fast = bool(os.environ.get("COFIRE_GALLERY_FAST"))  # the tests run a smaller version
train = cofire.data.load("digits", size=32, channels=3, limit=200 if fast else None)
test = cofire.data.load("digits", "test", size=32, channels=3, limit=100 if fast else None)

model = cofire.zoo.model("torchvision:resnet18", classes=10, seed=0)
print(cofire.layers(model, next(iter(test.batches(2)))[0]))
cofire.fit(model, train, test, epochs=1 if fast else 4, seed=0)

stats = cofire.record(model, train.batches())
unseen = cofire.record(model, test.batches(), reference=stats)
columns = ["layer", "units", "dead", "always_on", "mutual_information", "class_selectivity"]
print(cofire.summary(stats)[columns].round(3).to_string(index=False))
print(f"accuracy: {stats.accuracy:.1%} on training data, {unseen.accuracy:.1%} on unseen data")
print("report:", report.write(stats, "resnet18.html", test=unseen, title="ResNet-18 on digits"))
