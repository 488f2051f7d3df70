"""What a model does with a batch before it comes to a layer, done once."""

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from cofire.batches import Batch
from cofire.listing import LayerInfo
from cofire.taps import Taps

__all__ = ["kept_before"]


@contextmanager
def kept_before(taps: Taps, batch: Batch, layer: str) -> Iterator[None]:
    """Within it, modules that are through before a layer begins give again what they gave on the batch, and compute nothing.

    It runs the model once; where that does not come to the layer, nothing is kept. A module is kept where it is called once and
    gives one tensor; of modules within each other the outermost. What parents compute between them, such as sums and functional
    activations, runs each time. Afterwards the model is as it was.

    Args:
        taps: Watching the model, their ``edit`` free.
        batch: The only one that may be run within.
        layer: Its activations and all that follows may be changed there.
    """
    found: dict[nn.Module, Tensor] = {}
    calls: Counter[nn.Module] = Counter()
    reached = False

    def ended(module: nn.Module, _: Any, output: Any) -> None:
        calls[module] += 1
        if not reached and isinstance(output, Tensor):
            for inner in module.modules():
                found.pop(inner, None)
            found[module] = output.detach().clone()  # for what follows may change it in place

    def edit(info: LayerInfo, _: Tensor) -> None:
        nonlocal reached
        reached = reached or info.name == layer

    with ExitStack() as hooks:
        for module in taps.model.modules():
            hooks.callback(module.register_forward_hook(ended).remove)
        taps.edit = edit
        hooks.callback(setattr, taps, "edit", None)
        taps.forward(batch.inputs, len(batch), lambda *_: None, batch.mask)
    with ExitStack() as patches:
        for module, output in found.items():
            if reached and calls[module] == 1:
                patches.enter_context(_giving(module, output))
        yield


@contextmanager
def _giving(module: nn.Module, output: Tensor) -> Iterator[None]:
    """Within it, the module gives copies of a tensor."""
    before = module.__dict__.get("forward")
    module.forward = lambda *_, **__: output.clone()
    try:
        yield
    finally:
        if before is None:
            del module.forward
        else:
            module.forward = before
