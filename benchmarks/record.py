"""What recording costs: cofire, the papers' way and other tools over the same data, as ratios to the plain forward pass.

    python benchmarks/record.py --data-root FOLDER      # everything; about twelve minutes
    python benchmarks/record.py --quick                 # small digits, no files needed; seconds

One thread, processor time. Every contender runs in a process of its own that is forked from one parent; they take turns,
each between two plain passes, and its ratio is its time over the mean of those two. Before anything is timed, all that
claim to do the same job must give the same firing counts, and the same entropies within 0.001 bits.
"""

# ruff: noqa: E402
import os

for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[_name] = "1"  # before NumPy and torch are loaded

import argparse
import json
import platform
import sys
import time
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import torch
from _peers import peers
from _table import tables, write_page
from _timing import Worker, ratios, spread
from _ways import BINS, Contender, ours, papers, plain, share_of
from _workloads import FULL, QUICK, Workload, build

HERE = Path(__file__).resolve().parent
PACKAGES = ("cofire", "torch", "numpy", "captum", "nnsight", "torchlens", "delve", "pytorch-ood")
EXACT_BITS = 1e-3  # the most that an exact way may be off for any unit
SKETCH_BITS = 1e-2  # the most that the sketch may be off on average


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", help="folder of the data sets; else COFIRE_DATA, else ./data")
    parser.add_argument("--quick", action="store_true", help="small digits, two rounds; writes no file unless told where")
    parser.add_argument("--only", nargs="+", default=["*"], help="globs of WORKLOAD/CONTENDER, such as 'mlp/cofire-*'")
    parser.add_argument("--rounds", type=int, help="rounds (default 5); three at most for others and for large nets")
    parser.add_argument("--seed", type=int, default=0, help="of weights and of the order of the data")
    parser.add_argument("--output", type=Path, help="where to write the numbers (default benchmarks/results.json)")
    parser.add_argument("--page", type=Path, help="page whose table to make anew (default docs/benchmarks.md)")
    chosen = parser.parse_args(words)
    chosen.rounds = chosen.rounds or (2 if chosen.quick else 5)
    everything = chosen.only == ["*"] and not chosen.quick
    chosen.output = chosen.output or (HERE / "results.json" if everything else None)
    chosen.page = chosen.page or (HERE.parent / "docs" / "benchmarks.md" if everything else None)
    return chosen


def main(words: list[str] | None = None) -> int:
    chosen = arguments(words)
    torch.set_num_threads(1)
    start = time.monotonic()
    names = [name for name in (QUICK if chosen.quick else FULL) if wanted(name, "*", chosen.only)]
    if not names:
        say(f"--only {' '.join(chosen.only)} names no workload; there are {', '.join({**FULL, **QUICK})}")
        return 2
    workloads = [measured(build(name, chosen.data_root, chosen.seed), chosen) for name in names]
    results = {
        "format": 1,
        "date": datetime.now(UTC).date().isoformat(),
        "quick": chosen.quick,
        "minutes": round((time.monotonic() - start) / 60, 1),
        "settings": {"rounds": chosen.rounds, "seed": chosen.seed, "threads": torch.get_num_threads(), "bins": BINS},
        "machine": {
            "system": platform.platform(), "processor": processor(), "cores": os.cpu_count(), "load": os.getloadavg()[0],
        },
        "versions": {"python": platform.python_version(), **{name: installed(name) for name in PACKAGES}},
        "workloads": workloads,
    }  # fmt: skip
    print(tables(results))
    if chosen.output:
        chosen.output.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", "utf8")
    if chosen.page:
        write_page(chosen.page, results)
    return 0


def measured(workload: Workload, chosen: argparse.Namespace) -> dict:
    """All contenders on one workload."""
    say(f"{workload.title}: {workload.samples:,} samples, weights: {workload.weights}")
    everyone = [*ours(workload.convolutional), *papers(), *peers()]
    picked = [c for c in everyone if wanted(workload.name, c.name, chosen.only) and wanted(workload.name, "*", c.only)]
    base = Worker(lambda share: plain(workload.part(share)))
    workers = {c.name: Worker(partial(job, c, workload)) for c in picked}
    try:
        first = base.ask("first")
        firsts, skipped = {}, {}
        for contender in picked:
            try:
                firsts[contender.name] = workers[contender.name].ask("first")
                say(f"  {contender.name}: {firsts[contender.name]['seconds']:.2f} s the first time")
            except RuntimeError as error:
                skipped[contender.name] = str(error)
                say(f"  {contender.name}: skipped, {error}")
        differences = agreement(picked, firsts, workload)
        found: dict[str, dict] = {}
        for group, rounds in groups(picked, firsts, workload, chosen.rounds):
            found |= ratios(base, {c.name: workers[c.name] for c in group}, rounds, lambda words: say(f"  {words}"))
    finally:
        for worker in (base, *workers.values()):
            worker.close()
    skipped |= {name: entry["failed"] for name, entry in found.items() if "failed" in entry}
    plains = [seconds for entry in found.values() for seconds in entry.get("base", [])]
    return {
        "name": workload.name, "title": workload.title, "samples": workload.samples, "classes": workload.classes,
        "batch_size": len(workload.batches[0][1]), "weights": workload.weights,
        "plain": {"seconds": spread(plains), "peak_bytes": first["peak"]},
        "contenders": [
            row(c, workload, *(part.get(c.name) for part in (firsts, found, differences, skipped))) for c in picked
        ],
    }  # fmt: skip


