"""Weights in safetensors files, and the digest that names a model; pickles are refused."""

import hashlib
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from cofire.errors import FileError, ModelError, WeightsError
from cofire.files import atomic
from cofire.storage import is_pickle

__all__ = ["bare", "digest", "load_weights", "matrix_squares", "save_weights", "shapes", "weight_norm"]

_FORMAT = 1
_KEY = "cofire"
_WRAPPERS = ("_orig_mod.", "_fsdp_wrapped_module.")  # torch.compile and FSDP put these anywhere in a key
_SHOWN = 5


def save_weights(model: nn.Module, path: str | os.PathLike[str], metadata: Mapping[str, Any] | None = None) -> None:
    """Write a model's parameters and buffers to a safetensors file, whole or not at all.

    Tensors that the model shares (tied weights) are written once. `DataParallel`, `DistributedDataParallel` and
    `torch.compile` wrappers are looked through.

    Args:
        model: The model; its `state_dict` is written.
        path: The file, usually named `*.safetensors`.
        metadata: Anything that JSON can hold; `load_weights` gives it back.

    Raises:
        FileError: The file cannot be written.
    """
    header = {_KEY: json.dumps({"format": _FORMAT, "metadata": dict(metadata or {})}, sort_keys=True)}
    with atomic(path) as temporary:
        try:
            safetensors.torch.save_model(bare(model), str(temporary), metadata=header)
        except SafetensorError as error:  # its own error for a full disk
            raise FileError(f"could not write {path}", str(error), "Free some space there.") from error


def load_weights(model: nn.Module, path: str | os.PathLike[str], *, ignore: tuple[str, ...] = ()) -> dict[str, Any]:
    """Read a safetensors file into a model; a model that the file does not fit stays as it was.

    The prefixes `module.`, `_orig_mod.` and `_fsdp_wrapped_module.` are stripped from the file's keys. A file that
    `torch.save` or `pickle` wrote is never opened, since reading one can run any code.

    Args:
        model: The model to fill, on any device and in any mode, which it keeps.
        path: The safetensors file.
        ignore: Beginnings of keys that the file may hold and the model need not (heads used in training only).

    Returns:
        The metadata that `save_weights` was given; empty for a file of other origin.

    Raises:
        FileError: The file is missing or cannot be read.
        WeightsError: A pickle, a file that is no safetensors file, or keys and shapes that are not the model's.
    """
    path = Path(path)
    _refuse_pickle(path)
    try:
        with safe_open(str(path), framework="pt") as file:
            header = file.metadata() or {}
            found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except SafetensorError as error:
        raise WeightsError(
            "weights come in a safetensors file", f"{path} is damaged or none: {error}", "Save or copy it again."
        ) from error
    model = bare(model)
    wanted = {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}
    state = {_strip(name, wanted): value for name, value in found.items() if not name.startswith(ignore or ("\0",))}
    _check(model, path, wanted, state)
    model.load_state_dict(state, strict=False)
    return json.loads(header[_KEY]).get("metadata", {}) if _KEY in header else {}


def shapes(path: str | os.PathLike[str]) -> dict[str, tuple[int, ...]]:
    """The shapes of the tensors in a safetensors file, by name.

    Raises:
        WeightsError: A pickle, or a file that is no safetensors file.
    """
    path = Path(path)
    _refuse_pickle(path)
    try:
        with safe_open(path, framework="pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise WeightsError(
            "weights come in a safetensors file", f"{path} is damaged or none: {error}", "Save or copy it again."
        ) from error


def digest(model: nn.Module) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of a model's parameters and persistent buffers.

    Names, types and shapes count; device, mode and wrappers do not.

    Args:
        model: The model.

    Example:
        >>> layer = torch.nn.Linear(2, 1)
        >>> before = digest(layer)
        >>> _ = torch.nn.init.zeros_(layer.bias)
        >>> len(before), digest(layer) == before
        (16, False)
    """
    total = hashlib.sha256()
    for name, value in sorted(bare(model).state_dict().items()):
        if isinstance(value, Tensor):
            plain = value.detach().cpu().contiguous()
            total.update(f"{name} {plain.dtype} {tuple(plain.shape)}\n".encode())
            total.update(plain.reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()[:16]


def matrix_squares(model: nn.Module) -> list[float]:
    """Sum of the squares of each weight matrix: of the parameters with two or more axes, one that is shared once."""
    matrices = (weight.detach() for weight in model.parameters() if weight.ndim > 1)
    return [float((matrix.abs() if matrix.is_complex() else matrix).double().square().sum()) for matrix in matrices]


def weight_norm(model: nn.Module) -> float:
    """Euclidean norm of all weight matrices together: no bias, no normalisation's gain.

    Example:
        >>> layer = torch.nn.Linear(2, 2)
        >>> _ = torch.nn.init.eye_(layer.weight)
        >>> weight_norm(layer) == 2**0.5
        True
    """
    return math.sqrt(sum(matrix_squares(model)))


def bare(model: nn.Module) -> nn.Module:
    """The model inside the wrappers of `DataParallel`, `DistributedDataParallel` and `torch.compile`."""
    if not isinstance(model, nn.Module):
        raise ModelError("the model must be a torch.nn.Module", f"found {type(model).__name__}")
    while True:
        if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            model = model.module
        elif isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):
            model = inner
        else:
            return model


def _strip(name: str, wanted: Mapping[str, Tensor]) -> str:
    # A model may have a child that is really called `module`: a key that fits as it is stays as it is.
    while name not in wanted:
        shorter = name.removeprefix("module.")
        for wrapper in _WRAPPERS:
            shorter = shorter.replace(wrapper, "")
        if shorter == name:
            break
        name = shorter
    return name


def _refuse_pickle(path: Path) -> None:
    try:
        pickled = is_pickle(path)
    except OSError as error:
        raise FileError(f"no weights could be read from {path}", error.strerror or str(error), "") from error
    if pickled:
        raise WeightsError(
            "weights come in a safetensors file",
            f"{path} is a pickle, which is never opened here: reading one can run any code",
            "If you trust it, convert it once:\n"
            "    import torch, safetensors.torch\n"
            f"    safetensors.torch.save_file(torch.load({path.name!r}, weights_only=True), "
            f"{path.with_suffix('.safetensors').name!r})",
        )


def _check(model: nn.Module, path: Path, wanted: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
    filled = {_place(wanted[name]) for name in state if name in wanted}
    missing = [name for name in wanted if name not in state and _place(wanted[name]) not in filled]
    unexpected = [name for name in state if name not in wanted]
    differing = [name for name in state if name in wanted and state[name].shape != wanted[name].shape]
    faults = []
    if missing:
        faults.append("missing " + _some([f"{name} {tuple(wanted[name].shape)}" for name in missing]))
    if unexpected:
        faults.append("unexpected " + _some([f"{name} {tuple(state[name].shape)}" for name in unexpected]))
    if differing:
        pairs = [f"{name} {tuple(state[name].shape)} for {tuple(wanted[name].shape)}" for name in differing]
        faults.append("of another shape " + _some(pairs))
    if faults:
        raise WeightsError(
            f"{path} does not fit {type(model).__name__}",
            "; ".join(faults),
            "Build the model as it was when the weights were saved: same layers, inputs and classes.",
        )


def _place(value: Tensor) -> tuple[object, ...]:
    # Two names of one tensor (tied weights): the file holds it under one of them.
    return value.data_ptr(), value.shape, value.stride(), value.device, value.dtype if value.numel() else id(value)


def _some(items: list[str]) -> str:
    more = f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
    return ", ".join(items[:_SHOWN]) + more
