"""Four processes, one result: the statistics of all shards are those of one process, bit for bit, on every process.

The file is also the program that each process runs: ``python test_processes.py RANK WORLD FOLDER``. All numbers here are
fractions of few bits, so that no sum is rounded and the order of the processes cannot show.
"""

import os
import subprocess
import sys
import time
import warnings
from datetime import timedelta
from pathlib import Path
from unittest import mock

import pytest
import torch
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, TensorDataset
from torch.utils.data.distributed import DistributedSampler

import cofire
from cofire.errors import CofireError, CofireWarning

SAMPLES, CLASSES = 103, 4  # four processes pad this to 104


def dyadic(*shape, seed=0):
    random = torch.Generator().manual_seed(seed)
    return torch.randint(-16, 17, shape, generator=random).float() / 16


def samples(images=False):
    x = dyadic(SAMPLES, 1, 6, 6, seed=1) if images else dyadic(SAMPLES, 6, seed=2)
    return x, torch.arange(SAMPLES) * 7 % CLASSES


def network(images=False):
    if images:
        layers = nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, CLASSES)
    else:
        layers = nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, CLASSES)
    net = nn.Sequential(*layers)
    with torch.no_grad():
        for seed, parameter in enumerate(net.parameters()):
            parameter.copy_(dyadic(*parameter.shape, seed=seed))
    return net


def activations():
    x, y = samples()
    return {"fc1": network()[:2](x).detach(), "fc2": x}, y


def recorded(batches, images=False, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CofireWarning)  # three samples leave a class empty
        return cofire.record(network(images), batches, progress=False, **options)


def whole(images=False):
    """One batch with everything, as one process would see it."""
    return [samples(images)]


def sampled(rank, world, count=SAMPLES, shuffle=False):
    x, y = samples()
    data = TensorDataset(x[:count], y[:count])
    return DataLoader(data, batch_size=5, sampler=DistributedSampler(data, world, rank, shuffle=shuffle, seed=3))


def shard(rank, world, last=None, images=False):
    """Every so many samples in batches of nine; with ``last``, all samples go to the ranks up to it and none to the others."""
    x, y = samples(images)
    used = world if last is None else last + 1
    mine = slice(rank, None, used) if rank < used else slice(0)
    return [batch for batch in zip(x[mine].split(9), y[mine].split(9), strict=True) if len(batch[1])]


def given(rank, world, histograms):
    acts, y = activations()
    options = {"histograms": histograms, "by_class": histograms == "exact"}
    if histograms == "exact":
        options["reference"] = cofire.FiringStats.from_activations(acts, y, CLASSES)
    mine = {name: values[rank::world] for name, values in acts.items()}
    return cofire.FiringStats.from_activations(mine, y[rank::world], CLASSES, **options).all_reduce()


def alone(histograms):
    acts, y = activations()
    return cofire.FiringStats.from_activations(acts, y, CLASSES, histograms=histograms)


def wrapped(rank, world):
    """A DistributedSampler inside a batch sampler, as Accelerate and others build it."""
    data = TensorDataset(*samples())
    return DataLoader(data, batch_sampler=BatchSampler(DistributedSampler(data, world, rank), 5, drop_last=False))


# What each process does, and what one process gives that sees everything.
TOGETHER = {
    "given, edges of a reference": (lambda r, w: given(r, w, "exact"), lambda: alone("exact")),
    "given, sketch": (lambda r, w: given(r, w, "sketch"), lambda: alone("sketch")),
    "padded": (lambda r, w: recorded(sampled(r, w)), lambda: recorded(whole())),
    "padded, shuffled": (lambda r, w: recorded(sampled(r, w, shuffle=True)), lambda: recorded(whole())),
    "padded, two passes": (lambda r, w: recorded(sampled(r, w), histograms="two-pass"), lambda: recorded(whole())),
    "padded, sketch": (
        lambda r, w: recorded(sampled(r, w), histograms="sketch"),
        lambda: recorded(whole(), histograms="sketch"),
    ),
    "padded, all choices": (
        lambda r, w: recorded(sampled(r, w), levels=4, softmax=True, bins=7),
        lambda: recorded(whole(), levels=4, softmax=True, bins=7),
    ),
    "padded, edges of a reference": (
        lambda r, w: recorded(sampled(r, w), reference=alone_recorded()),
        lambda: recorded(whole()),
    ),
    "padded, no histograms": (
        lambda r, w: recorded(sampled(r, w), histograms="none"),
        lambda: recorded(whole(), histograms="none"),
    ),
    "fewer samples than processes": (
        lambda r, w: recorded(sampled(r, w, count=3)),
        lambda: recorded([[part[:3] for part in samples()]]),
    ),
    "padded inside a batch sampler": (lambda r, w: recorded(wrapped(r, w)), lambda: recorded(whole())),
    "shards": (lambda r, w: recorded(shard(r, w)), lambda: recorded(whole())),
    "a rank without samples": (lambda r, w: recorded(shard(r, w, last=2)), lambda: recorded(whole())),
    "a rank without samples, sketch": (
        lambda r, w: recorded(shard(r, w, last=2), histograms="sketch"),
        lambda: recorded(whole(), histograms="sketch"),
    ),
    "ranks without samples, first too": (lambda r, w: recorded(shard(3 - r, w, last=0)), lambda: recorded(whole())),
    "feature maps": (
        lambda r, w: recorded(shard(r, w, images=True), images=True),
        lambda: recorded(whole(True), images=True),
    ),
    "feature maps, a rank without samples": (
        lambda r, w: recorded(shard(r, w, last=2, images=True), images=True),
        lambda: recorded(whole(True), images=True),
    ),
    "no sample anywhere": (lambda r, w: recorded([]), None),
    # The two below leave the group in disorder if they fail, so they run in groups of their own.
    "one cache is full": (lambda r, w: recorded(uneven(r), memory=8000), lambda: recorded(whole(), histograms="sketch")),
    "one cache is full, the other empty": (
        lambda r, w: recorded(shard(r, w, last=0), memory=8000),
        lambda: recorded(whole(), histograms="sketch"),
    ),
}
APART = list(TOGETHER)[-2:]


