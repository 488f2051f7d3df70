"""Finding and reading every hidden activation of a model in a forward pass that somebody else runs."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from cofire import nonlinearities
from cofire.errors import LayerError, ModelError
from cofire.listing import LayerInfo, LayerList
from cofire.pooling import Arrangement, arrange
from cofire.wrappers import clean_name, unwrap

__all__ = ["Sink", "Watch", "tensors_in"]

_CELLS = (nn.RNNBase, nn.RNNCellBase)

Sink = Callable[[LayerInfo, Tensor, Tensor | None], None]
"""Receives a layer, its units [samples, units] and, for feature maps, their mean over channels [samples, height, width]."""


class _Sighting:
    """A call seen for the first time: kept until the forward pass tells what it was."""

    def __init__(self, info: LayerInfo, units: Tensor | None, maps: Tensor | None, original: Tensor | None, source):
        self.info, self.units, self.maps, self.original, self.source = info, units, maps, original, source
        self.reason = info.reason


class Watch(TorchFunctionMode):
    """Hands every hidden activation of the forward passes between :meth:`begin` and :meth:`end` to a sink.

    Modules are read through forward hooks and functional calls through a torch function mode. A call is judged once, in the
    first forward pass in which it is seen: outputs of the model, gates (sigmoids that only scale another tensor) and tensors
    without a row per sample are left out.

    Args:
        model: Any module that runs eagerly.
        layers: None for all hidden activations; names or globs of activations or of modules; or a predicate of
            :class:`LayerInfo`.
        pool: How positions become units, "mean", "max" or "none".
        maps: Also hand mean maps over channels to the sink.
    """

    def __init__(self, model: nn.Module, layers=None, pool: str = "mean", maps: bool = False):
        super().__init__()
        self.model, self.pool, self.maps = unwrap(model), pool, maps
        self.patterns = [layers] if isinstance(layers, str) else layers
        if self.patterns is not None and not callable(self.patterns):
            self.patterns = [clean_name(str(pattern)) for pattern in self.patterns]
            if not self.patterns:
                raise LayerError("layers must name at least one layer", "found none", "layers=None takes all.")
        self.known: dict[str, LayerInfo | None] = {}
        self.skipped: dict[str, LayerInfo] = {}
        self.products: set[str] = set()  # sigmoids whose product with their own input is a SiLU written by hand
        self.edit: Callable[[LayerInfo, Tensor], None] | None = None  # changes known activations in place; the sink gets none
        self._hooks, self.inside = ExitStack(), False
        self._paths = {module: clean_name(path) for path, module in self.model.named_modules()}
        self._named = self._named_modules()
        kinds = ((module, path, self._kind(module, path)) for module, path in self._paths.items())
        self._watched = [role for role in kinds if role[2] or not (role[0] is self.model or _quiet(role[0]))]
        self._clear()

    def _named_modules(self) -> dict[str, nn.Module]:
        if self.patterns is None or callable(self.patterns):
            return {}
        return {path: m for m, path in self._paths.items() if path and any(fnmatchcase(path, p) for p in self.patterns)}

    def attach(self) -> None:
        """Put the hooks on the model's modules."""
        try:
            for role in self._watched:
                self._hook(*role)
        except BaseException:
            self.detach()
            raise

    def detach(self) -> None:
        """Take them off."""
        self._hooks.close()

    def _kind(self, module: nn.Module, path: str) -> str | None:
        kind = nonlinearities.activation_module(module)
        if kind is None and isinstance(module, _CELLS):
            kind = type(module).__name__.lower()
        return "module" if kind is None and path in self._named else kind

    def _hook(self, module: nn.Module, path: str, kind: str | None) -> None:
        def enter(_module, _inputs):
            if self.inside:  # a copy of the model has copies of these hooks, and may run at any time
                self._stack.append((path, module, kind is not None and kind != "module"))

        def leave(_module, inputs, output):
            entry = self._stack.pop() if self._stack else None
            if kind is not None and entry is not None and output is not None and not self._inside_activation():
                source = inputs[0] if inputs and isinstance(inputs[0], Tensor) else None
                with torch._C.DisableTorchFunction():  # what the sink computes is not the model's
                    self._read(path, kind, _output_of(output, module), source, recurrent=isinstance(module, _CELLS))

        self._hooks.callback(module.register_forward_pre_hook(enter, prepend=True).remove)
        self._hooks.callback(module.register_forward_hook(leave, always_call=True).remove)

    def _inside_activation(self) -> bool:
        return bool(self._stack) and self._stack[-1][2]

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        if nonlinearities.may_matter(func):
            self._look(func, args, kwargs, output)
        return output

    def _look(self, func, args, kwargs, output) -> None:
        axis = nonlinearities.axis_of_units(func)
        if axis is not None:
            self._unit_axis = axis
            return
        if self._inside_activation() or not isinstance(output, Tensor):
            return
        if nonlinearities.is_product(func):
            if self._gates:
                self._product(args, output)
            return
        kind = nonlinearities.activation_function(func, args, kwargs)
        if kind is not None:
            source = args[0] if args else next(iter(kwargs.values()), None)
            self._read(f"{self._path()}/{kind}".removeprefix("/"), kind, output, source)

    def _path(self) -> str:
        return self._stack[-1][0] if self._stack else ""

    def _product(self, args, output: Tensor) -> None:
        for this, other in (args, args[::-1]) if len(args) == 2 else ():
            gate = self._gates.get(id(this))
            if gate is None or not isinstance(other, Tensor) or other.ndim < 2:
                continue
            name, source, sighting = gate[1:]
            silu = other is source
            if sighting is not None:
                sighting.reason = "it is half of a SiLU, x * sigmoid(x), which is listed" if silu else "it gates another tensor"
                if silu:
                    self.products.add(name)
            if silu:
                self._read(f"{name.rpartition('/')[0]}/silu".removeprefix("/"), "silu", output, None)
            return

    def _read(self, path: str, kind: str, output, source, recurrent: bool = False) -> None:
        output, mask = output if isinstance(output, tuple) else (output, self._mask)
        if not isinstance(output, Tensor):
            return
        self._calls[path] = self._calls.get(path, 0) + 1
        name = path if self._calls[path] == 1 else f"{path}#{self._calls[path]}"
        sigmoid = kind in ("sigmoid", "hardsigmoid")
        if name in self.known:
            info = self.known[name]
            if name in self.products:
                self._gates[id(output)] = (output, name, source, None)
            if info is not None:
                self._emit(info, output, mask)
            return
        arrangement = arrange(output, self._samples, self._unit_axis, self.pool, self._sequence_first(), recurrent)
        if isinstance(arrangement, str):
            info = LayerInfo(name, kind, Arrangement("dense", 0, tuple(output.shape[1:])), arrangement)
            self._sightings[name] = _Sighting(info, None, None, None, source)
            return
        info = LayerInfo(name, kind, arrangement)
        # Clones, since the tensor may be changed in place before the pass is over; only small ones are kept as they are,
        # to be compared with the model's output.
        units, maps = arrangement.pool(output, self.pool, mask).clone(), arrangement.maps(output) if self.maps else None
        sighting = _Sighting(info, units, maps, output if output.ndim <= 2 else None, source)
        self._sightings[name] = sighting
        if sigmoid:
            self._gates[id(output)] = (output, name, source, sighting)

    def _sequence_first(self) -> bool:
        for _, module, _ in reversed(self._stack):
            first = getattr(module, "batch_first", getattr(getattr(module, "self_attn", None), "batch_first", None))
            if first is not None:
                return not first
        return False

    def _emit(self, info: LayerInfo, output: Tensor, mask: Tensor | None) -> None:
        if output.ndim > info.arrangement.sample_axis and output.shape[info.arrangement.sample_axis] != self._samples:
            raise LayerError(
                f"layer {info.name!r} must give one row per sample",
                f"found shape {tuple(output.shape)} for {self._samples} samples",
                "Leave it out with layers=.",
            )
        if self.edit is not None:
            self.edit(info, output)
            return
        units = info.arrangement.pool(output, self.pool, mask)
        if units.shape[1] != info.units:
            raise LayerError(
                f"layer {info.name!r} must have the same units in every batch", f"found {info.units} and then {units.shape[1]}",
                'Its size follows the input; pool="mean" makes the units its channels.',
            )  # fmt: skip
        self._sink(info, units, info.arrangement.maps(output) if self.maps else None)

    def begin(self, samples: int, sink: Sink, mask: Tensor | None = None) -> None:
        """A forward pass begins.

        Args:
            samples: Number of samples in its batch.
            sink: Receives layer, units and maps.
            mask: Which tokens count, [samples, tokens].
        """
        self.abandon()
        self._samples, self._sink, self._mask, self._unit_axis = samples, sink, mask, -1
        self._stack.append(("", self.model, False))
        super().__enter__()
        self.inside = True

    def end(self, output: Any) -> None:
        """It has given this output; now calls that were seen for the first time are judged, and the layers among them read."""
        self._leave()
        try:
            self._judge(output)
        finally:
            self._clear()

    def abandon(self) -> None:
        """It has failed: what it showed is forgotten. Without a forward pass, this does nothing."""
        self._leave()
        self._clear()

    def _leave(self) -> None:
        if self.inside:
            self.inside = False
            super().__exit__(None, None, None)

    def _clear(self) -> None:
        self._stack: list[tuple[str, nn.Module, bool]] = []
        self._calls: dict[str, int] = {}
        self._gates: dict[int, tuple] = {}
        self._sightings: dict[str, _Sighting] = {}

    def _judge(self, output) -> None:
        if not self._sightings:
            return
        outputs = [tensor for tensor in tensors_in(output) if tensor.ndim <= 2]
        candidates: dict[str, LayerInfo] = {}
        for name, sighting in self._sightings.items():
            original = sighting.original
            if original is not None and any(_same(original, tensor) for tensor in outputs):
                sighting.reason = "it is the model's output"
            if not sighting.reason:
                candidates[name] = sighting.info
        chosen = self._choose(candidates)
        for name, sighting in self._sightings.items():
            self.known[name] = chosen.get(name)
            info = sighting.info
            if name in chosen and sighting.units is not None:
                self._sink(info, sighting.units, sighting.maps)
            elif sighting.reason and info.kind != "module":
                self.skipped[name] = LayerInfo(name, info.kind, info.arrangement, sighting.reason)

    def _choose(self, candidates: dict[str, LayerInfo]) -> dict[str, LayerInfo]:
        activations = {name: info for name, info in candidates.items() if info.kind != "module"}
        if self.patterns is None:
            return activations
        if callable(self.patterns):
            return {name: info for name, info in activations.items() if self.patterns(info)}
        chosen: dict[str, LayerInfo] = {}
        for pattern in self.patterns:
            # A name that is an activation's means that activation; else it means the output of the module of that name.
            named = {name: info for name, info in activations.items() if fnmatchcase(name, pattern)}
            chosen |= named or {n: info for n, info in candidates.items() if fnmatchcase(n.partition("#")[0], pattern)}
        return {name: info for name, info in candidates.items() if name in chosen}

    @property
    def sigmoid(self) -> bool:
        """Whether forward passes have shown a sigmoid of one unit, or that the model ends with one."""
        ends = [info for info in self.skipped.values() if "output" in info.reason]
        single = [info for info in self.known.values() if info is not None and info.units == 1]
        return any(info.kind in ("sigmoid", "hardsigmoid") for info in ends + single)

    @property
    def layers(self) -> LayerList:
        """The layers that are watched, as far as forward passes have shown them."""
        return LayerList((info for info in self.known.values() if info is not None), self.skipped.values())

    def check(self) -> None:
        """Raise if nothing was seen.

        Raises:
            LayerError: A named layer does not exist or was not called.
            ModelError: The model called no hidden activation at all.
        """
        seen = [name for name, info in self.known.items() if info is not None]
        if self.patterns is not None and not callable(self.patterns):
            everything = dict.fromkeys([*self.known, *self._paths.values()])
            for pattern in self.patterns:
                if any(fnmatchcase(name, pattern) or fnmatchcase(name.partition("#")[0], pattern) for name in seen):
                    continue
                skipped = self.skipped.get(pattern)
                exists = f"it was not called, or its output is no tensor per sample{f': {skipped.reason}' if skipped else ''}"
                close = get_close_matches(pattern, [name for name in everything if name], n=1, cutoff=0.3)
                missing = f"closest: {close[0]!r}" if close else "nothing is close"
                raise LayerError(
                    f"no layer named {pattern!r} in {type(self.model).__name__}",
                    exists if pattern in everything else missing,
                    "List them with cofire.layers(model, example).",
                )
        if not seen:
            left_out = "".join(f"; {info.name!r} was skipped: {info.reason}" for info in self.skipped.values())
            raise ModelError(
                f"no hidden activation was seen in {type(self.model).__name__}",
                f"its forward pass called no non-linearity that is followed by another layer{left_out}",
                "Name modules to watch with layers=, for instance layers=['fc1'].",
            )


