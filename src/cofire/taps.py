"""Running a model so that every hidden activation is read, and leaving the model as it was."""

import sys
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from cofire.errors import CofireError
from cofire.watching import Sink, Watch, tensors_in
from cofire.wrappers import called, evaluating

__all__ = ["Taps"]


class Taps(Watch):
    """A context in which :meth:`forward` runs the model and hands every hidden activation to a sink.

    The model is in eval mode, and hooks are on it, for the time of the context only.

    Args:
        model: Any module that runs eagerly.
        layers: None for all hidden activations; names or globs of activations or of modules; or a predicate of
            :class:`LayerInfo`.
        pool: How positions become units, "mean", "max" or "none".
        maps: Also hand mean maps over channels to the sink.
    """

    def __enter__(self):
        self._context = ExitStack()
        try:
            self._context.enter_context(evaluating(self.model))
            self._context.callback(self.detach)
            self.attach()
            if "torch._dynamo" in sys.modules:  # something may be compiled: run what is underneath
                self._context.enter_context(torch.compiler.set_stance("force_eager"))
        except BaseException:
            self._context.close()
            raise
        return self

    def __exit__(self, *exception):
        self._context.close()

    def forward(
        self, inputs: Any, samples: int, sink: Sink, mask: Tensor | None = None, *, gradients: bool = False
    ) -> Any:  # fmt: skip
        """Run the model on one batch and hand every hidden activation to ``sink``; returns the model's output.

        Args:
            inputs: A tensor, a tuple of positional or a mapping of keyword arguments.
            samples: Number of samples in the batch.
            sink: Receives layer, units and maps.
            mask: Which tokens count, [samples, tokens].
            gradients: Keep the graph that gradients are taken through.
        """
        with torch.set_grad_enabled(gradients):
            self.begin(samples, sink, mask)
            try:
                output = called(self.model, inputs)
            except BaseException as error:
                self.abandon()
                blame(error, self.model, inputs)
                raise
            self.end(output)
        return output


def blame(error: BaseException, model: nn.Module, inputs: Any) -> None:
    """Note on an error that it is a model's own, and on what inputs."""
    if not isinstance(error, CofireError):
        error.add_note(f"cofire: this is {type(model).__name__}'s own error, on {_describe(inputs)}")


def _describe(inputs: Any) -> str:
    shapes = [f"{str(x.dtype).removeprefix('torch.')} {list(x.shape)} on {x.device}" for x in tensors_in(inputs)]
    return f"inputs {', '.join(shapes)}" if shapes else "inputs without a tensor"
