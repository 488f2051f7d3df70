"""The Monitor as a callback of Lightning and of Transformers; neither is imported before one is made."""

import functools
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from torch import nn

from cofire import storage
from cofire.batches import as_batch
from cofire.errors import InputError, ModelError
from cofire.monitoring import Monitor
from cofire.processes import gather, rank

__all__ = ["lightning", "transformers"]


def lightning(*, model: str | None = None, labels: Callable | None = None, window: int | None = None, **options: Any) -> Any:
    """A callback for ``lightning.pytorch.Trainer(callbacks=[...])``.

    Its ``monitor`` is the :class:`~cofire.Monitor` of the training. A checkpoint holds its state, and a training that is
    resumed from it goes on with the same statistics.

    Args:
        model: Name of the attribute that training steps call; by default the only child with parameters where there is just
            one, else the LightningModule itself.
        labels: From a batch to its labels; by default batches are (inputs, labels) or mappings with labels.
        window: Batches in a window; by default an epoch is one.
        options: Of the :class:`~cofire.Monitor`. Without ``log``, the trainer's own loggers get the scalars.
    """
    return _lightning_class()(model, labels, window, options)


def transformers(*, window: int | None = None, **options: Any) -> Any:
    """A callback for ``transformers.Trainer(callbacks=[...])``.

    A callback is shown neither batch nor labels, so labels are read from the keyword ``labels`` with which the Trainer calls
    the model. Where it keeps them to itself (``label_smoothing_factor``, ``compute_loss_func``), hand them over in
    ``compute_loss``, before its own is called: ``callback.monitor.labels = inputs["labels"]``.

    Its ``monitor`` is the :class:`~cofire.Monitor` of the training. Its state goes into the checkpoint's folder, from where a
    training that is resumed in the same ``output_dir`` takes it.

    Args:
        window: Steps in a window; by default an epoch is one.
        options: Of the :class:`~cofire.Monitor`.
    """
    return _transformers_class()(window, options)


class _Session:
    """The Monitor of one training, from its first event to its last."""

    def __init__(self, window: int | None, options: dict[str, Any]):
        if window is not None and (not isinstance(window, int) or isinstance(window, bool) or window < 1):
            raise InputError("window must be a whole number of at least 1, or None for an epoch", f"found {window!r}")
        self.window, self.options, self._context = window, options, ExitStack()
        self.monitor: Any = None

    def begin(self, model: nn.Module, state: dict[str, Any] | None, **more: Any) -> None:
        """Watch a model, from a state on."""
        self.end()
        self.monitor = Monitor(model, **{**more, **self.options})
        self._context.enter_context(self.monitor)
        if state is not None:
            self.monitor.load_state_dict(state)

    def step(self, labels: Any, epoch: float) -> None:
        """A step is over: a window may be too."""
        self.monitor.step(labels)
        if self.window is not None and self.monitor.steps % self.window == 0 and self.monitor.samples:
            self.monitor.log(epoch=epoch)

    def epoch(self, epoch: float) -> None:
        """An epoch is over; one in which no step was watched has nothing to say."""
        if self.window is None and self.monitor.samples:
            self.monitor.log(epoch=epoch)

    def end(self) -> None:
        """Watch no more."""
        self._context.close()


@functools.cache
def _lightning_class() -> type:
    from lightning.pytorch import Callback

    base: Any = Callback  # the arguments that nobody reads have other names there

    class LightningMonitor(base):
        def __init__(self, model, labels, window, options):
            self._session, self._name, self._labels, self._states = _Session(window, options), model, labels, []

        @property
        def monitor(self):
            return self._session.monitor

        def on_train_start(self, trainer, module):
            def log(numbers):
                for logger in trainer.loggers:  # at the trainer's step, as all else that it logs
                    logger.log_metrics(numbers, step=trainer.global_step)

            states, self._states = self._states, []  # one for each process
            state = states[rank() if rank() < len(states) else 0] if states else None
            self._session.begin(_called_by(module, self._name), state, log=log)

        def on_train_batch_end(self, trainer, _module, _outputs, batch, _index):
            given = as_batch(batch, None, None, "the batch").labels if self._labels is None else self._labels(batch)
            self._session.step(given, trainer.current_epoch)

        def on_train_epoch_end(self, trainer, _module):
            self._session.epoch(trainer.current_epoch)

        def on_train_end(self, _trainer, _module):
            self._session.end()

        def on_exception(self, _trainer, _module, _exception):
            self._session.end()

        def state_dict(self):
            return {} if self.monitor is None else {"processes": gather(self.monitor.state_dict())}

        def load_state_dict(self, state_dict):
            self._states = state_dict.get("processes", [])

    return LightningMonitor


def _called_by(module: nn.Module, name: str | None) -> nn.Module:
    """What a LightningModule's training steps call."""
    if name is not None:
        found = getattr(module, name, None)
        if not isinstance(found, nn.Module):
            raise ModelError(
                f"model must name a module of {type(module).__name__}", f"{name!r} is {type(found).__name__}",
                f"It has {', '.join(name for name, _ in module.named_children()) or 'none'}.",
            )  # fmt: skip
        return found
    children = [child for child in module.children() if any(True for _ in child.parameters())]
    return children[0] if len(children) == 1 else module


@functools.cache
def _transformers_class() -> type:
    from transformers import TrainerCallback

    base: Any = TrainerCallback

    class TransformersMonitor(base):
        def __init__(self, window, options):
            self._session = _Session(window, options)

        @property
        def monitor(self):
            return self._session.monitor

        def on_train_begin(self, args, state, _control, model: Any = None, **_rest):
            saved, files = None, [_state_file(state, args.output_dir, index) for index in (args.process_index, 0)]
            file = next((file for file in files if state.global_step and file.exists()), None)
            if file is not None:
                tensors, header = storage.read(file)
                saved = {"header": header, "tensors": tensors}
            self._session.begin(model, saved)
            if saved and float(state.epoch).is_integer():  # saved at an epoch's last step, before its end was told
                self._session.epoch(state.epoch)

        def on_step_end(self, _args, state, _control, **_rest):
            self._session.step(None, state.epoch)
            if self.monitor.steps == 1 and not self.monitor.samples and not self.monitor.windows:
                raise InputError(
                    "the Trainer must call the model with labels", "it did not in the first step",
                    'Where it keeps them, hand them over in compute_loss: callback.monitor.labels = inputs["labels"].',
                )  # fmt: skip

        def on_epoch_end(self, _args, state, _control, **_rest):
            self._session.epoch(state.epoch)

        def on_save(self, args, state, _control, **_rest):
            own = self.monitor.state_dict()
            storage.write(_state_file(state, args.output_dir, args.process_index), own["tensors"], own["header"])

        def on_train_end(self, _args, _state, _control, **_rest):
            self._session.end()

    return TransformersMonitor


def _state_file(state: Any, folder: str, process: int) -> Path:
    return Path(folder) / f"checkpoint-{state.global_step}" / f"cofire-{process}.safetensors"
