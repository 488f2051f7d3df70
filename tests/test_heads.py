"""Attention heads as units: what their removal costs, smaller attention that gives what it should, refusals with a reason."""

import subprocess
import sys

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import cofire
from cofire.attention import head_count, head_sizes
from cofire.batches import as_batch
from cofire.cli import app
from cofire.errors import CofireWarning, InputError, LayerError, ModelError
from cofire.heads import heads_of
from cofire.orders import eliminate, eliminate_blocks
from cofire.plans import Plan
from cofire.pruning import accuracy_of
from cofire.weights import save_weights

pytest.importorskip("torch_pruning")
timm = pytest.importorskip("timm")

SHAPE = {"embed_dim": 24, "depth": 2, "num_heads": 4, "num_classes": 4, "mlp_ratio": 2}
MAKE_VIT = f"timm.models.VisionTransformer(img_size=16, patch_size=8, **{SHAPE})"


def random_generator(seed=0):
    return torch.Generator().manual_seed(seed)


def sharp(net):
    """The net with weights large enough for its heads to differ."""
    with torch.no_grad():
        for name, values in net.named_parameters():
            values.copy_(torch.randn(values.shape, generator=random_generator(len(name))) * (0.3 if values.ndim > 1 else 0.1))
            if "norm" in name.lower() and name.endswith("weight"):
                values.add_(1)
    return net.eval()


def vit(**options):
    return sharp(timm.models.VisionTransformer(img_size=16, patch_size=8, **(SHAPE | options)))


def pictures(count=24, size=16):
    return torch.randn(count, 3, size, size, generator=random_generator()), torch.arange(count) % 4


def texts(count=24):
    generator = random_generator()
    mask = (torch.arange(7) < torch.randint(3, 8, (count, 1), generator=generator)).long()
    words = torch.randint(30, (count, 7), generator=generator)
    return {"input_ids": words, "attention_mask": mask, "labels": torch.arange(count) % 4}


def inputs_of(batch):
    return {name: values for name, values in batch.items() if name != "labels"} if isinstance(batch, dict) else batch[0]


def scores(net, batch):
    with torch.no_grad():
        output = net(**inputs_of(batch)) if isinstance(batch, dict) else net(batch[0])
    return getattr(output, "logits", output)


def recorded(net, batch):
    return cofire.record(net, [batch], progress=False, covariance=True)


def without(net, batch, gone, width):
    """What a model gives with the columns of projections that read some heads at zero: gone is heads by projection."""

    def silence(heads):
        def hook(_module, inputs):
            values = inputs[0].clone()
            for head in heads:
                values[..., head * width : (head + 1) * width] = 0
            return (values,)

        return hook

    handles = [net.get_submodule(name).register_forward_pre_hook(silence(heads)) for name, heads in gone.items()]
    try:
        return scores(net, batch)
    finally:
        for handle in handles:
            handle.remove()


def hugging_face(name):
    transformers = pytest.importorskip("transformers")
    if name == "vit":
        config = transformers.ViTConfig(
            image_size=16, patch_size=8, hidden_size=24, num_hidden_layers=2, num_attention_heads=4, intermediate_size=32,
            num_labels=4,
        )  # fmt: skip
        return sharp(transformers.ViTForImageClassification(config)), pictures(), "vit.layers.{}.attention", "{}.o_proj"
    if name == "distilbert":
        config = transformers.DistilBertConfig(vocab_size=30, dim=24, n_layers=2, n_heads=4, hidden_dim=32, num_labels=4)
        net = transformers.DistilBertForSequenceClassification(config)
        return sharp(net), texts(), "distilbert.transformer.layer.{}.attention", "{}.out_lin"
    config = transformers.BertConfig(
        vocab_size=30, hidden_size=24, num_hidden_layers=2, num_attention_heads=4, intermediate_size=32, num_labels=4
    )
    net = sharp(transformers.BertForSequenceClassification(config))
    return net, texts(), "bert.encoder.layer.{}.attention.self", "bert.encoder.layer.{}.attention.output.dense"