def tensors_in(value: Any) -> list[Tensor]:
    """All tensors in nested tuples, lists and mappings."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Mapping):
        value = list(value.values())
    return [tensor for item in value for tensor in tensors_in(item)] if isinstance(value, list | tuple) else []


def _quiet(module: nn.Module) -> bool:
    """A convolution, a linear layer, a pooling: nothing inside that could be an activation."""
    return type(module).__module__.startswith("torch.nn.modules.") and not any(True for _ in module.children())


def _same(activation: Tensor, output: Tensor) -> bool:
    return activation is output or (
        activation.numel() == output.numel() and activation.data_ptr() == output.data_ptr() and activation.data_ptr() != 0
    )


def _output_of(output: Any, module: nn.Module) -> Any:
    """The tensor that a hooked module gives; for a packed sequence, with the mask of its steps."""
    if isinstance(output, tuple) and not isinstance(output, nn.utils.rnn.PackedSequence):
        output = output[0] if output else None
    if isinstance(output, nn.utils.rnn.PackedSequence):
        padded, lengths = nn.utils.rnn.pad_packed_sequence(output, batch_first=getattr(module, "batch_first", True))
        steps = torch.arange(padded.shape[1 if getattr(module, "batch_first", True) else 0])
        return padded, (steps[None] < lengths[:, None]).to(padded.device)
    if isinstance(output, Mapping):
        output = next((item for item in output.values() if isinstance(item, Tensor)), None)
    return output
