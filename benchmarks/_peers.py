"""Other tools on the job that comes closest, each through its own documented way of doing it fast."""

import contextlib
import copy
import io
import tempfile
import warnings

import torch
from _timing import Job
from _ways import JOB, Contender, Matrices, channels, numpy_job
from _workloads import Workload
from torch import Tensor, nn

__all__ = ["peers"]


def _sites(workload: Workload) -> tuple[list[nn.Module], bool]:
    """The modules whose output (or, where the second value is true, whose input) are the hidden activations.

    A torchvision ResNet calls one ReLU module twice per block, and tools that read modules see one of the two calls.
    All of them can be read at what they feed: the second convolution, the next block, the pooling.
    """
    model = workload.model
    if not hasattr(model, "layer1"):
        return [module for module in model.modules() if isinstance(module, nn.ReLU)], False
    blocks = [block for part in (model.layer1, model.layer2, model.layer3, model.layer4) for block in part]
    fed = [module for block in blocks for module in (block, block.conv2)]
    return [*fed, model.avgpool], True


def _captum(workload: Workload) -> Job:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from captum.attr import LayerActivation

    modules, inputs_of = _sites(workload)
    reader = LayerActivation(workload.model, modules)

    def read() -> list[Tensor]:
        found = Matrices(workload)
        with torch.no_grad():
            for inputs, _ in workload.batches:
                for values in reader.attribute(inputs, attribute_to_layer_input=inputs_of):
                    found.add(values)
                found.next_batch()
        return found.layers

    return numpy_job(workload, read)


def _nnsight(workload: Workload) -> Job:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import nnsight
        from nnsight import NNsight

    traced = NNsight(workload.model)
    modules, inputs_of = _sites(workload)
    names = {module: name for name, module in workload.model.named_modules()}
    envoys = [traced.get(names[module]) for module in modules]

    def read() -> list[Tensor]:
        found = Matrices(workload)
        with torch.no_grad():
            for inputs, _ in workload.batches:
                with traced.trace(inputs):
                    values = nnsight.save([channels(e.input if inputs_of else e.output) for e in envoys])
                for units in values:
                    found.add(units)
                found.next_batch()
        return found.layers

    return numpy_job(workload, read)


def _torchlens(workload: Workload) -> Job:
    import torchlens
    from torchlens.fastlog import Recorder

    # The sparse recorder is what its own pages recommend for many batches; it sees functions as well as modules.
    def read() -> list[Tensor]:
        options = {"activation_transform": channels, "save_raw_activations": False}
        with torch.no_grad(), Recorder(workload.model, save=torchlens.func("relu"), **options) as recorder:
            for inputs, _ in workload.batches:
                recorder.log(inputs)
        recording = recorder.recording
        found = [[recording.records[i].transformed_ram_payload for i in places] for places in recording.by_pass.values()]
        return [torch.cat(layer) for layer in zip(*found, strict=True)]

    return numpy_job(workload, read)


def _delve(workload: Workload) -> Job:
    from delve import SaturationTracker

    model = copy.deepcopy(workload.model)  # its hooks cannot be taken off
    folder = tempfile.TemporaryDirectory()
    last = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]

    def hidden(layers: dict) -> dict:
        return {name: module for name, module in layers.items() if module is not last}

    with contextlib.redirect_stdout(io.StringIO()):
        tracker = SaturationTracker(
            folder.name, save_to="csv", modules=model, layer_filter=hidden, stats=["lsat"], conv_method="mean", device="cpu"
        )

    @torch.no_grad()
    def run():
        for inputs, _ in workload.batches:
            model(inputs)
        tracker.add_saturations(save=False)
        return tracker, folder

    return Job(run)


def _nac(workload: Workload) -> Job:
    from pytorch_ood.detector import NACUE

    modules, _ = _sites(workload)

    def run():
        return NACUE(workload.model, modules, m_bins=50).fit(workload.batches)  # type: ignore[arg-type]

    return Job(run)


def peers() -> list[Contender]:
    """The rows of the peers."""
    same = f"{JOB}: it reads the activations, NumPy does the rest"
    return [
        Contender("captum", "Captum LayerActivation, then NumPy", same, _captum, "captum"),
        Contender("nnsight", "nnsight trace, then NumPy", same, _nnsight, "nnsight"),
        Contender(
            "torchlens", "TorchLens sparse recorder, then NumPy", same, _torchlens, "torchlens", shares={"mlp": 0.25}
        ),
        Contender(
            "delve", "delve SaturationTracker",
            "float64 covariance and saturation of the values before each ReLU; no classes, no histograms",
            _delve, "delve", only=("mlp", "vgg16", "digits*"),
        ),
        Contender(
            "nac", "pytorch-ood NACUE.fit",
            "histograms of activation times gradient in 50 bins, for which it goes backwards; no classes, no moments",
            _nac, "pytorch-ood", only=("mlp", "vgg16", "digits*"),
        ),
    ]  # fmt: skip