def alone_recorded():
    """A recording of everything by this process alone, though it is one of a group."""
    with mock.patch("torch.distributed.is_initialized", return_value=False):
        return recorded(whole())


def uneven(rank):
    """The first process has most of the samples."""
    x, y = samples()
    return [(x[:90], y[:90])] if rank == 0 else [(x[90:], y[90:])]


def work(rank: int, world: int, folder: Path, names: list[str]) -> None:
    import torch.distributed as dist

    torch.set_num_threads(1)
    store = f"file://{folder / 'store'}"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=world, timeout=timedelta(seconds=20))
    for name in names:
        place = folder / f"{name}.{rank}"
        try:
            TOGETHER[name][0](rank, world).save(place)
        except Exception as error:  # told to the test that asks for this name
            place.with_suffix(f".{rank}.error").write_text(f"{type(error).__name__}: {error}")
            if not isinstance(error, CofireError):
                raise
    dist.barrier()
    dist.destroy_process_group()


def launch(folder: Path, world: int, names: list[str]) -> None:
    """Run these in so many processes, and leave none behind."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    if sys.platform == "linux":
        environment.setdefault("GLOO_SOCKET_IFNAME", "lo")
    command = [sys.executable, "-W", "ignore", __file__]
    with (folder / "log").open("w") as log:
        running = [
            subprocess.Popen([*command, str(rank), str(world), str(folder), *names], env=environment, stdout=log, stderr=log)
            for rank in range(world)
        ]
        stop = time.monotonic() + 120
        try:
            for process in running:
                process.wait(max(0.1, stop - time.monotonic()))
        except subprocess.TimeoutExpired:
            pass  # the results that are missing tell
        finally:
            for process in running:
                process.kill()
                process.wait()


@pytest.fixture(scope="module")
def four(tmp_path_factory):
    folder = tmp_path_factory.mktemp("four")
    launch(folder, 4, [name for name in TOGETHER if name not in APART])
    return folder


def results(folder: Path, name: str, world: int) -> list[cofire.FiringStats]:
    errors = [path.read_text() for path in sorted(folder.glob(f"{name}.?.error"))]
    assert errors == [], errors
    places = [folder / f"{name}.{rank}" for rank in range(world)]
    assert all(map(Path.exists, places)), (folder / "log").read_text()[-2000:]
    return [cofire.load(place) for place in places]


def named(names):
    return pytest.mark.parametrize("name", list(names))


# ---------------------------------------------------------------- closed form


def test_without_a_group_all_reduce_is_the_identity():
    stats = alone("exact")
    assert stats.all_reduce() is stats


# ---------------------------------------------------------------- laws and reference: one process


@named([name for name in TOGETHER if name not in (*APART, "no sample anywhere")])
def test_four_processes_are_one(four, name):
    """Every count, range, edge and sum; the number of samples; and the same on all four."""
    one = TOGETHER[name][1]()
    for rank, stats in enumerate(results(four, name, 4)):
        assert stats.class_counts.tolist() == one.class_counts.tolist(), rank
        assert stats.accuracy == one.accuracy, rank
        for layer in one:
            mine, theirs = one[layer].tensors, stats[layer].tensors
            assert mine.keys() == theirs.keys(), (rank, layer)
            wrong = [field for field in mine if not torch.allclose(mine[field], theirs[field], rtol=1e-12, atol=0)]
            assert wrong == [], (rank, layer)
            exact = [
                field for field in mine if field not in ("maps", "softmax_sum") and not torch.equal(mine[field], theirs[field])
            ]
            assert exact == [], (rank, layer)
        assert list(stats) == list(one)


@named(APART)
def test_a_cache_that_is_full_on_one_process_only(tmp_path, name):
    """Then all of them go over to the sketch."""
    launch(tmp_path, 2, [name])
    one = TOGETHER[name][1]()
    for stats in results(tmp_path, name, 2):
        assert stats == one
        assert stats.header["histograms"] == "sketch"


def test_the_header_says_how_many_parts(four):
    stats = results(four, "shards", 4)[0]
    assert stats.header["parts"] == 4
    assert stats.header["histograms"] == "exact (cache)"
    assert stats.header["model"]["digest"]


# ---------------------------------------------------------------- errors


def test_no_sample_anywhere_is_an_error_on_every_process(four):
    for rank in range(4):
        said = (four / f"no sample anywhere.{rank}.error").read_text()
        assert said == "InputError: there must be at least one sample; the batches of every process are empty."


if __name__ == "__main__":
    work(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:])
