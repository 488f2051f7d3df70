"""A frozen classifier made better, where there is something to gain, from what its hidden layers hold."""

import copy
import itertools
import math
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cofire.batches import check_readable_again, count_in
from cofire.boosted import Boosted, PaperHead, Rereading, plan_of
from cofire.controls import AS_THEY_ARE, Method, inputs_of, keep, paper_head, predictions_only, probes, trained_on
from cofire.descents import Descent
from cofire.errors import CofireError, CofireWarning, InputError, checked_count, checked_seed
from cofire.gains import FEWEST, are_gains, class_rows, reliability_rows, rows_of, words_of
from cofire.hidden import columns_of, usual_features
from cofire.keeping import Rows
from cofire.readings import Reader
from cofire.residuals import added
from cofire.stacking import Stack, cross_fitted, stacked
from cofire.stats import FiringStats, check_kind
from cofire.wrappers import unwrap

__all__ = ["boost"]


def boost(
    model: nn.Module, batches: Iterable, stats: FiringStats, validation: Iterable | None = None, method: str = "auto", *,
    layers: int | str | Sequence[str] | None = None, test: Iterable | None = None, controls: bool = True,
    features: int | None = None, scaled: bool = True, rate: float = 1e-4, seed: int = 0, device=None, progress: bool = True,
) -> Boosted:  # fmt: skip
    r"""A frozen model with a head that reads its hidden layers again, beside the controls that say what the head is worth.

    ``method="auto"`` adds a linear function of all hidden units to the class scores. It comes in closed form from sums over
    ``batches``, and ``validation`` says how much of it is added:

    .. math:: a\,z + b\,x W + c, \qquad W = (H/n + \lambda D)^{-1} G / n .

    It is accepted only where, on held-out samples of which each is judged by ridge, steps, a and b fitted without it, it lowers
    the log-loss below that of a fitted temperature with a 95 % interval above 0, and no accuracy is lost. Else the model comes
    back, with a temperature if that lowers the log-loss in the same sense. Fewer than fifty different held-out samples, and
    those that lack classes which a random choice would have, confirm nothing. ``method="paper"`` is the auxiliary net of the
    paper, and always accepted.

    Data whose hidden units fit into 512 MB are read once for the fit; others once more for each step, with the same result.
    Few samples are always read once.

    Source:
        "paper": paper 000, section 5.2 and equation 16. "auto": ours; see :mod:`cofire.correctors` and :mod:`cofire.steps`.

    Args:
        model: The frozen classifier.
        batches: Labelled data to fit on: best some that the model was not trained on; its training data work for "auto" too.
        stats: Firing statistics of the model on training data.
        validation: Labelled data that neither the model nor ``batches`` saw. Samples that come more than once count once.
        method: "auto" or "paper".
        layers: The hidden layers to read: names, globs, or how many of the last; by default all ("auto") or the last ("paper",
            whose controls read all).
        test: Labelled data on which everything is measured as well; nothing is chosen on them.
        controls: Also fit and measure the controls. They take more time than the boost.
        features: Fit at most so many numbers per sample; by default 2,048, or 8,192 where ``batches`` are a list or a loader of
            fewer than twice as many samples as these, and as units. Samples are held in memory where they are fewer than the
            numbers, or than twice as many if the numbers are more than 2,048; else the fit takes about a dozen times the
            square of the numbers in memory, in float32. Where units and shares of firing positions are more, the shares are
            left out, and where the units are more, they are hashed: each has a random sign, and goes into a random one of so
            many sums.
        scaled: Scale the paper's second opinion to sum one.
        rate: Learning rate of the control that trains the model itself for one more epoch: a tenth of the one it had.
        seed: Of everything that is drawn.
        device: Where to run; by default where the model is.
        progress: Show progress bars on a terminal.

    Returns:
        A module that gives class scores; :meth:`Boosted.summary` has the table, ``words`` the sentences.

    Raises:
        InputError: Another method, no held-out data, a class without samples, statistics of another model, data that are others
            or in another order when they are read again (``batches`` may be in another order).

    >>> import cofire
    >>> digits = cofire.data.load("digits", limit=600)
    >>> parts = list(digits.batches(batch_size=200))
    >>> net = cofire.zoo.model("fcnn:64-16-10", seed=0)
    >>> stats = cofire.record(net, parts[:2])
    >>> better = boost(net, parts[:2], stats, validation=parts[2:], controls=False)
    >>> better.summary().method.tolist()
    ['model', 'boosted', 'temperature']
    """
    if method not in ("auto", "paper"):
        raise InputError('method must be "auto" or "paper"', f"found {method!r}")
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 < rate < math.inf:
        raise InputError("rate must be above 0", f"found {rate!r}")
    seed = checked_seed(seed)
    check_kind(stats)
    features = None if features is None else checked_count(features, "features")
    if validation is None:
        raise InputError("a boost needs validation=", "found none", "Pass labelled batches that the model was not trained on.")
    for name, given in (("batches", batches), ("validation", validation), ("test", test)):
        if given is not None or name != "test":
            check_readable_again(given, name)
    if controls and torch.is_inference_mode_enabled():
        raise InputError("controls are fitted by gradients", "found torch.inference_mode", "Leave it, or pass controls=False.")
    copied, why = _copied(model) if controls else (None, "")  # before hooks are on it
    asked = _chosen(stats, layers, 1 if method == "paper" else len(stats))
    read = list(stats) if method == "paper" and controls else asked
    features = features or usual_features(count_in(batches), sum(stats[name].units for name in read))
    with Reader(model, stats, read, device) as reader:
        fitting = _Fitting(reader, batches, validation, features, seed, progress)
        fitting.descent.run(random=controls)
        paper, methods = None, {}
        if controls or method == "paper":
            names = asked if method == "paper" else asked[-1:]
            paper, methods = fitting.controls(names, scaled, every=controls)
            if copied is not None:
                methods |= fitting.trained(copied, rate)
            elif why:
                fitting.notes.append(f"The model cannot be copied ({why}): the control of another epoch is left out.")
        held, tested = fitting.compared(methods, test)
        plan = plan_of(reader.taps, {name: stats[name].threshold for name in reader.names}, reader.form)
    for said in fitting.repeats:
        warnings.warn(said, CofireWarning, stacklevel=2)
    enough = len(fitting.validation.fingerprints) >= FEWEST
    if not enough:
        fitting.notes.append(f"Fewer than {FEWEST} different held-out samples confirm nothing.")
    scores, stacks = _fitted(held, fitting.descent.paths.scores(), seed)
    believed = enough and not fitting.descent.lopsided
    decision = "paper" if method == "paper" else _decided(scores, held.labels) if believed else "model"
    table, label = rows_of(_named(scores, decision), held.labels, "held-out"), held.labels
    if tested is not None:
        scores = {name: stack(tested.own, tested.others.get(name, ())) for name, stack in stacks.items()}
        label = tested.labels
        table += rows_of(_named(scores, decision), label, "test")
    split = table[-1]["split"]
    record = {
        "method": method, "decision": decision, "rows": table,
        "classes": class_rows(scores["model"], scores[decision], label, stats.class_names, split),
        "reliability": reliability_rows(scores["model"], scores[decision], label, split),
        "words": words_of(table, decision, fitting.notes),
    }  # fmt: skip
    head = paper if paper is not None and decision == "paper" else fitting.head(stacks[decision], hidden=decision == "auto")
    return Boosted(model, head.requires_grad_(False).to(reader.device), plan, record)


