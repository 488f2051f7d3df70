"""Models by name: the papers' nets, torchvision, timm, a user's own callable, a file of `torch.export`."""

import importlib
import io
import json
import os
import sys
import warnings
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cofire.errors import CofireError, FileError, InputError, ModelError
from cofire.nets import FCNN, PAPERS, fcnn, optional, paper, resnet18_cifar, seeded, unknown, vgg16_cifar
from cofire.weights import digest, load_weights, save_weights

__all__ = [
    "FCNN",
    "PAPERS",
    "digest",
    "fcnn",
    "load_weights",
    "model",
    "paper",
    "resnet18_cifar",
    "save_weights",
    "vgg16_cifar",
]

_EXTRAS = {"torchvision": "vision", "timm": "vision", "transformers": "hf", "datasets": "hf"}


def model(
    name: str,
    *,
    weights: str | os.PathLike[str] | None = None,
    classes: int | None = None,
    channels: int | None = None,
    size: int | None = None,
    seed: int | None = None,
) -> nn.Module:
    """A model by name, in eval mode.

    - `zoo:NAME`: a net of the papers (`zoo:001-mnist`), `zoo:resnet18_cifar` or `zoo:vgg16_cifar`.
    - `fcnn:784-512-512-10` or `fcnn:784-200-10:sigmoid`: a fully connected net, inputs first and classes last.
    - `torchvision:NAME`, `timm:NAME`: their model, with random weights unless `weights` names a file. Auxiliary heads
      of Inception and GoogLeNet, which only training uses, are left out.
    - `package.module:callable`: imported (the current folder counts) and called with no arguments.
    - a path ending in `.pt2`: a file of `torch.export.save`, exported in eval mode; its module names are kept.

    Args:
        name: One of the above.
        weights: A safetensors file to fill the model with.
        classes: Outputs; None takes the model's own number.
        channels: Channels of the inputs; None takes the model's own number.
        size: Height and width of the inputs, for models whose layers depend on it.
        seed: Draws initial weights from this seed and leaves the global one alone.

    Raises:
        ModelError: An unknown prefix or name, a failed import, or a callable that gives no `nn.Module`.
        InputError: `classes`, `channels` or `size` that the model cannot follow.
        FileError: A file that is missing or damaged.
        WeightsError: Weights that do not fit, or that are a pickle.

    Example:
        >>> model("fcnn:784-200-10:sigmoid").training
        False
    """
    prefix, _, rest = name.partition(":")
    ignore: tuple[str, ...] = ()
    if name.endswith(".pt2"):
        _check_as_made(name, classes=classes, channels=channels, size=size)
        net = _exported(Path(name))
    elif prefix == "fcnn" or name.startswith("zoo:fcnn:"):
        net = _fcnn_spec(name, classes, channels, size, seed)
    elif prefix == "zoo":
        net = _zoo(rest, classes, channels, size, seed)
    elif prefix == "torchvision":
        ignore = ("AuxLogits.", "aux1.", "aux2.")
        net = _torchvision(rest, classes, channels, size, seed)
    elif prefix == "timm":
        net = _timm(rest, classes, channels, size, seed)
    elif rest:
        _check_as_made(name, classes=classes, channels=channels, size=size)
        net = _called(prefix, rest, seed)
    else:
        raise ModelError(
            "a model is zoo:NAME, fcnn:784-512-10, torchvision:NAME, timm:NAME, package.module:callable "
            "or a file ending in .pt2",
            f"found {name!r}",
        )
    if weights is not None:
        load_weights(net, weights, ignore=ignore)
    return net.eval()


def _check_as_made(name: str, **asked: int | None) -> None:
    found = [f"{what}={value}" for what, value in asked.items() if value is not None]
    if found:
        raise InputError(f"{name} is taken as it is made", f"found {', '.join(found)}", "Change it where it is made.")


def _fcnn_spec(name: str, classes: int | None, channels: int | None, size: int | None, seed: int | None) -> nn.Module:
    spec, _, activation = name.removeprefix("zoo:").removeprefix("fcnn:").partition(":")
    try:
        inputs, *widths, outputs = (int(part) for part in spec.split("-"))
    except ValueError:
        raise InputError("a net is written fcnn:INPUTS-WIDTHS-CLASSES, as in fcnn:784-512-512-10", name) from None
    if classes not in (None, outputs):
        raise InputError(f"{name} has {outputs} classes", f"found {classes} in the data", "Change its last number.")
    if size is not None and inputs != (channels or 1) * size * size:
        raise InputError(
            f"{name} takes {inputs} values",
            f"the data gives {channels or 1} x {size} x {size} = {(channels or 1) * size * size}",
            "Change its first number.",
        )
    return fcnn(widths, inputs, outputs, activation or "relu", seed=seed)