def family(name):
    """A model, a batch, its attention modules and the projections that read their heads."""
    if name == "timm":
        net, batch, attention, reader = vit(), pictures(), "blocks.{}.attn", "{}.proj"
    else:
        net, batch, attention, reader = hugging_face(name)
    modules = [attention.format(layer) for layer in range(2)]
    return net, batch, modules, [reader.format(layer if name == "bert" else modules[layer]) for layer in range(2)]


FAMILIES = ("timm", "vit", "bert", "distilbert")


# ---------------------------------------------------------------- the loss of a block, in closed form


def residual(x, weights, kept, width):
    """Share of the variance of W x that a linear map of the kept blocks' columns cannot give, by least squares."""
    target = x @ weights.T
    target = target - target.mean(0)
    columns = [head * width + place for head in kept for place in range(width)]
    design = torch.cat([x[:, columns], torch.ones(len(x), 1, dtype=x.dtype)], 1)
    left = target - design @ torch.linalg.lstsq(design, target).solution
    return float(left.square().sum() / target.square().sum())


def test_the_cost_of_a_block_is_what_direct_least_squares_loses():
    generator, width = random_generator(), 3
    x = torch.randn(300, 12, generator=generator).double() @ torch.randn(12, 12, generator=generator).double() + 2
    weights = torch.randn(5, 12, generator=generator).double()
    spread = torch.cov(x.T, correction=0)
    order, costs = eliminate_blocks(weights, spread, width, ridge=0.0)
    kept = list(range(4))
    for block, cost in zip(order.tolist(), costs.tolist(), strict=True):
        before = residual(x, weights, kept, width)
        rises = {one: residual(x, weights, [other for other in kept if other != one], width) - before for one in kept}
        assert cost == pytest.approx(rises[block], rel=1e-6)
        assert rises[block] == min(rises.values())
        kept.remove(block)
    assert float(costs.sum()) == pytest.approx(1.0)
    given, again = eliminate_blocks(weights, spread, width, order=order.flip(0), ridge=0.0)
    assert torch.equal(given, order.flip(0))
    assert float(again.sum()) == pytest.approx(1.0)


def test_blocks_of_one_column_cost_what_units_cost():
    x = torch.randn(60, 7, generator=random_generator()).double()
    weights, spread = torch.randn(4, 7, generator=random_generator(1)).double(), torch.cov(x.T)
    for found, expected in zip(eliminate_blocks(weights, spread, 1), eliminate([(weights, spread)]), strict=True):
        assert torch.allclose(found, expected)


def test_constant_columns_cost_nothing():
    order, costs = eliminate_blocks(torch.ones(2, 6), torch.zeros(6, 6), 2)
    assert sorted(order.tolist()) == [0, 1, 2]
    assert not bool(costs.isnan().any())


# ---------------------------------------------------------------- without compensation


@pytest.mark.parametrize("name", FAMILIES)
def test_a_model_without_heads_gives_what_it_gives_with_their_columns_at_zero(name, tmp_path):
    net, batch, modules, readers = family(name)
    before = cofire.zoo.digest(net)
    given = {modules[0]: torch.tensor([3.0, 0.0, 2.0, 1.0]), modules[1]: torch.tensor([0.0, 1.0, 2.0, 3.0])}
    keep = {modules[0]: 2, modules[1]: 0.75}
    small = cofire.prune(
        net, inputs_of(batch), recorded(net, batch), given, keep, heads=True, batches=[batch], compensate=False
    )  # fmt: skip
    expected = without(net, batch, {readers[0]: [1, 3], readers[1]: [0]}, 6)
    assert float((scores(small, batch) - expected).abs().max()) < 1e-5
    assert float((scores(net, batch) - expected).abs().max()) > 1e-2
    assert [head_count(small.get_submodule(path)) for path in modules] == [2, 3]
    assert [head_count(net.get_submodule(path)) for path in modules] == [4, 4]
    assert [small.get_submodule(path).in_features for path in readers] == [12, 18]
    assert head_sizes(small) == {modules[0]: (2, 12), modules[1]: (3, 18)}
    assert cofire.zoo.digest(net) == before
    assert type(small) is type(net)
    found, left = cofire.cost(net, inputs_of(batch), repeats=1), cofire.cost(small, inputs_of(batch), repeats=1)
    columns = 2 * 6 + 6
    assert found.parameters - left.parameters == columns * (3 * (24 + 1) + 24)
    assert found.flops > left.flops
    save_weights(small, tmp_path / "small.safetensors")
    again = cofire.load_pruned(net, tmp_path / "small.safetensors")
    assert torch.equal(scores(again, batch), scores(small, batch))
    assert head_sizes(again) == head_sizes(small)


