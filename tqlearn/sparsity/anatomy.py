"""Where the matrices of a Transformer encoder are: names per layer, sizes, heads.

Modules are recognised by their names, as they are in transformers 5: BERT (RoBERTa and others are
built alike), DistilBERT and ViT.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

ATTENTION = ("query", "key", "value", "output")
FFN = ("up", "down")
# within a layer: query, key, value, output; up, down; activation; the module with the head's width
FAMILIES = {
    "BERT": (
        *(f"attention.self.{name}" for name in ("query", "key", "value")),
        "attention.output.dense", "intermediate.dense", "output.dense",
        "intermediate.intermediate_act_fn", "attention.self.attention_head_size",
    ),
    "DistilBERT": (
        *(f"attention.{name}_lin" for name in ("q", "k", "v", "out")),
        "ffn.lin1", "ffn.lin2", "ffn.activation", "attention.attention_head_size",
    ),
    "ViT": (
        *(f"attention.{name}_proj" for name in "qkvo"),
        "mlp.fc1", "mlp.fc2", "mlp.activation_fn", "attention.head_dim",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class EncoderLayer:
    """One layer of an encoder: full names of its six matrices and its activation.

    ``query``, ``key``, ``value`` are (heads * head_size, width) and ``output`` (width, heads *
    head_size); ``up`` is (dimensions, width) and ``down`` (width, dimensions).
    """

    name: str
    query: str
    key: str
    value: str
    output: str
    up: str
    down: str
    activation: str
    head_size: int

    @property
    def matrices(self) -> tuple[str, ...]:
        """Names of the six matrices: query, key, value, output, up, down."""
        return (self.query, self.key, self.value, self.output, self.up, self.down)


def encoder_layers(model: nn.Module) -> list[EncoderLayer]:
    """Return the encoder layers of a model, in order.

    Raises:
        ValueError: it has none that we know.
    """
    modules = dict(model.named_modules())
    found = [layer for name in modules for layer in _layers_at(name, modules)]
    if not found:
        raise ValueError(
            f"{type(model).__name__} has no encoder layer like those of {', '.join(FAMILIES)}; "
            "compaction and block plans know these by the names of their modules"
        )
    return found


def _layers_at(name: str, modules: dict[str, nn.Module]) -> list[EncoderLayer]:
    front = f"{name}." if name else ""
    for paths in FAMILIES.values():
        names = [front + path for path in paths[:-1]]
        owner, _, attribute = (front + paths[-1]).rpartition(".")
        if all(full in modules for full in names) and hasattr(modules.get(owner), attribute):
            return [EncoderLayer(name, *names, int(getattr(modules[owner], attribute)))]
    return []


def layer_sizes(model: nn.Module) -> dict[str, list[int]]:
    """Return {"heads": [...], "dimensions": [...]}, one number per layer, as the layers stand."""
    layers = encoder_layers(model)
    rows = [(model.get_submodule(x.query), model.get_submodule(x.up), x) for x in layers]
    return {
        "heads": [query.out_features // x.head_size for query, _, x in rows],
        "dimensions": [up.out_features for _, up, _ in rows],
    }


def encoder_weights(
    heads: Sequence[int], dimensions: Sequence[int], width: int, head_size: int = 64
) -> int:
    """Count the weights of the encoder's matrices, biases left out.

    Source: spec sheet Block Pruning, section 10; the example is its headline model, whose density
    is 22,248,960 / 84,934,656.

    >>> heads = [4, 4, 6, 7, 7, 5, 6, 7, 5, 5, 5, 3]
    >>> dimensions = [552, 717, 795, 789, 833, 792, 620, 466, 283, 112, 96, 238]
    >>> encoder_weights(heads, dimensions, 768), encoder_weights([12] * 12, [3072] * 12, 768)
    (22248960, 84934656)
    """
    return width * (4 * head_size * sum(heads) + 2 * sum(dimensions))
