"""The papers' nets and two small convolutional ones."""

import difflib
import importlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import MappingProxyType, ModuleType
from typing import Any, final, overload

import torch
from torch import nn

from cofire.errors import InputError, ModelError, checked_seed

__all__ = ["FCNN", "PAPERS", "fcnn", "optional", "paper", "resnet18_cifar", "seeded", "unknown", "vgg16_cifar"]

_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "hardsigmoid": nn.Hardsigmoid,
    "leaky_relu": nn.LeakyReLU,
    "mish": nn.Mish,
    "relu": nn.ReLU,
    "selu": nn.SELU,
    "sigmoid": nn.Sigmoid,
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
    "tanh": nn.Tanh,
}

# 001, Table 1: dropout layers are drawn there and their rates are not given; 0.2 is ours. CIFAR-10 is gray in its
# section 6 (printed as 32x28, read as 32x32). Its PlantVillage pictures are 256x256 gray, whose first layer alone is
# 2.1 GB of weights: 64x64 is our default, `inputs=65536` is the printed net. 004: the printed code, no dropout.
PAPERS = MappingProxyType(
    {
        "001-cifar10": {"widths": (1024, 1024, 1024, 512, 256, 128), "inputs": 1024, "classes": 10, "dropout": 0.2},
        "001-fashion-mnist": {"widths": (512, 512), "inputs": 784, "classes": 10, "dropout": 0.2},
        "001-mnist": {"widths": (512, 512), "inputs": 784, "classes": 10, "dropout": 0.2},
        "001-plantvillage": {
            "widths": (8192, 2048, 1024, 512, 256, 128, 64),
            "inputs": 4096,
            "classes": 9,
            "dropout": 0.2,
        },
        "004-2x200": {"widths": (200, 200), "inputs": 784, "classes": 10, "activation": "sigmoid"},
        "004-3x200": {"widths": (200, 200, 200), "inputs": 784, "classes": 10, "activation": "sigmoid"},
    }
)


@final
class FCNN(nn.Sequential):
    """A fully connected net with readable names: `flatten`, `fc1`, `relu1`, `dropout1`, ..., `head`.

    Args:
        layers: The modules by name.
        config: The arguments of `fcnn` that make this net.
    """

    def __init__(self, layers: dict[str, nn.Module], config: dict[str, Any]):
        super().__init__()
        self.config = config
        for name, layer in layers.items():
            self.add_module(name, layer)

    @overload
    def __getitem__(self, idx: slice) -> nn.Sequential: ...

    @overload
    def __getitem__(self, idx: int) -> nn.Module: ...

    def __getitem__(self, idx: slice | int) -> nn.Sequential | nn.Module:
        """A layer; or some of them, as a plain `nn.Sequential`, for no arguments of `fcnn` make a part of the net."""
        if isinstance(idx, slice):
            return nn.Sequential(OrderedDict(list(self._modules.items())[idx]))  # type: ignore[arg-type]
        return super().__getitem__(idx)


def fcnn(
    widths: Sequence[int],
    inputs: int,
    classes: int,
    activation: str = "relu",
    dropout: float = 0.0,
    batch_norm: bool = False,
    *,
    seed: int | None = None,
) -> FCNN:
    """A fully connected classifier: flatten, then per width a linear layer and its activation, then `head`.

    Args:
        widths: Units of each hidden layer, input side first.
        inputs: Values of one input (pixels times channels).
        classes: Outputs of the head, as logits.
        activation: `relu`, `sigmoid`, `tanh`, `gelu`, `silu`, `elu`, `leaky_relu`, `hardsigmoid`, `mish`, `selu` or
            `softplus`; each layer's is named after it (`sigmoid1`).
        dropout: Share of each hidden layer's activations dropped in training; 0 adds no layer.
        batch_norm: Whether `bn1`, ... stand between the linear layers and the activations.
        seed: Draws the initial weights from this seed and leaves the global one alone; None draws from the global one.

    Returns:
        The net, in training mode, with the arguments in `.config`.

    Raises:
        InputError: A width, the inputs or the classes below 1, dropout outside [0, 1), or an unknown activation.

    Example:
        >>> list(dict(fcnn([8, 4], inputs=6, classes=3, dropout=0.1).named_children()))
        ['flatten', 'fc1', 'relu1', 'dropout1', 'fc2', 'relu2', 'dropout2', 'head']
    """
    if activation not in _ACTIVATIONS:
        raise InputError("an activation is one of " + ", ".join(_ACTIVATIONS), f"found {activation!r}")
    if not 0 <= dropout < 1:
        raise InputError("dropout is a share from 0 up to, not including, 1", f"found {dropout}")
    sizes = [inputs, *widths, classes]
    if min(sizes) < 1 or any(int(size) != size for size in sizes):
        raise InputError("inputs, widths and classes are whole numbers from 1 up", f"found {sizes}")
    layers: dict[str, nn.Module] = {"flatten": nn.Flatten()}
    with seeded(seed):
        for index, (before, width) in enumerate(zip(sizes, widths, strict=False), start=1):
            layers[f"fc{index}"] = nn.Linear(before, width)
            if batch_norm:
                layers[f"bn{index}"] = nn.BatchNorm1d(width)
            layers[f"{activation}{index}"] = _ACTIVATIONS[activation]()
            if dropout:
                layers[f"dropout{index}"] = nn.Dropout(dropout)
        layers["head"] = nn.Linear(sizes[-2], classes)
    config = {
        "widths": tuple(widths),
        "inputs": inputs,
        "classes": classes,
        "activation": activation,
        "dropout": dropout,
        "batch_norm": batch_norm,
    }
    return FCNN(layers, config)


