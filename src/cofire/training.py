"""Training a classifier so that it can be interrupted, repeated bit for bit, and looked at along the way."""

import hashlib
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from cofire import checkpointing
from cofire.checkpointing import History, checkpoint_files
from cofire.errors import ActivationError, InputError, ModelError, checked_seed
from cofire.images import Batches, Images
from cofire.taps import blame
from cofire.weights import bare
from cofire.wrappers import device_of

__all__ = ["History", "checkpoint_files", "fit"]

Labelled = Images | Iterable[tuple[Tensor, Tensor]]


def fit(
    model: nn.Module,
    train: Labelled,
    test: Labelled | None = None,
    *,
    epochs: int = 20,
    lr: float = 1e-3,
    weight_decay: float = 0.0,
    batch_size: int = 128,
    seed: int = 0,
    schedule: Literal["cosine"] | None = None,
    label_smoothing: float = 0.0,
    checkpoints: str | os.PathLike[str] | None = None,
    every: int = 1,
    resume: bool = True,
    progress: bool | None = None,
    device: torch.device | str | None = None,
    augment: bool = False,
) -> History:
    """Train a classifier with Adam and cross entropy.

    All that is drawn (order, dropout, augmentation) comes from the seed and the epoch's number, never from where the
    last epoch left a generator. So a training that was killed and resumed ends with the same weights, bit for bit, as
    one that was not, on the same machine and number of threads; the global generators are left as they were.

    Args:
        model: Gives logits [batch, classes]; trained in place and left in eval mode.
        train: Images, which are shuffled each epoch, or batches of `(inputs, labels)` that can be run through again
            and again, whose size and order are their own.
        test: Looked at after each epoch, in eval mode; never trained on.
        epochs: Passes over the training data, those before a resumption included.
        lr: Adam's step size.
        weight_decay: Adam's L2 penalty on all parameters.
        batch_size: Of images; batches keep their own.
        seed: Of all that is drawn. The initial weights are the model's own.
        schedule: `"cosine"` lowers the step size from `lr` towards 0, by epoch; None leaves it.
        label_smoothing: Share of each label that is spread over all classes.
        checkpoints: A folder for `epoch-000.safetensors` (untrained), `epoch-001.safetensors`, ..., the optimizer's
            `state.safetensors` and `history.json`.
        every: Epochs between checkpoints; the first and the last one are always kept.
        resume: Go on from the folder's last checkpoint, if it has one. False removes them and starts anew.
        progress: Show a progress bar on stderr; None shows it on a terminal only.
        device: Where to train; the model is moved there. None stays where the model is.
        augment: Flip left-right at random, and shift by up to an eighth of the size, what comes in being 0.

    Returns:
        Loss and accuracies per epoch.

    Raises:
        InputError: A setting out of range, data that cannot be run through twice, labels that the model has no output
            for, or checkpoints that were made with other settings, another model or other data.
        ModelError: Nothing to train, or an output that is not [batch, classes].
        ActivationError: The loss is no longer a finite number.
        FileError: A checkpoint that cannot be written or read.

    Example:
        >>> from cofire.data import load
        >>> from cofire.nets import fcnn
        >>> history = fit(fcnn([32], 64, 10, seed=0), load("digits"), load("digits", "test"), epochs=3, lr=0.01)
        >>> history.epochs, history.test_accuracy[-1] > 0.8
        ([0, 1, 2, 3], True)
    """
    _check(epochs, lr, weight_decay, batch_size, schedule, label_smoothing, every)
    seed = checked_seed(seed)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not parameters:
        raise ModelError("a model to train has parameters that want gradients", f"{type(model).__name__} has none")
    place = parameters[0].device if device is None else device_of(model, device)
    model.to(place)
    batches = train.batches(batch_size, shuffle=True, seed=seed, device=place) if isinstance(train, Images) else train
    for data in (train, test):
        if isinstance(data, Iterator):
            raise InputError("data can be run through again and again", "found an iterator", "Pass a list of it.")
    optimizer = torch.optim.Adam(parameters, lr=lr, weight_decay=weight_decay, fused=_fused(parameters, place))
    settings = {
        "lr": lr,
        "weight_decay": weight_decay,
        "seed": seed,
        "schedule": [schedule, epochs] if schedule else None,
        "label_smoothing": label_smoothing,
        "augment": augment,
        "train": _identity(batches),
        "model": hashlib.sha256(str(bare(model)).encode()).hexdigest()[:16],
    }
    folder = None if checkpoints is None else Path(checkpoints)
    history = History()
    if folder is not None and resume:
        history = checkpointing.resume(folder, model, optimizer, settings, epochs)
    elif folder is not None:
        checkpointing.start_anew(folder)
    loss_of = nn.CrossEntropyLoss(label_smoothing=label_smoothing)
    try:
        with _isolated(place), _bar(progress, epochs, len(history.epochs)) as advance:
            for epoch in range(len(history.epochs), epochs + 1):
                start = time.perf_counter()
                loss = accuracy = math.nan
                if epoch:
                    _seed(place, seed, epoch)
                    if isinstance(batches, Batches):
                        batches.epoch = epoch
                    if schedule:
                        optimizer.param_groups[0]["lr"] = lr * (1 + math.cos(math.pi * (epoch - 1) / epochs)) / 2
                    loss, accuracy = _epoch(model, batches, optimizer, loss_of, place, augment)
                    if not math.isfinite(loss):
                        raise ActivationError("a loss is a finite number", f"found {loss} in epoch {epoch}", "Lower lr.")
                score = math.nan if test is None else _accuracy(model, test, place)
                history.add(epoch, loss, accuracy, score, time.perf_counter() - start)
                if folder is not None and (epoch % every == 0 or epoch == epochs):
                    checkpointing.keep(folder, model, optimizer, settings, history)
                advance(history)
    finally:
        model.eval()
    return history


