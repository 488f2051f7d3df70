"""Which functions and modules are non-linearities, from which value on a unit fires, and where a layer's units lie."""

import torch
import torch.nn.functional as F
from torch import nn

__all__ = ["activation_function", "activation_module", "axis_of_units", "is_product", "may_matter", "threshold"]

_KINDS = (
    "celu", "elu", "gelu", "glu", "hardshrink", "hardsigmoid", "hardswish", "hardtanh", "leaky_relu", "logsigmoid", "mish",
    "prelu", "relu", "relu6", "rrelu", "selu", "sigmoid", "silu", "softplus", "softshrink", "softsign", "tanh", "tanhshrink",
    "threshold",
)  # fmt: skip

_CLASSES: dict[type[nn.Module], str] = {
    nn.CELU: "celu", nn.ELU: "elu", nn.GELU: "gelu", nn.GLU: "glu", nn.Hardshrink: "hardshrink",
    nn.Hardsigmoid: "hardsigmoid", nn.Hardswish: "hardswish", nn.ReLU6: "relu6", nn.Hardtanh: "hardtanh",
    nn.LeakyReLU: "leaky_relu", nn.LogSigmoid: "logsigmoid", nn.Mish: "mish", nn.PReLU: "prelu", nn.ReLU: "relu",
    nn.RReLU: "rrelu", nn.SELU: "selu", nn.Sigmoid: "sigmoid", nn.SiLU: "silu", nn.Softplus: "softplus",
    nn.Softshrink: "softshrink", nn.Softsign: "softsign", nn.Tanh: "tanh", nn.Tanhshrink: "tanhshrink",
    nn.Threshold: "threshold",
}  # fmt: skip

_LIBRARIES = ("transformers.activations", "timm.layers.activations", "timm.models.layers.activations")
"""Packages whose leaf modules are non-linearities as a whole, known by name so that nothing need be imported."""

_CHANNELS_FIRST = {"batch_norm", "instance_norm", "group_norm", *(f"conv{d}d" for d in (1, 2, 3))} | {
    f"conv_transpose{d}d" for d in (1, 2, 3)
} | {"convolution", "_native_batch_norm_legit_no_training", "native_batch_norm", "native_group_norm"}  # fmt: skip
_FEATURES_LAST = {
    "linear", "bilinear", "matmul", "__matmul__", "__rmatmul__", "bmm", "mm", "addmm", "einsum", "layer_norm",
    "native_layer_norm", "rms_norm", "embedding", "scaled_dot_product_attention",
}  # fmt: skip
_PRODUCTS = {"mul", "mul_", "multiply", "multiply_", "__mul__", "__rmul__", "__imul__"}


def _table() -> dict:
    functions: dict = {}
    for kind in _KINDS:
        for name in (kind, f"{kind}_"):
            for place in (F, torch, torch.Tensor):
                function = getattr(place, name, None)
                if callable(function):
                    functions[function] = kind
    functions[torch.Tensor.sigmoid] = functions[torch.special.expit] = "sigmoid"
    return functions


_FUNCTIONS = _table()
_CLAMPS = {torch.clamp, torch.clip, torch.clamp_min, torch.Tensor.clamp, torch.Tensor.clip, torch.Tensor.clamp_min} | {
    torch.Tensor.clamp_, torch.Tensor.clip_, torch.Tensor.clamp_min_,
}  # fmt: skip


_NAMES = {"expit", "clamp", "clip", "clamp_min", *_KINDS, *_CHANNELS_FIRST, *_FEATURES_LAST, *_PRODUCTS}


def _name(function) -> str:
    return (getattr(function, "__name__", None) or "").partition(".")[0]


def may_matter(function) -> bool:
    """A quick look by name that dismisses nearly every call; the functions below then decide."""
    name = _name(function)
    return name in _NAMES or name.removesuffix("_") in _NAMES


def _operator(function) -> str | None:
    """Name of an aten operator such as ``torch.ops.aten.relu_.default``, as exported programs call it."""
    schema = getattr(function, "_schema", None)
    return schema.name.removeprefix("aten::") if schema is not None else None


def activation_function(function, args: tuple, kwargs: dict) -> str | None:
    """Kind of the non-linearity that this call is, None for any other call; ``x.clamp(min=0)`` is a ReLU."""
    kind = _FUNCTIONS.get(function)
    if kind is not None:
        return kind
    if function in _CLAMPS:
        least = args[1] if len(args) > 1 else kwargs.get("min")
        most = args[2] if len(args) > 2 else kwargs.get("max")
        return "relu" if isinstance(least, int | float) and least == 0 and most is None else None
    operator = _operator(function)
    if operator is not None and operator.removesuffix("_") in _KINDS:
        return operator.removesuffix("_")
    return None


def activation_module(module: nn.Module) -> str | None:
    """Kind of the non-linearity that this module is as a whole, None for any other module."""
    for cls, kind in _CLASSES.items():
        if isinstance(module, cls):
            return kind
    if type(module).__module__.startswith(_LIBRARIES) and not any(True for _ in module.children()):
        name = type(module).__name__.lower().removesuffix("activation")
        return next((kind for kind in sorted(_KINDS, key=len, reverse=True) if kind.replace("_", "") in name), name)
    return None


def is_product(function) -> bool:
    """Whether this call multiplies two tensors element by element."""
    return _name(function) in _PRODUCTS


def axis_of_units(function) -> int | None:
    """Axis on which this call lays the units of its output: 1 for a convolution, -1 for a linear map, None for others."""
    name = _name(function)
    if name in _CHANNELS_FIRST:
        return 1
    return -1 if name in _FEATURES_LAST else None


def threshold(kind: str) -> float:
    """Value above which a unit of this non-linearity fires: 0.5 for a sigmoid and its hard form, 0 for all others."""
    return 0.5 if kind in ("sigmoid", "hardsigmoid") else 0.0