def test_attention_that_loses_no_head_says_what_it_said():
    net, batch = vit(), pictures()
    net.blocks[0].attn.num_attention_heads = 5  # of which the module does nothing
    stats = recorded(net, batch)
    small = cofire.prune(net, batch, stats, keep={"blocks.1.attn": 2}, heads=True, batches=[batch])
    assert (small.blocks[0].attn.num_heads, small.blocks[0].attn.num_attention_heads, small.blocks[0].attn.attn_dim) == (
        4,
        5,
        24,
    )
    assert (small.blocks[1].attn.num_heads, small.blocks[1].attn.attn_dim) == (2, 12)


def test_a_model_without_heads_is_the_same_in_a_fresh_process(tmp_path):
    net, batch = vit(), pictures()
    small = cofire.prune(net, batch, recorded(net, batch), keep=0.5, heads=True, batches=[batch])
    save_weights(small, tmp_path / "small.safetensors")
    torch.save(batch[0], tmp_path / "x.pt")
    script = (
        f"import cofire, timm, torch; net = cofire.load_pruned({MAKE_VIT}, 'small.safetensors').eval();"
        "torch.save([net(torch.load('x.pt')).detach(), [block.attn.num_heads for block in net.blocks]], 'y.pt')"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    found, heads = torch.load(tmp_path / "y.pt")
    assert torch.allclose(found, scores(small, batch), atol=1e-6)
    assert heads == [2, 2]
    assert [block.mlp.fc1.out_features for block in small.blocks] == [24, 24]


# ---------------------------------------------------------------- compensation


def copies():
    """A net in whose attention every second head is a copy of the one before it."""
    net = vit()
    with torch.no_grad():
        for block in net.blocks:
            for values in (block.attn.qkv.weight, block.attn.qkv.bias):
                heads = values.view(3, 4, 6, *values.shape[1:])
                heads[:, 1::2] = heads[:, ::2]
    return net


def test_copies_of_heads_all_go_without_a_trace():
    net, batch = copies(), pictures(60)
    stats, names = recorded(net, batch), ["blocks.0.attn", "blocks.1.attn"]
    made = {
        how: cofire.prune(net, batch, stats, keep=0.5, layers=names, heads=True, batches=[batch], compensate=how)
        for how in (True, False)
    }
    apart = {how: float((scores(small, batch) - scores(net, batch)).abs().max()) for how, small in made.items()}
    assert apart[True] < 0.02
    assert apart[False] > 0.5
    plan = Plan(net, batch, stats, names, [batch], heads=True)
    for order in plan.order("obs"):
        assert sorted(head // 2 for head in order[:2].tolist()) == [0, 1]


def test_the_projection_is_fitted_by_least_squares_over_all_tokens():
    net, batch = vit(), pictures(80)
    given = {"blocks.0.attn": torch.arange(4.0)}
    small = cofire.prune(net, batch, recorded(net, batch), given, {"blocks.0.attn": 2}, heads=True, batches=[batch])
    seen = []
    handle = net.blocks[0].attn.proj.register_forward_hook(lambda _module, inputs, output: seen.extend((inputs[0], output)))
    scores(net, batch)
    handle.remove()
    read, target = (values.flatten(0, 1).double() for values in seen)
    design = torch.cat([read[:, 12:], torch.ones(len(read), 1, dtype=torch.float64)], 1)
    best = float((design @ torch.linalg.lstsq(design, target).solution - target).square().sum())
    with torch.no_grad():
        error = float((small.blocks[0].attn.proj(seen[0][..., 12:]).flatten(0, 1) - target).square().sum())
    assert best < error < 1.001 * best


def test_tokens_that_do_not_count_are_left_out_of_the_covariance():
    net, batch, modules, _ = family("bert")
    spread = {}
    for fill in (1, 7):
        words = torch.where(batch["attention_mask"].bool(), batch["input_ids"], fill)
        made = batch | {"input_ids": words}
        spread[fill] = Plan(net, inputs_of(made), recorded(net, made), modules, [made], heads=True).spreads[modules[1]]
    assert torch.allclose(spread[1], spread[7], atol=1e-6)


def test_half_of_the_heads_of_a_trained_net_can_go():
    digits, test = cofire.data.load("digits"), list(cofire.data.load("digits", "test").batches(256))
    torch.manual_seed(0)
    net = timm.models.VisionTransformer(
        img_size=8, in_chans=1, patch_size=4, num_classes=10, embed_dim=32, depth=2, num_heads=4, mlp_ratio=2
    )
    cofire.fit(net, digits, epochs=10, lr=3e-3, batch_size=32, seed=0, progress=False)
    stats = cofire.record(net, digits.batches(), progress=False, covariance=True)
    plan = Plan(net, test[0], stats, ["blocks.0.attn", "blocks.1.attn"], list(digits.batches()), heads=True)
    found = {
        (by, how): accuracy_of(plan.smaller(plan.order(by), [2, 2], how), test, 10)
        for by in ("obs", "reconstruction", "weight_std", "random")
        for how in (True, False)
    }
    base = accuracy_of(net, test, 10)
    assert base > 0.9
    assert base - 0.1 < found["obs", True] <= base
    assert found["obs", True] > found["random", True]
    assert all(found[by, True] > found[by, False] for by in ("obs", "reconstruction", "random"))


# ---------------------------------------------------------------- how many, and which


def test_heads_stay_where_nobody_asks_for_them():
    net, batch = vit(), pictures()
    stats = recorded(net, batch)
    plain = cofire.prune(net, batch, stats, keep=0.5, batches=[batch])
    assert [block.attn.num_heads for block in plain.blocks] == [4, 4]
    some = cofire.prune(net, batch, stats, keep={"blocks.1.attn": 1}, heads=True, batches=[batch])
    assert [block.attn.num_heads for block in some.blocks] == [4, 1]
    assert torch.equal(some.blocks[1].mlp.fc1.weight, net.blocks[1].mlp.fc1.weight)
    with pytest.raises(LayerError, match=r"no layer named 'blocks.1.attn'"):
        cofire.prune(net, batch, stats, keep={"blocks.1.attn": 1}, batches=[batch])


def test_a_share_of_all_units_counts_the_features_of_heads():
    net, batch = copies(), pictures(60)
    stats = recorded(net, batch)
    plan = Plan(net, batch, stats, batches=[batch], heads=True)
    sizes = [group.units * group.width for group in plan.groups]
    assert sorted(sizes) == [24, 24, 48, 48]
    counts = plan.counts(0.75, plan.costs(plan.order("obs")))
    assert 0 <= sum(count * group.width for group, count in zip(plan.groups, counts, strict=True)) - 0.75 * 144 < 6
    heads = [count for group, count in zip(plan.groups, counts, strict=True) if group.width == 6]
    assert heads == [2, 2]
    small = cofire.prune(net, batch, stats, keep=0.75, across="loss", heads=True, batches=[batch])
    assert [block.attn.num_heads for block in small.blocks] == [2, 2]


# ---------------------------------------------------------------- refusals and errors


class Twice(nn.Module):
    """One attention module for two blocks."""

    def __init__(self):
        super().__init__()
        self.body = vit()
        self.body.blocks[1].attn = self.body.blocks[0].attn

    def forward(self, x):
        return self.body(x)


def swin():
    return timm.models.SwinTransformer(
        img_size=16, patch_size=2, num_classes=4, embed_dim=8, depths=(1,), num_heads=(2,), window_size=4
    )


def grouped_query():
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=30, hidden_size=16, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=2, intermediate_size=24,
        num_labels=4, pad_token_id=0,
    )  # fmt: skip
    return transformers.LlamaForSequenceClassification(config)


def torchvision_vit():
    return pytest.importorskip("torchvision").models.VisionTransformer(16, 8, 1, 4, 24, 48, num_classes=4)


REFUSED = [
    (torchvision_vit, pictures, "torch.nn.MultiheadAttention must have heads that are together as wide as what it reads"),
    (grouped_query, texts, "its queries, keys and values are not equally wide"),
    (Twice, pictures, "it is called more than once"),
    (swin, pictures, "the model fails without some of its units"),
    (lambda: vit(scale_attn_norm=True), pictures, "no linear maps read its heads as they are"),
    (lambda: vit(num_heads=1), pictures, "it says that it has 1 heads, for 24 features"),
]


@pytest.mark.parametrize(("make", "data", "words"), REFUSED, ids=lambda value: str(value)[:20])
def test_heads_that_cannot_go_are_refused_with_a_reason(make, data, words):
    net, batch = make().eval(), data()
    stats = recorded(net, batch)
    with pytest.raises(ModelError, match=rf"heads=True needs attention whose heads can be removed; '.*': {words}"):
        cofire.prune(net, inputs_of(batch), stats, keep=0.5, heads=True, batches=[batch])


def test_attention_that_is_left_as_it_is_is_said():
    net, batch = vit(), pictures()
    net.blocks[0].attn.norm = nn.LayerNorm(24).eval()
    stats = recorded(net, batch)
    with pytest.warns(cofire.CofireWarning, match=r"left as they are: 'blocks.0.attn': no linear maps read its heads"):
        small = cofire.prune(net, batch, stats, keep=0.5, heads=True, batches=[batch])
    assert [block.attn.num_heads for block in small.blocks] == [4, 2]
    with pytest.raises(ModelError, match=r"this cannot be pruned; 'blocks.0.attn': .*These can: 'blocks.1.attn'"):
        cofire.prune(net, batch, stats, keep={"blocks.0.attn": 2}, heads=True, batches=[batch])


class ByKeyword(nn.Linear):
    def __call__(self, x):
        return super().__call__(input=x)


def test_a_linear_map_called_by_keyword_is_not_looked_into():
    net = vit()
    net.blocks[0].attn.proj = ByKeyword(24, 24)
    found, refused = heads_of(net.eval(), as_batch(pictures(), None, 4, "it"))
    assert [group.layers for group in found] == [["blocks.1.attn"]]
    assert refused == {"blocks.0.attn": "no linear maps read its heads as they are"}


def test_a_model_without_attention_has_no_heads():
    net = cofire.zoo.model("fcnn:64-8-10", seed=0)
    batch = next(iter(cofire.data.load("digits").batches(64)))
    with pytest.raises(ModelError, match="needs attention whose heads can be removed; found no attention of a known form"):
        cofire.prune(net, batch, recorded(net, batch), keep=0.5, heads=True, batches=[batch])
    assert heads_of(net, as_batch(batch, None, 10, "it")) == ([], {})


WRONG = [
    ({"batches": None}, r"heads=True needs the covariance of heads; found no batches="),
    ({"by": "mutual_information"}, r"heads can be ordered by 'obs', 'reconstruction', 'weight_std', 'random' or scores"),
    ({"by": {"blocks.1.attn": torch.zeros(4)}}, "scores must be given for layer 'blocks.0.attn'"),
    ({"by": {"blocks.0.attn": torch.zeros(5)}}, r"scores of layer 'blocks.0.attn' must be \[4 units\]; found \(5,\)"),
    ({"keep": {"blocks.0.attn": 5}}, "layer 'blocks.0.attn' must keep between 1 and its 4 units; found 5"),
]


@pytest.mark.parametrize(("options", "words"), WRONG, ids=lambda value: str(value)[:40])
def test_wrong_input(options, words):
    net, batch = vit(), pictures()
    options = {"keep": {"blocks.0.attn": 2}, "batches": [batch]} | options
    with pytest.raises(InputError, match=words):
        cofire.prune(net, batch, recorded(net, batch), heads=True, **options)


# ---------------------------------------------------------------- command line


def test_the_command_removes_heads(tmp_path):
    out = tmp_path / "small.safetensors"
    words = "prune timm:test_vit --data digits --channels 3 --size 160 --limit 20 --keep 0.5 --layers blocks.0.attn --heads"
    with pytest.warns(CofireWarning, match="no --weights: .* with random weights unless it brings its own"):
        done = CliRunner().invoke(app, [*words.split(), "-o", str(out)])
    assert done.exit_code == 0, done.output
    loaded = cofire.load_pruned(cofire.zoo.model("timm:test_vit", classes=10), out)
    assert [block.attn.num_heads for block in loaded.blocks] == [1] + [2] * 5
