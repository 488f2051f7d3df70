"""A frozen model with a head that reads its hidden layers again: what a boost gives back, saves and exports."""

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from cofire import storage
from cofire.batches import samples_in
from cofire.errors import FileError, InputError
from cofire.hidden import Columns
from cofire.listing import LayerInfo
from cofire.pooling import Arrangement
from cofire.probes import Auxiliary, proposed
from cofire.readings import Sight, scores_in
from cofire.stacking import Stack
from cofire.taps import Taps
from cofire.weights import digest
from cofire.wrappers import called, clean_name, device_of, evaluating, unwrap

if TYPE_CHECKING:
    import pandas

__all__ = ["Boosted", "PaperHead", "Rereading", "load_boosted", "plan_of"]


class Rereading(nn.Module):
    """Scores times a factor, plus a linear function of hidden units; without layers it is temperature scaling.

    Args:
        factor: Of the model's scores.
        intercept: Added to each class, [classes].
        layers: The layers that are read, and whether also the shares of positions at which their units fire.
        weights: Of the numbers read, or of their sums, [columns, classes].
        mean: What is first taken off the numbers, [numbers].
        order: The numbers of the first sum, of the second and so on, int64 [columns, length]; by default they are the columns.
        factors: Times what they go into the sums, [columns, length].
    """

    def __init__(
        self, factor: float, intercept: Tensor, layers: Mapping[str, bool] | None = None, weights: Tensor | None = None,
        mean: Tensor | None = None, order: Tensor | None = None, factors: Tensor | None = None,
    ):  # fmt: skip
        super().__init__()
        self.layers = dict(layers or {})
        self.names, self.shares = list(self.layers), [name for name, share in self.layers.items() if share]
        self.factor: Tensor
        self.intercept: Tensor
        self.weights: Tensor
        self.mean: Tensor
        self.order: Tensor | None
        self.factors: Tensor
        self.register_buffer("factor", torch.tensor(float(factor), dtype=intercept.dtype))
        for name, value in (
            ("intercept", intercept),
            ("weights", weights),
            ("mean", mean),
            ("order", order),
            ("factors", factors),
        ):
            self.register_buffer(name, value)

    @classmethod
    def of(cls, stack: Stack, columns: Columns, weights: Tensor, dtype: torch.dtype) -> "Rereading":
        """The head of a stack and a correction of centred and scaled numbers, whose scales are folded into the weights.

        Args:
            stack: How the correction and the model's scores are added.
            columns: What the correction reads.
            weights: float64 [columns + 1, classes], the last row the intercept.
            dtype: Of the scores.
        """
        mean, scale, weights = columns.mean.to(dtype), columns.scale, stack.other * weights.cpu()
        intercept = (stack.offset.cpu() + weights[-1]).to(dtype)
        layers = {block.layer: block.share for block in columns.blocks}
        if columns.hashing is None:
            return cls(stack.own, intercept, layers, (weights[:-1] / scale[:, None]).to(dtype), mean)
        counts, numbers = columns.hashing.place.bincount(), columns.hashing.place.argsort(stable=True)
        sums = columns.hashing.place[numbers]
        within = torch.arange(len(numbers)) - (counts.cumsum(0) - counts)[sums]
        order = torch.zeros(len(counts), int(counts.max()), dtype=torch.int64)  # padded by number 0, times 0
        factors = torch.zeros_like(order, dtype=torch.float64)
        order[sums, within], factors[sums, within] = numbers, (columns.hashing.sign / scale)[numbers]
        return cls(stack.own, intercept, layers, weights[:-1].to(dtype), mean, order, factors.to(dtype))

    def forward(self, scores: Tensor, units: Mapping[str, Tensor], firing: Mapping[str, Tensor]) -> Tensor:
        """Boosted class scores [samples, classes]."""
        found = self.factor * scores + self.intercept
        if not self.layers:
            return found
        parts = [part[name] for name, share in self.layers.items() for part in ((units, firing) if share else (units,))]
        numbers = torch.cat(parts, 1).to(self.weights.dtype) - self.mean
        if self.order is not None:  # not by index_add, which ONNX does not take with batches of any size
            numbers = (
                (numbers.index_select(1, self.order.flatten()) * self.factors.flatten()).unflatten(1, self.order.shape).sum(2)
            )
        return found + numbers @ self.weights