def _epoch(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    optimizer: torch.optim.Optimizer,
    loss_of: nn.Module,
    place: torch.device,
    augment: bool,
) -> tuple[float, float]:
    model.train()
    total = torch.zeros(2, dtype=torch.float64, device=place if place.type != "mps" else "cpu")
    samples = 0
    for inputs, labels in batches:
        inputs, labels = inputs.to(place), labels.to(place)
        if augment:
            inputs = _augmented(inputs)
        logits = _logits(_given(model, inputs), labels)
        highest = len(batches.classes) - 1 if isinstance(batches, Batches) else int(labels.max())
        if highest >= logits.shape[1]:  # on a GPU the loss itself would bring the process down
            raise InputError(f"labels are below the model's {logits.shape[1]} outputs", f"found {highest}")
        loss = loss_of(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            right = (logits.argmax(1) == labels).sum()
            total += torch.stack([loss.double() * len(labels), right.double()]).to(total.device)
        samples += len(labels)
    if not samples:
        raise InputError("training data has samples", "found none")
    loss, right = (total / samples).tolist()
    return loss, right


def _accuracy(model: nn.Module, test: Labelled, place: torch.device) -> float:
    model.eval()
    right = samples = 0
    with torch.no_grad():
        for inputs, labels in test.batches(512, device=place) if isinstance(test, Images) else test:
            labels = labels.to(place)
            right += int((_logits(_given(model, inputs.to(place)), labels).argmax(1) == labels).sum())
            samples += len(labels)
    return right / samples if samples else math.nan


def _given(model: nn.Module, inputs: Tensor) -> Any:
    try:
        return model(inputs)
    except Exception as error:
        blame(error, model, inputs)
        raise


def _logits(output: Any, labels: Tensor) -> Float[Tensor, "batch classes"]:
    if not isinstance(output, Tensor):  # transformers' outputs have .logits, auxiliary heads come after the first
        output = getattr(output, "logits", output[0] if isinstance(output, tuple) and output else output)
    if not isinstance(output, Tensor) or output.ndim != 2 or len(output) != len(labels):
        found = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ModelError(f"a classifier gives logits [{len(labels)}, classes]", f"found {found}")
    return output


def _augmented(inputs: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch channels height width"]:
    if inputs.ndim != 4:
        raise InputError("augment wants pictures [batch, channels, height, width]", f"found {list(inputs.shape)}")
    count, _, height, width = inputs.shape
    margin = max(1, min(height, width) // 8)
    place = inputs.device
    padded = nn.functional.pad(inputs, (margin, margin, margin, margin))
    shift = torch.randint(2 * margin + 1, (2, count, 1), device=place)
    rows = shift[0] + torch.arange(height, device=place)
    columns = shift[1] + torch.arange(width, device=place)
    columns = torch.where(torch.rand(count, 1, device=place) < 0.5, columns.flip(1), columns)
    sample = torch.arange(count, device=place)[:, None, None]
    return padded[sample, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()


def _check(
    epochs: int,
    lr: float,
    weight_decay: float,
    batch_size: int,
    schedule: str | None,
    label_smoothing: float,
    every: int,
) -> None:
    rules = (
        ("epochs", epochs, epochs >= 0, "0 or more"),
        ("lr", lr, 0 < lr < math.inf, "above 0"),
        ("weight_decay", weight_decay, 0 <= weight_decay < math.inf, "0 or more"),
        ("batch_size", batch_size, batch_size >= 1, "1 or more"),
        ("schedule", schedule, schedule in (None, "cosine"), "None or 'cosine'"),
        ("label_smoothing", label_smoothing, 0 <= label_smoothing < 1, "from 0 up to, not including, 1"),
        ("every", every, every >= 1, "1 or more"),
    )
    for name, value, right, rule in rules:
        if not right:
            raise InputError(f"{name} is {rule}", f"found {value!r}")


def _identity(batches: Any) -> dict[str, Any]:
    if not isinstance(batches, Batches):  # what other batches hold cannot be known without running through them
        return {"batches": len(batches)} if hasattr(batches, "__len__") else {}
    return {
        "digest": batches.dataset.digest,
        "shape": batches.dataset.shape,
        "batch_size": batches.batch_size,
        "order": batches.seed if batches.shuffle else None,
        "normalize": batches.normalize,
    }


def _fused(parameters: list[nn.Parameter], place: torch.device) -> bool:
    # On a CPU the fused Adam takes a fifth to a third off a small net's step.
    return place.type in ("cpu", "cuda") and all(parameter.is_floating_point() for parameter in parameters)


@contextmanager
def _isolated(place: torch.device) -> Iterator[None]:
    # The generators that training draws from, and cuDNN's choice of kernels, are put back however it ends.
    cudnn = torch.backends.cudnn
    before = cudnn.deterministic, cudnn.benchmark
    devices = []
    if place.type == "cuda":
        devices = [torch.cuda.current_device() if place.index is None else place.index]
        cudnn.deterministic, cudnn.benchmark = True, False
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        if devices:
            cudnn.deterministic, cudnn.benchmark = before


def _seed(place: torch.device, seed: int, epoch: int) -> None:
    value = int(np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0])
    torch.default_generator.manual_seed(value)  # torch.manual_seed would reseed every device there is
    if place.type == "cuda":
        with torch.cuda.device(place):
            torch.cuda.manual_seed(value)
    elif place.type != "cpu":
        torch.get_device_module(place).manual_seed(value)


@contextmanager
def _bar(progress: bool | None, epochs: int, done: int) -> Iterator[Callable[[History], object]]:
    if not (sys.stderr.isatty() if progress is None else progress):
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("training", total=epochs + 1, completed=done)

        def advance(history: History) -> None:
            words = f"epoch {history.epochs[-1]} of {epochs}, loss {history.train_loss[-1]:.3f}"
            if not math.isnan(history.test_accuracy[-1]):
                words += f", test accuracy {history.test_accuracy[-1]:.3f}"
            bar.update(task, advance=1, description=words)

        yield advance
