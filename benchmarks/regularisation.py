"""Whether entropy, modularity or class selectivity as a term of the loss helps on test data, with either sign.

    python benchmarks/regularisation.py --data-root data      # a few minutes on one core
    python benchmarks/regularisation.py --data-root data --only digits --output part.json     # a part needs a file of its own
    python benchmarks/regularisation.py --quick               # digits, two epochs, seconds; writes no file unless told where

Small nets on 5,000 images of MNIST and on digits. The loss is cross entropy plus strength times the term, its mean over
hidden layers. All strengths are shown, none is chosen. Each net is compared with the one of the same seed without a term; the
interval is Student's, over seeds. Writes benchmarks/regularisation.json and the table of docs/regularisation.md.
"""

import argparse
import os
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from _results import VERSIONS, made, publish
from scipy.stats import t as student

import cofire
from cofire.margins import mean_accuracy, outputs
from cofire.regularisation import soft_class_selectivity, soft_entropy, soft_modularity

HERE = Path(__file__).resolve().parent
TERMS = {
    "entropy": lambda acts, _labels: soft_entropy(acts, bins=10).mean(),
    "modularity": soft_modularity,
    "class selectivity": lambda acts, labels: soft_class_selectivity(acts, labels).mean(),
}
STRENGTHS = (-1.0, -0.1, 0.1, 1.0)
CELLS = {"mnist": ("fcnn:784-128-128-10", 5000, 8), "digits": ("fcnn:64-128-128-10", None, 25)}
"""Net, training images and epochs of each data set."""


def trained(net: torch.nn.Module, images, epochs: int, seed: int, term=None, strength: float = 0.0) -> float:
    """Train with Adam and a term of the loss; the term's mean over the last epoch, NaN without one."""
    seen: list[torch.Tensor] = []
    hooks = [
        layer.register_forward_hook(lambda _module, _inputs, output: seen.append(output)) for layer in (net.relu1, net.relu2)
    ]
    optimizer, total, steps = torch.optim.Adam(net.parameters(), lr=3e-3), 0.0, 0
    for epoch in range(epochs):
        total, steps = 0.0, 0
        for inputs, labels in images.batches(128, shuffle=True, seed=1000 * seed + epoch):
            seen.clear()
            loss = F.cross_entropy(net(inputs), labels)
            if term is not None:
                value = sum(term(acts, labels) for acts in seen) / len(seen)
                loss = loss + strength * value
                total, steps = total + value.item(), steps + 1
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    for hook in hooks:
        hook.remove()
    return total / steps if steps else float("nan")


def measured(data: str, root: Path | None, seeds: int, say, most: int | None = None) -> list[dict]:
    """Test and training accuracy of every net of one data set, trained for so many epochs at most."""
    name, limit, epochs = CELLS[data]
    epochs = epochs if most is None else min(most, epochs)
    images, test = cofire.data.load(data, "train", root=root, limit=limit), cofire.data.load(data, "test", root=root)
    plain = [("none", None, 0.0)]
    rows = []
    for title, term, strength in plain + [(title, term, s) for title, term in TERMS.items() for s in STRENGTHS]:
        start = time.process_time()
        for seed in range(seeds):
            net = cofire.zoo.model(name, seed=seed).train()
            value = trained(net, images, epochs, seed, term, strength)
            found = {part: mean_accuracy(outputs(net, of.batches(1000))) for part, of in (("train", images), ("test", test))}
            rows.append({
                "data": data, "term": title, "strength": strength, "seed": seed,
                "value": None if term is None else round(value, 4),
                **{part: round(number, 5) for part, number in found.items()},
            })  # fmt: skip
        say(f"{data}, {title} {strength:+}: {rows[-1]['test']:.4f}, {time.process_time() - start:.1f} s")
    return rows


def interval(values: list[float]) -> tuple[float, float, float]:
    """Mean and Student's 95 % interval."""
    numbers = torch.tensor(values, dtype=torch.float64)
    far = float(student.ppf(0.975, len(values) - 1)) * float(numbers.std()) / len(values) ** 0.5
    return float(numbers.mean()), float(numbers.mean()) - far, float(numbers.mean()) + far


def page(result: dict) -> str:
    """The table, in Markdown."""
    rows = result["rows"]
    by = {(row["data"], row["term"], row["strength"], row["seed"]): row for row in rows}
    seeds = sorted({row["seed"] for row in rows})
    lines = [
        f"`{result['command']}`, {result['date']}, {result['machine']}, torch {result['torch']}, {len(seeds)} seeds, "
        f"{result['seconds']} s of processor time. Accuracies in percent, differences in points with Student's 95 % interval "
        "over seeds, bold where it leaves out 0.",
        "",
        "| data | term | strength | its value | training accuracy | test accuracy | less that without |",
        "| --- | --- | --: | --: | --: | --: | --- |",
    ]
    told = 0
    groups = list(dict.fromkeys((row["data"], row["term"], row["strength"]) for row in rows))
    for data, term, strength in groups:
        mine = [by[data, term, strength, seed] for seed in seeds]
        train, test = (100 * sum(row[part] for row in mine) / len(mine) for part in ("train", "test"))
        cells = ["", "", "", f"{train:.2f}", f"{test:.2f}", ""]
        if term != "none":
            mean, low, high = interval(
                [100 * (by[data, term, strength, s]["test"] - by[data, "none", 0.0, s]["test"]) for s in seeds]
            )
            words = f"{mean:+.2f} [{low:+.2f}, {high:+.2f}]"
            told += low > 0 or high < 0
            cells[1], cells[2] = f"{strength:+g}", f"{sum(row['value'] for row in mine) / len(mine):.2f}"
            cells[5] = f"**{words}**" if low > 0 or high < 0 else words
        lines.append(f"| {data} | {term} | {' | '.join(cells[1:])} |")
    with_term = [group for group in groups if group[1] != "none"]
    lines += ["", f"Of {len(with_term)} intervals {told} leave out 0; chance alone gives about {0.05 * len(with_term):.1f}."]
    return "\n".join(lines)


def main() -> None:
    """Run everything and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, default=os.environ.get("COFIRE_DATA"))
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--only", choices=CELLS, action="append", help="these data sets only; may be repeated")
    parser.add_argument("--quick", action="store_true", help="digits, two epochs, two seeds")
    parser.add_argument("--output", type=Path, help="where to write the numbers (default benchmarks/regularisation.json)")
    options = parser.parse_args()
    if options.only and set(options.only) < set(CELLS) and not options.quick and options.output is None:
        parser.error("--only measures a part, which would replace the whole in regularisation.json: name a file with --output")
    root = Path(options.data_root) if options.data_root else None
    start, rows = time.process_time(), []
    for data in ["digits"] if options.quick else options.only or CELLS:
        seeds, most = (2, 2) if options.quick else (options.seeds, None)
        rows += measured(data, root, seeds, lambda text: print(text, flush=True), most)
    only = "".join(f" --only {data}" for data in options.only or ())
    result = {
        **made(f"regularisation.py --seeds {options.seeds}{only}"),
        **VERSIONS,
        "seconds": round(time.process_time() - start),
        "rows": rows,
    }
    output = options.output or (None if options.quick else HERE / "regularisation.json")
    publish(result, page(result), output, "regularisation", "regularisation.md")


if __name__ == "__main__":
    main()
