"""Attention modules whose heads can be counted: what makes their queries, keys and values, and how many there are."""

from collections.abc import Mapping

from torch import nn

__all__ = ["head_count", "head_sizes", "maps_of", "set_head_counts"]

_MAPS = (("qkv",), ("query", "key", "value"), ("q_proj", "k_proj", "v_proj"), ("q_lin", "k_lin", "v_lin"))
"""What timm, Hugging Face's BERT, its newer models and its DistilBERT call the maps to queries, keys and values."""
_COUNTS = ("num_heads", "num_attention_heads", "n_heads")
_WIDTHS = ("attn_dim", "all_head_size")
"""What some of them call the width of all heads together."""


def maps_of(module: nn.Module) -> list[nn.Module]:
    """The modules that make queries, keys and values, or the one that makes all three; none where it is no attention."""
    children = dict(module.named_children())
    names = next((names for names in _MAPS if children.keys() >= set(names)), ())
    return [children[name] for name in names]


def head_count(module: nn.Module) -> int | None:
    """How many heads an attention module says that it has."""
    return next((getattr(module, name) for name in _COUNTS if isinstance(getattr(module, name, None), int)), None)


def head_sizes(model: nn.Module) -> dict[str, tuple[int, int]]:
    """How many heads attention modules have, and how many features all their heads together, by name.

    >>> attention = nn.Module()
    >>> attention.num_heads, attention.qkv = 3, nn.Linear(12, 36)
    >>> head_sizes(nn.Sequential(attention))
    {'0': (3, 12)}
    """
    sizes = {path: (head_count(module), _features(module)) for path, module in model.named_modules()}
    return {path: (heads, features) for path, (heads, features) in sizes.items() if heads and features}


def set_head_counts(model: nn.Module, before: Mapping[str, tuple[int, int]]) -> None:
    """Let attention modules whose maps have lost heads say how many are left, in place.

    Args:
        model: The model.
        before: Its :func:`head_sizes` before that.
    """
    for path, (heads, features) in before.items():
        module = model.get_submodule(path)
        left = _features(module)
        if left == features:
            continue
        for names, value in ((_COUNTS, heads * left // features), (_WIDTHS, left)):
            for name in names:
                if hasattr(module, name):
                    setattr(module, name, value)


def _features(module: nn.Module) -> int:
    """The width of all queries together; 0 where no linear maps make them."""
    maps = maps_of(module)
    if not maps or not isinstance(maps[0], nn.Linear):
        return 0
    return maps[0].out_features // (3 if len(maps) == 1 else 1)
