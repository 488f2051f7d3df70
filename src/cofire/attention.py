"""Attention modules whose heads can be counted: what makes their queries, keys and values, and how wide a head is."""

from collections.abc import Mapping

from torch import nn

__all__ = ["head_count", "head_widths", "maps_of", "set_head_counts"]

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


def head_widths(model: nn.Module) -> dict[str, int]:
    """Features of each head, by the name of the attention module.

    >>> attention = nn.Module()
    >>> attention.num_heads, attention.qkv = 3, nn.Linear(12, 36)
    >>> head_widths(nn.Sequential(attention))
    {'0': 4}
    """
    found = {}
    for path, module in model.named_modules():
        count = head_count(module)
        if count and _features(module):
            found[path] = _features(module) // count
    return found


def set_head_counts(model: nn.Module, widths: Mapping[str, int]) -> None:
    """Let attention modules say how many heads their maps have, in place.

    Args:
        model: The model, whose maps may have lost heads.
        widths: Of the heads, as :func:`head_widths` found them before.
    """
    for path, width in widths.items():
        module = model.get_submodule(path)
        features = _features(module)
        for names, value in ((_COUNTS, features // width), (_WIDTHS, features)):
            for name in names:
                if hasattr(module, name):
                    setattr(module, name, value)


def _features(module: nn.Module) -> int:
    """The width of all queries together; 0 where no linear maps make them."""
    maps = maps_of(module)
    if not maps or not isinstance(maps[0], nn.Linear):
        return 0
    return maps[0].out_features // (3 if len(maps) == 1 else 1)
