"""Contenders in processes of their own, timed in turn: ratios of processor time, and peak memory."""

import contextlib
import ctypes
import gc
import multiprocessing
import resource
import statistics
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

__all__ = ["Job", "Worker", "ratios", "spread"]


@dataclass(frozen=True)
class Job:
    """What one contender does.

    Args:
        finish: Gives the result; called with what ``read`` gave, or with nothing where there is no ``read``.
        read: Gives the activations; timed apart, so that a reader is not blamed for the statistics that follow.
        answer: From the result to ``{"entropy": {layer: array}, "fire": {layer: array}}``, not timed; None where the
            contender computes neither.
    """

    finish: Callable[..., Any]
    read: Callable[[], Any] | None = None
    answer: Callable[[Any], dict] | None = None

    def timed(self) -> tuple[Any, float, float | None]:
        """The result, the processor time of all, and that of reading."""
        gc.collect()
        start = time.process_time()
        if self.read is None:
            result = self.finish()
            return result, time.process_time() - start, None
        activations = self.read()
        middle = time.process_time()
        result = self.finish(activations)
        return result, time.process_time() - start, middle - start


class Worker:
    """A process that is forked once and runs its job whenever it is told to.

    Processes are apart because some peers change theirs for good: one wraps every function of torch, another leaves its
    hooks on the model. A fork shares the data and starts from the same memory as every other.

    Args:
        make: Gives the job on a share of the data: 0 for one batch, to warm up, and 1 for all; called in the process.
    """

    _ours: ClassVar[list] = []  # our ends of all pipes, which a fork inherits and must close: else none ever sees the end

    def __init__(self, make: Callable[[float], Job]):
        context = multiprocessing.get_context("fork")
        self._pipe, theirs = context.Pipe()
        self._ours.append(self._pipe)
        self._process = context.Process(target=_serve, args=(make, theirs, self._ours), daemon=True)
        self._process.start()
        theirs.close()

    def ask(self, what: str) -> Any:
        """Have the process do ``what`` and give its answer.

        Raises:
            RuntimeError: It failed, with its own words.
        """
        self._pipe.send(what)
        try:
            done, value = self._pipe.recv()
        except EOFError:
            raise RuntimeError("the process died, perhaps for want of memory") from None
        if not done:
            raise RuntimeError(value)
        return value

    def close(self) -> None:
        """End the process."""
        with contextlib.suppress(OSError):
            self._pipe.send("end")
        self._process.join(20)
        if self._process.is_alive():
            self._process.terminate()
        self._ours.remove(self._pipe)
        self._pipe.close()


def _serve(make: Callable[[float], Job], pipe, ours: list) -> None:
    for end in ours:
        end.close()
    with contextlib.suppress(EOFError, OSError, KeyboardInterrupt):  # the parent is gone
        _answer(make, pipe)


def _answer(make: Callable[[float], Job], pipe) -> None:
    job = None
    while (what := pipe.recv()) != "end":
        try:
            if what == "first":
                warm = make(0)
                warm.timed()
                del warm
                job = make(1)
                pipe.send((True, _first(job)))
            else:
                pipe.send((True, job.timed()[1:]))
        except ImportError as error:
            pipe.send((False, f"not installed or not importable: {error}"))
        except Exception as error:
            traceback.print_exc(file=sys.stderr)
            pipe.send((False, f"{type(error).__name__}: {error}"))


def _first(job: Job) -> dict:
    """The first full run: its memory and its answer."""
    before = _resident(reset=True)
    result, seconds, _ = job.timed()
    peak = _resident(peak=True) - before
    return {"peak": max(0, peak), "answer": job.answer(result) if job.answer else None, "seconds": seconds}


def _resident(reset: bool = False, peak: bool = False) -> int:
    """Resident memory of this process in bytes, now or at its peak since the last reset."""
    gc.collect()
    if reset:
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL("libc.so.6").malloc_trim(0)
        with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w") as file:
            file.write("5")
    try:
        with open("/proc/self/status") as file:
            lines = dict(line.split(":", 1) for line in file)
        return int(lines["VmHWM" if peak else "VmRSS"].split()[0]) * 1024
    except (OSError, KeyError):  # not Linux: the highest ever, in bytes on macOS
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def ratios(base: Worker, contenders: dict[str, Worker], rounds: int, say: Callable[[str], None]) -> dict[str, dict]:
    """Time every contender between two plain passes, in turn, round after round.

    Args:
        base: Runs the plain pass.
        contenders: By name; a name's ratio is its time over the mean of the plain passes just before and after it.
        rounds: How often; every second round goes backwards, so that a drift of the machine falls on none.
        say: Told how far it is.

    Returns:
        By name ``{"ratios": [...], "reading": [...], "seconds": [...], "base": [...]}``; a contender that fails
        has ``{"failed": words}``.
    """
    found: dict[str, dict] = {name: {"ratios": [], "reading": [], "seconds": [], "base": []} for name in contenders}
    before, _ = base.ask("run")
    for number in range(rounds):
        names = [name for name in contenders if "failed" not in found[name]]
        for name in names if number % 2 == 0 else names[::-1]:
            try:
                seconds, reading = contenders[name].ask("run")
            except RuntimeError as error:
                found[name] = {"failed": str(error)}
                continue
            after, _ = base.ask("run")
            plain = (before + after) / 2
            entry, before = found[name], after
            entry["ratios"].append(seconds / plain)
            entry["seconds"].append(seconds)
            entry["base"].append(plain)
            if reading is not None:
                entry["reading"].append(reading / plain)
        say(f"round {number + 1} of {rounds}")
    return found


def spread(values: list[float]) -> dict[str, float] | None:
    """Median, smallest and largest; None of nothing."""
    if not values:
        return None
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}
