"""The eager module underneath data parallelism, sharding and compilation, and its names without their prefixes."""

import re

import torch
from torch import nn

from cofire.errors import ModelError

__all__ = ["clean_name", "unwrap"]

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