def paper(name: str, *, seed: int | None = None, **changes: Any) -> FCNN:
    """A net of the papers by name, untrained.

    Source: 001, Table 1 (ReLU and dropout); 004, the printed code (sigmoid). *Departure:* the dropout rate, 0.2, and
    the input sizes of CIFAR-10 (32x32 gray, printed as 32x28) and PlantVillage (64x64, printed 256x256).

    Args:
        name: `001-mnist`, `001-fashion-mnist`, `001-cifar10`, `001-plantvillage`, `004-2x200` or `004-3x200`.
        seed: As in `fcnn`.
        **changes: Arguments of `fcnn` to change, such as `inputs`, `classes` or `dropout`.

    Raises:
        ModelError: There is no net of that name.

    Example:
        >>> paper("004-2x200").config["widths"]
        (200, 200)
    """
    if name not in PAPERS:
        raise unknown("net of the papers", name, PAPERS, "zoo:")
    arguments: dict[str, Any] = {**PAPERS[name], **changes}
    return fcnn(**arguments, seed=seed)


def resnet18_cifar(classes: int, *, channels: int = 3, width: int = 64, seed: int | None = None) -> nn.Module:
    """ResNet-18 for pictures of about 32x32: a 3x3 first convolution of stride 1, and no max-pooling after it.

    Source: He et al. 2016, with the usual CIFAR stem; blocks and names are torchvision's.

    Args:
        classes: Outputs of the head, as logits.
        channels: Channels of the pictures.
        width: Channels of the first layers; the others have up to 8 times as many.
        seed: As in `fcnn`.

    Raises:
        ModelError: torchvision is not installed.
    """
    models = optional("torchvision.models")
    with seeded(seed):
        net = models.resnet18(weights=None, num_classes=classes)
        if width != 64:
            net.inplanes, net.bn1 = width, nn.BatchNorm2d(width)
            for place in range(4):
                layer = net._make_layer(models.resnet.BasicBlock, width << place, 2, stride=2 if place else 1)
                setattr(net, f"layer{place + 1}", layer)
            net.fc = nn.Linear(width << 3, classes)
            for module in net.modules():
                if isinstance(module, nn.Conv2d):
                    nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        net.conv1 = nn.Conv2d(channels, width, kernel_size=3, stride=1, padding=1, bias=False)
        nn.init.kaiming_normal_(net.conv1.weight, mode="fan_out", nonlinearity="relu")
    net.maxpool = nn.Identity()
    return net


def vgg16_cifar(
    classes: int, *, channels: int = 3, width: int = 64, batch_norm: bool = True, seed: int | None = None
) -> nn.Sequential:
    """VGG-16 for pictures of about 32x32: average pooling to 1x1, and one hidden layer of 512 units as classifier.

    Source: Simonyan and Zisserman 2015; the convolutions are named as torchvision's `vgg16_bn` (or `vgg16`) names them.

    Args:
        classes: Outputs of the head, as logits.
        channels: Channels of the pictures.
        width: Channels of the first layers; the last ones and the classifier's hidden layer have 8 times as many.
        batch_norm: Whether batch norms follow the convolutions; without them it trains slowly from scratch.
        seed: As in `fcnn`.

    Example:
        >>> list(dict(vgg16_cifar(10).named_children()))
        ['features', 'avgpool', 'flatten', 'classifier']
    """
    layers: list[nn.Module] = []
    with seeded(seed):
        before = channels
        for times in (1, 1, 0, 2, 2, 0, 4, 4, 4, 0, 8, 8, 8, 0, 8, 8, 8, 0):  # 0 is a pooling
            if not times:
                layers.append(nn.MaxPool2d(2))
                continue
            after = times * width
            convolution = nn.Conv2d(before, after, kernel_size=3, padding=1)
            nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
            layers += [convolution, nn.BatchNorm2d(after), nn.ReLU()] if batch_norm else [convolution, nn.ReLU()]
            before = after
        classifier = nn.Sequential(nn.Linear(before, before), nn.ReLU(), nn.Dropout(0.5), nn.Linear(before, classes))
    net = nn.Sequential()
    net.add_module("features", nn.Sequential(*layers))
    net.add_module("avgpool", nn.AdaptiveAvgPool2d((1, 1)))
    net.add_module("flatten", nn.Flatten())
    net.add_module("classifier", classifier)
    return net


@contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Draw from `seed` inside the block, then put the CPU's generator back; None changes nothing."""
    if seed is None:
        yield
        return
    before = torch.get_rng_state()
    torch.default_generator.manual_seed(checked_seed(seed))  # torch.manual_seed would reach for the GPU's generators too
    try:
        yield
    finally:
        torch.set_rng_state(before)


def optional(name: str) -> ModuleType:
    """A module of an extra, imported when it is needed.

    Args:
        name: The module, such as `torchvision.models`.

    Raises:
        ModelError: It cannot be imported; the message names the extra that brings it.
    """
    try:
        return importlib.import_module(name)
    except (ImportError, RuntimeError) as error:  # a torchvision built for another torch raises RuntimeError
        package = name.partition(".")[0]
        raise ModelError(
            f"{package} is needed for this", f"it cannot be imported: {error}", "Run: pip install 'cofire[vision]'."
        ) from error


def unknown(kind: str, name: str, known: Iterable[str], prefix: str) -> ModelError:
    """The error for a name that is not among the known ones, with the closest that is."""
    known = list(known)
    closest = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    some = f"closest: '{prefix}{closest[0]}'" if closest else "known: " + ", ".join(known[:12])
    return ModelError(f"no {kind} named {name!r}", some)