class PaperHead(nn.Module):
    """The paper's head: an auxiliary net on the model's probabilities and the second opinion of the firing pattern.

    Args:
        probability: Firing probability by layer, [classes, units].
        thresholds: Above what their units fire.
        net: The auxiliary net.
        scaled: Whether the second opinion sums to one.
    """

    def __init__(self, probability: Mapping[str, Tensor], thresholds: Mapping[str, float], net: Auxiliary, scaled: bool):
        super().__init__()
        self.names, self.thresholds, self.net, self.scaled = list(probability), dict(thresholds), net, scaled
        self.shares: list[str] = []  # what fires follows from the units
        self.probability: Tensor
        self.register_buffer("probability", torch.cat([probability[name] for name in self.names], 1).float())

    def forward(self, scores: Tensor, units: Mapping[str, Tensor], _firing: Mapping[str, Tensor]) -> Tensor:
        """The auxiliary net's class scores [samples, classes]."""
        return self.net(self.inputs(scores, units))

    def inputs(self, scores: Tensor, units: Mapping[str, Tensor]) -> Tensor:
        """What the auxiliary net reads, [samples, 2 classes]."""
        fires = torch.cat([(units[name] > self.thresholds[name]).float() for name in self.names], 1)
        predicted = scores.float().softmax(1)
        return torch.cat([predicted, proposed(self.probability, fires, predicted, self.scaled)], 1)


class Boosted(nn.Module):
    """A frozen model and a head on its hidden layers, as one module that gives class scores.

    The model's own parameters are as they were, and neither they nor the head have gradients. It can be saved
    (:meth:`save`, :func:`load_boosted`), exported with ``torch.export`` and ``torch.onnx``, and takes batches of any size.

    Args:
        model: The model, which is not copied.
        head: What becomes of its scores and hidden units.
        plan: How the hidden units are found: the layers' arrangement, thresholds, pooling and the form of the output.
        record: What :func:`cofire.boost` found: rows of the table, of the classes and of the reliability, and words.
    """

    def __init__(self, model: nn.Module, head: Rereading | PaperHead, plan: dict[str, Any], record: dict[str, Any]):
        super().__init__()
        self.model, self.head, self.plan, self.record = unwrap(model), head, plan, record
        self.training = False

    def forward(self, *inputs: Any, **named: Any) -> Tensor:
        """Class scores [samples, classes] of the model's inputs, by position or by name; a mapping is taken as names."""
        if inputs and named:
            raise InputError(
                "inputs must all be given by position or all by name", f"found {len(inputs)} and {', '.join(map(repr, named))}"
            )
        given = named or (inputs[0] if len(inputs) == 1 else inputs)
        samples, mask = samples_in(given), given.get("attention_mask") if isinstance(given, Mapping) else None
        if samples is None:
            raise InputError("inputs must hold a tensor", f"found {type(given).__name__}")
        thresholds = {name: self.plan["layers"][name]["threshold"] for name in self.head.names}
        sight = Sight(thresholds, self.plan["pool"], mask, self.head.shares)
        with torch.no_grad():
            output = self._run(given, samples, mask, sight)
            return self.head(scores_in(output, self.plan["form"]), *sight.all())

    def _run(self, given: Any, samples: int, mask: Tensor | None, sight: Sight) -> Any:
        """The model's output; its hidden layers go to the sight."""
        known = _known(self.plan, self.head.names)
        held = [self.plan["layers"][name] for name in self.head.names]
        named = [name for name, layer in zip(self.head.names, held, strict=True) if layer["kind"] == "module"]
        modules = {clean_name(path): module for path, module in self.model.named_modules() if path}
        paths = {name.partition("#")[0] for name in self.head.names}
        # A functional call is no module's output, and the output of a recurrent or a named one may be more than a tensor.
        if named or any(layer["layout"] == "recurrent" for layer in held) or not paths <= modules.keys():
            taps = Taps(self.model, named or (lambda _info: False), self.plan["pool"])  # what is read is known already
            taps.known, taps.edit, taps.products = known, sight.see, set(self.plan["products"])
            with taps:
                return taps.forward(given, samples, lambda *_: None, mask)
        calls: dict[str, int] = {}
        with evaluating(self.model), ExitStack() as hooks:
            for path in paths:

                def leave(_module, _inputs, output, path=path):
                    calls[path] = calls.get(path, 0) + 1
                    info = known.get(path if calls[path] == 1 else f"{path}#{calls[path]}")
                    if info is not None:
                        sight.see(info, output)

                hooks.callback(modules[path].register_forward_hook(leave).remove)
            return called(self.model, given)

    def train(self, mode: bool = True) -> "Boosted":  # noqa: ARG002 (nn.Module's)
        """Nothing, whatever the mode: the model is frozen, and runs in eval mode."""
        return self

    @property
    def words(self) -> list[str]:
        """Whether there is a gain, and where it comes from, in sentences."""
        return list(self.record["words"])

    @property
    def gained(self) -> bool:
        """Whether the hidden layers are read; else this is the model, or the model with another temperature."""
        return bool(self.head.names)

    def summary(self) -> "pandas.DataFrame":
        """The boost beside its controls, a row each: accuracy, log-loss, calibration, and gains with their intervals."""
        import pandas

        return pandas.DataFrame(self.record["rows"])

    def by_class(self) -> "pandas.DataFrame":
        """Accuracy of every class without and with the boost, a row per class."""
        import pandas

        return pandas.DataFrame(self.record["classes"])

    def reliability(self) -> "pandas.DataFrame":
        """How sure the predictions are, and how often right: a row per bin of the largest probability, without and with."""
        import pandas

        return pandas.DataFrame(self.record["reliability"])

    def __repr__(self) -> str:
        head = self.head
        if isinstance(head, Rereading) and not head.names:
            return f"Boosted({type(self.model).__name__}, scores times {float(head.factor):.3g})"
        return f"Boosted({type(self.model).__name__}, reads {', '.join(head.names)} again)"

    def save(self, path: str | Path) -> None:
        """Write the head and what is known of it to one safetensors file; the model's weights are not in it.

        Raises:
            FileError: The folder does not exist or is not writable, or the disk is full.
        """
        head = self.head
        kind = {"kind": "rereading", "shares": head.shares}
        if isinstance(head, PaperHead):
            kind = {"kind": "paper", "thresholds": head.thresholds, "scaled": head.scaled}
        header = {"digest": digest(self.model), "head": {"names": head.names, **kind}, "plan": self.plan, "record": self.record}
        storage.write(path, dict(head.state_dict()), {"boosted": header})