def groups(picked: list[Contender], there: dict, workload: Workload, rounds: int):
    """Ours, which get all rounds, and the slower others; of nets that take long, three rounds at most."""
    mine = [c for c in picked if c.name in there and c.name.startswith("cofire")]
    others = [c for c in picked if c.name in there and not c.name.startswith("cofire")]
    few = min(3, rounds)
    return [(group, count) for group, count in ((mine, few if workload.convolutional else rounds), (others, few)) if group]


def job(contender: Contender, workload: Workload, share: float):
    """The contender's job on its own share of the batches; on one batch where the share is 0."""
    return contender.make(workload.part(share * share_of(contender, workload)))


def row(contender: Contender, workload: Workload, first, timed, difference, skipped) -> dict:
    """One contender's entry in the results."""
    share = share_of(contender, workload)
    entry = {
        "name": contender.name, "title": contender.title, "does": contender.does, "package": contender.package,
        "bar": workload.bars.get(contender.name), "share": share, "samples": workload.part(share).samples,
        "skipped": skipped, "rounds": [], "ratio": None, "reading": None, "seconds": None, "peak_bytes": None,
        "off_bits": difference,
    }  # fmt: skip
    if not skipped:
        scaled = {name: [value / share for value in timed[name]] for name in ("ratios", "reading", "seconds")}
        entry |= {
            "rounds": scaled["ratios"], "ratio": spread(scaled["ratios"]), "reading": spread(scaled["reading"]),
            "seconds": spread(scaled["seconds"]), "peak_bytes": first["peak"],
        }  # fmt: skip
    return entry


def agreement(picked: list[Contender], firsts: dict[str, dict], workload: Workload) -> dict[str, dict]:
    """How far each contender's entropies are from those of the papers' way, over units, in bits.

    Raises:
        SystemExit: They are further off than they may be, or firing counts differ: then they do not do the same job.
    """
    truth = next((firsts[name]["answer"] for name in ("papers-by-class", "papers") if name in firsts), None)
    found = {}
    for contender in picked:
        answer = firsts.get(contender.name, {}).get("answer")
        if truth is None or answer is None or share_of(contender, workload) < 1:
            continue
        if answer["fire"].keys() != truth["fire"].keys() or any(
            (answer["fire"][place] != truth["fire"][place]).any() for place in truth["fire"]
        ):
            sys.exit(f"{contender.name} has other firing counts on {workload.name}: it does another job")
        shared = answer["entropy"].keys() & truth["entropy"].keys()
        gaps = [np.abs(answer["entropy"][place] - truth["entropy"][place]).ravel() for place in sorted(shared)]
        if not gaps:
            continue
        gap = np.concatenate(gaps)
        found[contender.name] = {"mean": float(gap.mean()), "max": float(gap.max())}
        if gap.max() > EXACT_BITS if contender.exact else gap.mean() > SKETCH_BITS:
            sys.exit(f"{contender.name} is off by {gap.max():.2g} bits on {workload.name}: it does another job")
    return found


def wanted(workload: str, contender: str, only: list[str]) -> bool:
    """Whether a glob WORKLOAD/CONTENDER, or WORKLOAD alone, names this contender; any for "*"."""
    for glob in only:
        first, _, second = glob.partition("/")
        if fnmatchcase(workload, first) and (contender == "*" or fnmatchcase(contender, second or "*")):
            return True
    return False


def processor() -> str:
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        fields = dict(line.split(":", 1) for line in lines[: lines.index("") if "" in lines else None] if ":" in line)
        fields = {key.strip(): value.strip() for key, value in fields.items()}
        return f"{fields['model name']} (family {fields['cpu family']}, model {fields['model']})"
    except (OSError, KeyError, ValueError):
        return platform.processor() or platform.machine()


def installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