def _zoo(name: str, classes: int | None, channels: int | None, size: int | None, seed: int | None) -> nn.Module:
    builders = {"resnet18_cifar": resnet18_cifar, "vgg16_cifar": vgg16_cifar}
    if name in builders:
        return builders[name](classes or 10, channels=channels or 3, seed=seed)
    if name not in PAPERS:
        raise unknown("net in the zoo", name, [*PAPERS, *builders], "zoo:")
    changes = {"classes": classes, "inputs": (channels or 1) * size * size if size else None}
    return paper(name, seed=seed, **{key: value for key, value in changes.items() if value is not None})


def _torchvision(name: str, classes: int | None, channels: int | None, size: int | None, seed: int | None) -> nn.Module:
    models = optional("torchvision.models")
    if name not in models.list_models():
        raise unknown("torchvision model", name, models.list_models(), "torchvision:")
    if channels not in (None, 3):
        raise InputError(
            f"torchvision:{name} takes pictures of 3 channels", f"found {channels}", "Load the data with channels=3."
        )
    arguments: dict[str, Any] = {} if classes is None else {"num_classes": classes}
    if name in ("inception_v3", "googlenet"):
        arguments |= {"aux_logits": False, "init_weights": True}
    if size is not None and name.startswith("vit_"):
        arguments["image_size"] = size
    with seeded(seed):
        return models.get_model(name, weights=None, **arguments)


def _timm(name: str, classes: int | None, channels: int | None, size: int | None, seed: int | None) -> nn.Module:
    timm = optional("timm")
    if not timm.is_model(name):
        raise unknown("timm model", name, timm.list_models(), "timm:")
    arguments: dict[str, Any] = {"num_classes": classes, "in_chans": channels}
    if size is not None and timm.models.get_pretrained_cfg_value(name, "fixed_input_size"):
        arguments["img_size"] = size
    with seeded(seed):
        return timm.create_model(name, **{key: value for key, value in arguments.items() if value is not None})


def _called(module: str, attribute: str, seed: int | None) -> nn.Module:
    here = os.getcwd()
    sys.path.insert(0, here)
    try:
        importlib.invalidate_caches()
        found: Any = importlib.import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
        if not isinstance(found, nn.Module):
            with seeded(seed):
                found = found()
    except ModuleNotFoundError as error:
        missing = (error.name or module).partition(".")[0]
        raise ModelError(
            f"{module}:{attribute} could not be imported",
            f"there is no module {error.name!r}",
            f"Run: pip install 'cofire[{_EXTRAS[missing]}]'."
            if missing in _EXTRAS
            else "A module is named without .py."
            if module.endswith(".py")
            else f"Looked in {here} and the Python path; a prefix is zoo:, fcnn:, torchvision: or timm:.",
        ) from error
    except CofireError:
        raise
    except Exception as error:
        raise ModelError(
            f"{module}:{attribute} gave no model",
            f"{type(error).__name__}: {error}",
            "It is imported, then called with no arguments, and gives an nn.Module.",
        ) from error
    finally:
        with suppress(ValueError):
            sys.path.remove(here)
    if not isinstance(found, nn.Module):
        raise ModelError(
            f"{module}:{attribute} was to give an nn.Module", f"it gave {type(found).__name__}", "Return the model."
        )
    return found


def _exported(path: Path) -> nn.Module:
    _check_exported(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch 2.11 warns of its own code here
            program = torch.export.load(path)
            net = torch.export.unflatten(program)  # program.module() loses the module names
    except Exception as error:
        raise FileError(f"{path} is no file of torch.export that this torch reads", str(error), "Export it anew.") from error
    for node in program.graph.nodes:
        kind = str(node.target)
        if (kind.startswith("aten.dropout") and node.args[2]) or (kind.startswith("aten.batch_norm") and node.args[5]):
            raise ModelError(
                "a model is exported in eval mode",
                f"{path} holds {kind} in training mode, for good",
                "Call model.eval() before torch.export.export.",
            )
    return net


def _check_exported(path: Path) -> None:
    # torch.export.load unpickles some parts of an archive without asking, and falls back to doing so for others:
    # an archive in which anything but the example inputs is a pickle, or those are more than tensors, is refused.
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in archive.namelist():
                place = entry.partition("/")[2]
                if place.startswith("data/sample_inputs/"):
                    torch.load(io.BytesIO(archive.read(entry)), weights_only=True)
                elif entry.endswith((".pt", ".pkl")):
                    raise ValueError(f"{entry} is a pickle")
                elif place.startswith("data/") and entry.endswith(".json"):
                    for name, part in json.loads(archive.read(entry))["config"].items():
                        if part["use_pickle"] or not part["path_name"].startswith(("weight_", "tensor_")):
                            raise ValueError(f"{name} is a pickle")
    except Exception as error:
        raise FileError(
            f"{path} was to be a file of torch.export.save with plain tensors",
            f"{type(error).__name__}: {error}",
            "Export the model anew, in eval mode, with this torch.",
        ) from error
