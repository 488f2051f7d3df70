"""Other weights for a module, and the sizes that go with them."""

from collections.abc import Mapping

from torch import Tensor, nn

from cofire.errors import ModelError

__all__ = ["RESIZABLE", "resize"]

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
RESIZABLE = (nn.Linear, *_CONVOLUTIONS, *_BATCH_NORMS, nn.LayerNorm, nn.PReLU)
"""Modules whose sizes are those of their weights."""


def resize(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Give a module other parameters and buffers, in place, and the sizes that go with them.

    Args:
        module: One of :data:`RESIZABLE`.
        tensors: Values by name. A tensor that the module holds and that is not named stays; a bias may be new.

    Raises:
        ModelError: Another module.

    >>> import torch
    >>> layer = nn.Linear(4, 3, bias=False)
    >>> resize(layer, {"weight": torch.zeros(2, 5), "bias": torch.ones(2)})
    >>> layer
    Linear(in_features=5, out_features=2, bias=True)
    """
    if not isinstance(module, RESIZABLE):
        raise ModelError("only modules with weights of a known form can be made smaller", f"found {type(module).__name__}")
    trained = any(parameter.requires_grad for parameter in module.parameters())
    for name, values in tensors.items():
        held = module.get_parameter("weight") if getattr(module, name) is None else getattr(module, name)
        values = values.detach().to(held.device, held.dtype).clone()
        setattr(module, name, nn.Parameter(values, requires_grad=trained) if name in module._parameters else values)
    weight = module.weight if module.weight is not None else next(iter(tensors.values()))
    if isinstance(module, nn.Linear):
        module.out_features, module.in_features = weight.shape
    elif isinstance(module, _CONVOLUTIONS):
        depthwise = module.groups == module.in_channels and module.groups > 1
        module.groups = len(weight) if depthwise else module.groups
        module.out_channels, module.in_channels = len(weight), weight.shape[1] * module.groups
    elif isinstance(module, nn.LayerNorm):
        module.normalized_shape = tuple(weight.shape)
    else:
        setattr(module, "num_parameters" if isinstance(module, nn.PReLU) else "num_features", len(weight))