@dataclass
class _Measured:
    """Class scores of a data set: the model's, and candidates by method."""

    own: Tensor
    labels: Tensor
    others: dict[str, list[Tensor]]

    def at(self, places: Tensor) -> "_Measured":
        """Of some of the samples."""
        others = {name: [scores[places] for scores in found] for name, found in self.others.items()}
        return _Measured(self.own[places], self.labels[places], others)


class _Fitting:
    """One call of :func:`boost`: the passes over the data, and what they leave."""

    def __init__(self, reader: Reader, batches: Iterable, validation: Iterable, features: int, seed: int, progress: bool):
        self.reader, self.stats, self.seed, self.progress = reader, reader.stats, seed, progress
        self.columns = columns_of(reader.stats, reader.names, features, seed)
        reader.shares = self.columns.shares
        self.batches = self.rows_of(batches, "batches")
        self.batches.fixed = False  # a fit needs no order again
        self.validation = self.rows_of(validation, "validation")
        self.descent = Descent(self.batches, self.validation, reader.stats, seed, reader.device)
        self.notes = self.descent.notes
        self.repeats: list[str] = []
        """What is to be said of samples that are in several of the data sets, or in one more than once."""
        if self.columns.width < self.columns.numbers:
            self.notes.append(f"Its {self.columns.numbers:,} hidden units are hashed into {self.columns.width:,} numbers.")

    def rows_of(self, data: Iterable, what: str) -> Rows:
        """The numbers of a data set."""
        return Rows(self.reader, data, self.columns, what, self.progress)

    def controls(self, names: list[str], scaled: bool, every: bool) -> tuple[PaperHead, dict[str, Method]]:
        """The paper's head of some layers, and what stands beside the boost: it alone, or every control but another epoch."""
        reader, last = self.reader, self.reader.names[-1]
        batches, numbers = self.batches.batches, lambda reading: self.columns.plain(reading.units, reading.firing)
        parts = {"scores": lambda reading: reading.logits, "labels": lambda reading: reading.labels}
        parts |= {f"units of {name}": lambda reading, name=name: reading.units[name] for name in {*names, last}}
        if every:
            parts |= {"numbers": numbers, "inputs": inputs_of}
        kept, share = keep(reader, batches, parts, self.descent.samples, self.seed, self.progress)
        if share < 1:
            self.notes.append(f"The controls by gradients were fitted to {share:.0%} of the samples, which fit into memory.")
        if every and "inputs" not in kept:
            self.notes.append("Batches hold inputs of different sizes: the control of the inputs is left out.")
        paper = paper_head(kept, self.stats, names, scaled, self.seed)
        methods: dict[str, Method] = {"paper": lambda reading: [paper(reading.logits, reading.units, reading.firing)]}
        if every:
            mixed = paper_head(kept, self.stats, names, scaled, self.seed, mixed=True)
            methods["paper: predictions only"] = predictions_only(kept, self.stats.classes, self.seed)
            methods["paper: permuted units"] = lambda reading: [mixed(reading.logits, reading.units, reading.firing)]
            methods |= probes(kept, self.columns, last)
            methods["random labels"] = lambda reading: added(self.columns.of(reading.units, reading.firing), self.descent.noise)
        return paper, methods

    def trained(self, copied: nn.Module, rate: float) -> dict[str, Method]:
        """The control that is a copy of the model after one more epoch, where it can be trained."""
        reader = self.reader
        try:
            found = trained_on(copied, self.batches.batches, self.stats.classes, reader.device, reader.form, rate, self.seed)
        except CofireError:
            raise
        except Exception as error:  # of the model: no parameters, no gradient, a batch of one to normalise, and so on
            said = f"The model cannot be trained for another epoch ({_line(error)}): that control is left out."
            self.notes.append(said)
            return {}
        if all(bool(weights.isfinite().all()) for weights in copied.parameters()):
            return {"one more epoch": found}
        self.notes.append("Another epoch of training leaves weights that are not finite: that control is left out.")
        return {}  # as in float16

    def compared(self, methods: dict[str, Method], test: Iterable | None) -> tuple["_Measured", "_Measured | None"]:
        """Class scores of every method over held-out and, where there are any, test data; repeated samples are noted."""
        held, tested = self.measured(self.validation, methods, self.descent.weights).at(self.validation.first), None
        seen = [("validation", self.validation, "batches", self.batches)]
        if test is not None:
            unseen = self.rows_of(test, "test")
            tested = self.measured(unseen, methods, self.descent.weights)
            seen += [("test", unseen, "batches", self.batches), ("test", unseen, "validation", self.validation)]
        for name, mine, other, theirs in seen:
            if both := len(mine.fingerprints & theirs.fingerprints):
                self.repeats.append(f"{both:,} samples of {name} are in {other} too: gains look larger than they are")
        if again := len(self.validation.order) - len(held.labels):
            self.repeats.append(f"{again:,} samples of validation are there already: each counts once")
        return held, tested

    def head(self, stack: Stack, hidden: bool) -> Rereading:
        """What gives the scores that held-out samples chose: of the hidden units, or of the model's scores alone."""
        if hidden:
            return Rereading.of(stack, self.columns, self.descent.weights[stack.place], self.descent.own.dtype)
        return Rereading(stack.own, torch.zeros(self.stats.classes, dtype=self.descent.own.dtype))

    def measured(self, data: Rows, methods: dict[str, Method], weights: Tensor) -> _Measured:
        """Class scores of every method and correction over a data set; without methods the model need not read it again."""
        own, labels = [], []
        others: dict[str, list[list[Tensor]]] = {name: [] for name in ("auto", *methods)}
        for reading, (row, scores, true) in data.read() if methods else zip(itertools.repeat(None), data):
            own.append(scores)
            labels.append(true)
            others["auto"].append(added(row, weights))
            if reading is not None:
                for name, method in methods.items():
                    others[name].append(method(reading))
        joined = {name: [torch.cat(parts) for parts in zip(*found, strict=True)] for name, found in others.items()}
        return _Measured(torch.cat(own), torch.cat(labels), joined)