def load_boosted(model: nn.Module, path: str | Path) -> Boosted:
    """A boosted model from its file and the model that it was made of.

    Args:
        model: The same model, with the same weights; it is not copied.
        path: What :meth:`Boosted.save` wrote.

    Raises:
        FileError: No such file, truncated, or no boosted model.
        InputError: The head was fitted to other weights.
    """
    tensors, header = storage.read(path, "a boosted model", "Boosted.save(path)")
    if "boosted" not in header:
        raise FileError("wanted a boosted model", f"{str(path)!r} holds something else of cofire", "Boosted.save writes one.")
    header = header["boosted"]
    if header["digest"] != digest(model):
        raise InputError(
            "a boosted model needs the weights that it was fitted to",
            f"they have digest {header['digest']}, the model has {digest(model)}",
        )  # fmt: skip
    try:
        head = _head_of(tensors, header)
    except (KeyError, ValueError, RuntimeError) as error:
        raise FileError("wanted a complete boosted model", f"{str(path)!r} lacks {error}", "Boost the model again.") from error
    return Boosted(model, head.to(device_of(model)), header["plan"], header["record"])


def _head_of(tensors: dict[str, Tensor], header: dict[str, Any]) -> Rereading | PaperHead:
    said = header["head"]
    if said["kind"] == "paper":
        wide = tensors["probability"]
        sizes = {name: header["plan"]["layers"][name]["units"] for name in said["names"]}
        parts = dict(zip(sizes, wide.split(list(sizes.values()), 1), strict=True))
        head: Rereading | PaperHead = PaperHead(parts, said["thresholds"], Auxiliary(len(wide)), said["scaled"])
    else:
        layers = {name: name in said["shares"] for name in said["names"]}
        read = {name: tensors[name] for name in ("weights", "mean") if layers}
        summed = {name: tensors[name] for name in ("order", "factors") if name in tensors}
        head = Rereading(1.0, tensors["intercept"], layers, **read, **summed)
    head.load_state_dict(tensors)
    return head.requires_grad_(False)


def plan_of(taps: Taps, thresholds: Mapping[str, float], form: str) -> dict[str, Any]:
    """What :class:`Boosted` needs to find the hidden units, as plain values.

    Args:
        taps: Taps that have seen a forward pass.
        thresholds: Above what units fire, by layer.
        form: What the model's output holds.
    """
    layers = {
        info.name: {
            "kind": info.kind, "layout": info.layout, "axis": info.arrangement.sample_axis, "shape": list(info.shape),
            "units": info.units, "threshold": float(thresholds[info.name]),
        }
        for info in taps.layers
    }  # fmt: skip
    others = [name for name in taps.known if name not in layers]
    return {"layers": layers, "others": others, "products": sorted(taps.products), "pool": taps.pool, "form": form}


def _known(plan: dict[str, Any], names: list[str]) -> dict[str, LayerInfo | None]:
    """Every call of the model that was judged: so nothing is left to judge, which needs tensors with values."""
    known: dict[str, LayerInfo | None] = dict.fromkeys([*plan["others"], *plan["layers"]])
    for name in names:
        held = plan["layers"][name]
        known[name] = LayerInfo(name, held["kind"], Arrangement(held["layout"], held["axis"], tuple(held["shape"])))
    return known
