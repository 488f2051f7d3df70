"""A model from outside: what is underneath its wrappers, where it is, how it is called, and its modes put back."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import nn

from cofire.errors import InputError, ModelError

__all__ = ["called", "clean_name", "device_of", "evaluating", "unwrap"]

_WRAPPERS = re.compile(r"(^|(?<=\.))(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)(\.|$)")


def clean_name(path: str) -> str:
    """A module path without what wrappers put into it: ``_orig_mod``, ``_fsdp_wrapped_module``, a leading ``module``."""
    return _WRAPPERS.sub("", path).removeprefix("module.").rstrip(".")


def unwrap(model: nn.Module) -> nn.Module:
    """The eager module underneath data parallelism and compilation.

    Raises:
        ModelError: Not a module, or a scripted one, whose activations cannot be seen.
    """
    if not isinstance(model, nn.Module):
        raise ModelError("the model must be a torch.nn.Module", f"found {type(model).__name__}")
    while True:
        if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            model = model.module
        elif isinstance(getattr(model, "_orig_mod", None), nn.Module):
            model = model._orig_mod  # type: ignore[assignment]
        else:
            break
    for path, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            place = f"its module {path!r} is" if path else "it is"
            raise ModelError(
                "the model must run eagerly", f"{place} scripted or traced, which hides activations from every hook",
                "Pass the model from which it was scripted.",
            )  # fmt: skip
    return model


def device_of(model: nn.Module, device: Any = None) -> torch.device:
    """The device that was asked for, else that of the model's first parameter, else the CPU.

    Raises:
        InputError: A device that PyTorch does not know or has not got here.
    """
    if device is not None:
        try:
            return torch.empty(0, device=device).device
        except (RuntimeError, TypeError, AssertionError) as error:  # the last where PyTorch was built without CUDA
            said = str(error).partition("\n")[0].rstrip(".")
            raise InputError("device must be one that PyTorch has here", f"found {device!r} ({said})") from error
    first = next(iter(model.parameters()), None)
    return first.device if first is not None else torch.device("cpu")


def called(model: nn.Module, inputs: Any) -> Any:
    """The model's output: a mapping is taken as keyword arguments, a tuple or list as positional ones."""
    if isinstance(inputs, Mapping):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, tuple | list) else model(inputs)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[nn.Module]:
    """The model in eval mode; every module has the mode that it had when the context ends, however it ends."""
    modes = {module: module.training for module in model.modules()}
    try:
        with suppress(RuntimeError):  # an exported program has no modes
            model.eval()
        yield model
    finally:
        for module, training in modes.items():
            module.training = training
