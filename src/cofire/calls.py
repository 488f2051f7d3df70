"""One forward pass as it went: linear maps, convolutions and the activations between them, in the order of their calls."""

from dataclasses import dataclass

from torch import Tensor, nn

from cofire.batches import Batch, logits_of
from cofire.taps import Taps

__all__ = ["READERS", "Call", "Calls", "calls_of"]

READERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
"""Modules that read units with weights."""


@dataclass(frozen=True)
class Call:
    """A call of a module that reads units, or of an activation.

    Args:
        module: The linear map or convolution; None for an activation.
        layer: Name of the activation; None for a module.
        kind: Its non-linearity.
        inputs: What the module read, as it was then; None for an activation, and where it is no matrix.
        output: What it gave, likewise.
    """

    module: nn.Module | None
    layer: str | None
    kind: str | None
    inputs: Tensor | None
    output: Tensor | None


@dataclass(frozen=True)
class Calls:
    """A forward pass.

    Args:
        calls: What was called, in order.
        logits: What the model gave; None where that is no tensor of class scores.
    """

    calls: tuple[Call, ...]
    logits: Tensor | None

    def after(self, layer: str) -> tuple[Call, tuple[Call, ...]] | None:
        """The call of an activation, and those that came later; None if it was not called."""
        at = next((at for at, call in enumerate(self.calls) if call.layer == layer), None)
        return None if at is None else (self.calls[at], self.calls[at + 1 :])


def calls_of(taps: Taps, batch: Batch) -> Calls:
    """The calls of one forward pass.

    Args:
        taps: Watching the model; its layers are known.
        batch: Some samples.
    """
    found: list[Call] = []

    def note(module, inputs, named, output):
        found.append(Call(module, None, None, _kept(inputs[0] if inputs else named.get("input")), _kept(output)))

    handles = [
        module.register_forward_hook(note, with_kwargs=True) for module in taps.model.modules() if isinstance(module, READERS)
    ]
    before, taps.edit = taps.edit, lambda info, output: found.append(Call(None, info.name, info.kind, None, _kept(output)))
    try:
        logits = logits_of(taps.forward(batch.inputs, len(batch), lambda *_: None, batch.mask))
    finally:
        taps.edit = before
        for handle in handles:
            handle.remove()
    return Calls(tuple(found), logits)


def _kept(values: Tensor | None) -> Tensor | None:
    # A copy, since it may be changed in place later. Maps and tokens are large, and nothing compares them.
    return values.detach().clone() if values is not None and values.ndim == 2 else None
