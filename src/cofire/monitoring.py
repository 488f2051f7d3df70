"""Watching a model while it trains, on the training batches themselves: what ``cofire.Monitor`` is."""

import functools
import operator
import sys
import warnings
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cofire.accumulate import Choices, as_labels
from cofire.batches import LABELS, classes_of, logits_of, predictions, samples_in
from cofire.errors import CofireWarning, InputError, ModelError
from cofire.listing import LayerInfo
from cofire.loggers import log_to
from cofire.processes import gather, rank, world_size
from cofire.scalars import scalars
from cofire.stats import FiringStats
from cofire.version import __version__
from cofire.watching import Watch
from cofire.windows import Window, basis_of

__all__ = ["Monitor"]

_MOST_HELD = 1024  # forward passes whose labels have not come: far more than a step accumulates


class Monitor:
    """Statistics of a model's hidden layers on the batches that it is trained on, with no forward pass of its own.

    While the context lasts, every forward pass of the model in training mode is watched. Its labels come right after
    it, through :meth:`step`; or through the keyword ``labels`` with which the model is called, as Hugging Face's are. Passes
    in eval mode, those that no labels follow, and what gradient checkpointing computes again count for nothing. :meth:`log`
    ends a window: it gives its numbers and begins the next. Co-firing is counted over the class means of the window before,
    so the first window has no modularity.

    A window sees weights that change: its statistics are of the batches as the model saw them at the time, dropout
    included. Under ``torch.distributed`` every process watches its own batches, and :meth:`log`, which all must call, gives
    the numbers of all; samples that a DistributedSampler repeats were trained on twice and count twice.

    Copies and pickles of the model carry two hooks that do nothing; its ``state_dict`` is what it was.

    Args:
        model: The model that the training loop calls, or what wraps it (DistributedDataParallel, ``torch.compile``); a
            compiled one runs eagerly in the steps that are watched.
        classes: Number of classes; by default the width of the model's output.
        layers: None for all hidden activations; names or globs of activations (see :func:`layers`) or of modules; a predicate.
        pool: How positions become units: "mean" or "max" over them, or "none" for a unit per position.
        threshold: A unit fires above it; by default 0.5 for sigmoids and 0 for all others.
        bins: Bins of the activation entropy.
        top: Representative units per class.
        every: Watch every so many steps; the rest run as if nothing watched.
        log: Where the scalars go: a folder for TensorBoard, a path that ends with ``.csv``, a function of a dictionary, an
            object with ``log`` (a run of wandb), ``log_metrics`` (the module mlflow) or ``add_scalar``; a list of these.
        save: Where the full statistics go: a path that ends with ``.safetensors`` holds those of the last window, another
            path is a folder with a file for each.
        class_names: Names of the classes.

    Raises:
        InputError: A setting out of range.
        ModelError: No module, or a scripted one.

    >>> import cofire, torch
    >>> digits = cofire.data.load("digits", limit=300)
    >>> net = cofire.zoo.model("fcnn:64-16-10", seed=0).train()
    >>> optimizer = torch.optim.Adam(net.parameters())
    >>> with Monitor(net) as monitor:
    ...     for x, y in digits.batches(50):
    ...         torch.nn.functional.cross_entropy(net(x), y).backward()
    ...         optimizer.step()
    ...         optimizer.zero_grad()
    ...         monitor.step(y)
    ...     numbers = monitor.log(epoch=0)
    >>> numbers["cofire/samples"], round(numbers["cofire/relu1/dead_units"])
    (300, 0)
    """

    def __init__(
        self, model: nn.Module, classes: int | None = None, *, layers=None, pool: str = "mean", threshold: float | None = None,
        bins: int = 30, top: int = 50, every: int = 1, log: Any = None, save: str | Path | None = None,
        class_names: Sequence[str] | None = None,
    ):  # fmt: skip
        for name, value in (("every", every), ("classes", 1 if classes is None else classes)):
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise InputError(f"{name} must be a whole number of at least 1", f"found {value!r}")
        self.every, self.classes, self.threshold = every, classes, threshold
        self.class_names = None if class_names is None else [str(name) for name in class_names]
        self.choices = Choices(bins, by_class=False, top=top, pool=pool, covariance=0)
        self.steps = self.windows = 0
        self.labels: Tensor | None = None
        """Labels of the next forward pass, for loops that know them only before it."""
        self.stats: FiringStats | None = None
        """Statistics of the last window, of all processes; None before the first ends."""
        self._watch = Watch(model, layers, pool)
        self._logs, self._save = log_to(log), None if save is None else Path(save)
        self._window: Window | None = None
        self._left_out = 0
        self._seen: dict[LayerInfo, Tensor] = {}
        self._held: list[_Pass] = []
        self._labelled = self._entered = self._evaluated = False
        self._hooks = ExitStack()
        self._observing = False

    @property
    def samples(self) -> int:
        """Labelled samples that this process has seen in this window, those that were left out among them."""
        return self._left_out + (0 if self._window is None else self._window.samples)

    def __repr__(self) -> str:
        every = "" if self.every == 1 else f", every {self.every} steps"
        seen = f"{self.steps:,} steps, {self.windows:,} windows, {self.samples:,} samples in this one"
        return f"Monitor({type(self._watch.model).__name__}, {len(self._watch.layers)} layers{every}: {seen})"

    def __enter__(self) -> "Monitor":
        if self._entered:
            raise InputError("a monitor watches once at a time", "it is already entered")
        self._entered = True
        self._observe()
        return self

    def __exit__(self, *exception) -> None:
        self._stop()
        self._hooks.close()
        self._held, self._entered, self._observing = [], False, False

    # ------------------------------------------------------------ watching

    def _observe(self) -> None:
        """Put the hooks on for a step that is to be watched, and off for one that is not."""
        wanted = self.steps % self.every == 0
        if wanted and not self._observing:
            root = self._watch.model
            self._hooks.callback(root.register_forward_pre_hook(_Hook(self._begin), with_kwargs=True).remove)
            self._hooks.callback(root.register_forward_hook(_Hook(self._end), prepend=True, always_call=True).remove)
            if "torch._dynamo" in sys.modules:  # what is compiled would not call the hooks inside
                self._hooks.enter_context(torch.compiler.set_stance("force_eager"))
        elif not wanted:
            self._hooks.close()
        self._observing = wanted

    def _begin(self, model: nn.Module, args: tuple, kwargs: dict) -> None:
        again = torch._C._current_graph_task_id() != -1  # inside backward: gradient checkpointing computes it once more
        samples = samples_in((*args, *kwargs.values()))
        self._evaluated = self._evaluated or not model.training
        if not model.training or again or not samples:
            return
        self._stop()
        mask = kwargs.get("attention_mask")
        self._watch.begin(samples, lambda info, units, _maps: self._seen.__setitem__(info, units.clone()), mask)
        self._watch.attach()
        given = next((kwargs[name] for name in LABELS if kwargs.get(name) is not None), self.labels)
        self._samples, self._given, self.labels = samples, given, None

    def _end(self, _model: nn.Module, _args: tuple, output: Any) -> None:
        if not self._watch.inside:
            return
        if output is None:  # it failed
            self._stop()
            return
        self._watch.detach()
        self._watch.end(output)
        logits = logits_of(output)
        this, self._seen = _Pass(self._seen, self._samples, None if logits is None else logits.detach()), {}
        if self._given is not None:
            self._take([this], self._given)
            return
        self._held.append(this)
        if len(self._held) > _MOST_HELD:
            raise InputError(
                "labels must follow the forward passes", f"found {len(self._held):,} passes without",
                "Call monitor.step(labels) after each batch, or monitor.step() where there are none.",
            )  # fmt: skip

    def _stop(self) -> None:
        """Forget the forward pass that is under way, if one is: it failed."""
        self._watch.detach()
        self._watch.abandon()
        self._seen = {}

    def step(self, labels: Any = None) -> None:
        """A training step is over.

        Args:
            labels: True classes of the samples that went through the model since the last step, [samples], or a list of
                such where there were several forward passes; None where the model was called with them, or there are none.

        Raises:
            InputError: Labels that do not fit the samples, or no context.
            ModelError: The model was not called in training mode since the last step, but there are labels.
            LayerError: A layer that was asked for is not there.
        """
        if not self._entered:
            raise InputError("a step belongs inside the context", "", "Write: with cofire.Monitor(model) as monitor: ...")
        if self._observing and labels is not None and not self._labelled:
            if not self._held:
                raise ModelError(
                    f"the watched {type(self._watch.model).__name__} must be called in training mode before a step with labels",
                    "it was called in eval mode" if self._evaluated else "it was not called",
                    "Call model.train() before the loop." if self._evaluated else "Watch the module that the loop calls.",
                )  # fmt: skip
            held, self._held = self._held, []
            self._take(held, labels)
        self._held, self._labelled, self._evaluated = [], False, False
        self.steps += 1
        self._observe()

    def _take(self, passes: list["_Pass"], labels: Any) -> None:
        if isinstance(labels, list | tuple) and labels and isinstance(labels[0], Tensor):
            labels = torch.cat(list(labels))
        logits = passes[0].logits
        if self.classes is None:
            if logits is None:
                raise InputError(
                    "the number of classes must be known", "the model's output holds no class scores [samples, classes]",
                    "Name it with classes=.",
                )  # fmt: skip
            self.classes = classes_of((), logits, torch.empty(0))
        samples = sum(one.samples for one in passes)
        labels = as_labels(labels, samples if len(passes) == 1 else None, self.classes)
        if len(labels) != samples:
            raise InputError(
                "labels must be those of all forward passes since the last step",
                f"found {len(labels):,} labels for {samples:,} samples in {len(passes):,} passes",
                "Call monitor.step(labels) after each batch, or monitor.step() where a batch has none.",
            )  # fmt: skip
        if self._window is None:
            self._watch.check()
            self._window = Window(self.classes, self.choices, self.threshold)
        for one, part in zip(passes, labels.split([one.samples for one in passes]), strict=True):
            if not _finite(one.seen):
                self._left_out += one.samples
                warnings.warn(
                    "activations that are not finite: the batch is left out of the statistics", CofireWarning, stacklevel=3
                )
                continue
            self._window.add(one.seen, part, predictions(one.logits, self.classes, self._watch.sigmoid))
        self._labelled = True

    # ------------------------------------------------------------ windows

    def log(self, **values: float) -> dict[str, float]:
        """End the window: give its numbers, write them and the full statistics, and begin the next one.

        Args:
            values: More numbers to write beside them, such as ``epoch=3`` or ``loss=loss``.

        Returns:
            ``values``, ``cofire/left_out`` and the numbers of :func:`scalars`, at most 20 for a layer; of a window without
            samples, ``values`` and the two counts alone.

        Raises:
            InputError: No labelled batch was seen in the first window, or a value that is no number.
        """
        values = {name: _number(name, value) for name, value in values.items()}
        parts = gather((None if self._window is None else self._window.stats({}), self._left_out))
        seen = [stats for stats, _ in parts if stats is not None and stats.samples]
        left_out = sum(count for _, count in parts)
        if not seen and not left_out and not self.windows:
            raise InputError(
                "the first window must hold at least one labelled batch", f"none was seen in {self.steps:,} steps",
                "Call the watched model in training mode, and monitor.step(labels) after it.",
            )  # fmt: skip
        numbers = {**values, "cofire/samples": 0, "cofire/left_out": left_out}
        if seen:
            self.stats = stats = replace(functools.reduce(operator.add, seen), header=self._header(values))
            numbers |= scalars(stats)
            self._window = Window(stats.classes, self.choices, self.threshold, basis_of(stats))
            if rank() == 0 and self._save is not None:
                one = self._save.suffix == ".safetensors"
                stats.save(self._save if one else self._save / f"window-{self.windows:05d}.safetensors")
        if rank() == 0:
            for log in self._logs:
                log(numbers, self.windows, self.steps)
        self.windows, self._left_out = self.windows + 1, 0
        return numbers

    def _header(self, values: dict[str, float]) -> dict[str, Any]:
        return {
            "model": {"name": type(self._watch.model).__name__},
            "class_names": self.class_names,
            "histograms": "sketch",
            "training": {"window": self.windows, "steps": self.steps, "every": self.every, **values},
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "versions": {"cofire": __version__, "torch": torch.__version__, "python": sys.version.split()[0]},
        }

    def state_dict(self) -> dict[str, Any]:
        """Everything from which a resumed training goes on bit for bit, in mid-window too: ``header``, plain values, and
        ``tensors`` by name. Of several processes, each has its own.
        """
        header, tensors = self._window.state() if self._window is not None else (None, {})
        counted = {"steps": self.steps, "windows": self.windows, "left_out": self._left_out, "classes": self.classes}
        return {"header": {**counted, "process": [rank(), world_size()], "window": header}, "tensors": tensors}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what :meth:`state_dict` gave, in a monitor that was made with the same arguments.

        The state of another process, or of a training with another number of them, tells the steps and the windows before;
        the window that was under way then begins anew, with a warning.

        Raises:
            InputError: The state is of a monitor with other choices.
        """
        header, here = state["header"], [rank(), world_size()]
        window, left_out = None, header["left_out"]
        if header["window"] is not None:
            window = Window(header["classes"], self.choices, self.threshold)
            window.restore(header["window"], state["tensors"])
            if header["process"] != here:
                (was, of), (now, count) = header["process"], here
                warnings.warn(
                    f"a monitor's state is of process {was} of {of} and this is {now} of {count}: the window begins anew",
                    CofireWarning, stacklevel=2,
                )  # fmt: skip
                window, left_out = Window(window.classes, self.choices, self.threshold, window.basis), 0
        self.steps, self.windows, self._left_out = header["steps"], header["windows"], left_out
        self.classes, self._window, self._held, self._labelled = header["classes"], window, [], False
        if self._entered:
            self._observe()


@dataclass(frozen=True)
class _Pass:
    """A forward pass that waits for its labels."""

    seen: dict[LayerInfo, Tensor]
    samples: int
    logits: Tensor | None


class _Hook:
    """A method as a hook; in a copy or a pickle of the model it does nothing."""

    def __init__(self, call):
        self._call = call

    def __call__(self, *args):
        return self._call(*args)

    def __reduce__(self):
        return _Hook, (_nothing,)


def _nothing(*_args) -> None:
    """The hook of a copy."""


def _number(name: str, value: Any) -> float:
    """A plain number, of a tensor or an array of one as well: it goes into a file's header too."""
    with suppress(RuntimeError, ValueError):  # of several
        value = value.item() if hasattr(value, "item") else value
    if not isinstance(value, int | float):
        raise InputError(f"{name} must be a number", f"found {type(value).__name__}", "Average it first.")
    return value


def _finite(seen: dict[LayerInfo, Tensor]) -> bool:
    sums = [units.sum() for units in seen.values()]
    if not sums or bool(torch.stack([total.to(sums[0].device) for total in sums]).isfinite().all()):  # waits only once
        return True
    return all(bool(torch.isfinite(units).all()) for units in seen.values())