def _fitted(held: _Measured, judged: Tensor, seed: int) -> tuple[dict[str, Tensor], dict[str, Stack]]:
    """Held-out scores of every method from fits without the sample's fold ("auto": as judged), and the fits to all of them."""
    nothing = torch.zeros(held.own.shape[1], dtype=torch.float64)
    scores: dict[str, Tensor] = {"model": held.own.double(), "temperature": cross_fitted(held.own, held.labels, seed=seed)}
    stacks = {"model": Stack(1.0, 0.0, nothing), "temperature": stacked(held.own, held.labels)}
    for name, others in held.others.items():
        if name in AS_THEY_ARE:
            scores[name], stacks[name] = others[0].double(), Stack(0.0, 1.0, nothing)
        else:
            scores[name] = judged if name == "auto" else cross_fitted(held.own, held.labels, others, seed=seed)
            stacks[name] = stacked(held.own, held.labels, others)
    return scores, stacks


def _decided(scores: dict[str, Tensor], labels: Tensor) -> str:
    """What is given back: the corrected scores only where they beat a temperature, a temperature only where it beats none."""
    model, calm, auto = scores["model"], scores["temperature"], scores["auto"]
    calmer, better, best = are_gains([(model, calm), (model, auto), (calm, auto)], labels)
    return "auto" if better and best else "temperature" if calmer else "model"


def _named(scores: dict[str, Tensor], decision: str) -> dict[str, Tensor]:
    """The rows of the table in their order; the boost stands second."""
    first = {"model": scores["model"], "boosted": scores[decision], "temperature": scores["temperature"]}
    others = {name: value for name, value in scores.items() if name not in first and name != decision}
    if "auto" in others:
        others["closed form" if decision == "paper" else "hidden layers, not taken"] = others.pop("auto")
    return first | others


def _copied(model: nn.Module) -> tuple[nn.Module | None, str]:
    """A copy of the model, or why there is none."""
    found = unwrap(model)
    try:
        return copy.deepcopy(found), ""
    except Exception as error:  # as of modules that hold an output
        return None, _line(error)


def _line(error: Exception) -> str:
    return str(error).partition("\n")[0].rstrip(".") or type(error).__name__


def _chosen(stats: FiringStats, layers: int | str | Sequence[str] | None, default: int) -> list[str]:
    if isinstance(layers, bool | float) or (isinstance(layers, int) and not 1 <= layers <= len(stats)):
        raise InputError(f"layers as a number is how many of the last, 1 to {len(stats)}", f"found {layers!r}")
    return list(stats)[-(layers or default) :] if layers is None or isinstance(layers, int) else stats.named(layers)
