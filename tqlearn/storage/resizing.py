"""Tables of words that transformers would resize: refused before anything changes.

``resize_token_embeddings`` writes into a table's weight or puts a plain layer in its place. Where
the weight is computed from codes, masks or cores that would be lost, or not even noticed.
"""

from collections.abc import Callable
from functools import wraps

from torch import nn

from ..stages import Cores, chain_of

SIZES = {  # method of a transformers model -> the option that says how many rows its tables have
    "resize_token_embeddings": "vocab_size",
    "resize_position_embeddings": "max_position_embeddings",
}


def guard_resizing(model: nn.Module) -> nn.Module:
    """Let the classes of a transformers model ask ``refuse_resizing`` first; return the model."""
    for cls in {type(module) for module in model.modules()}:
        for name in SIZES:
            method = getattr(cls, name, None)
            if method is not None and not hasattr(method, "tqlearn_guard"):
                setattr(cls, name, _guarded(method, SIZES[name]))
    return model


def _guarded(method: Callable, option: str) -> Callable:
    @wraps(method)
    def resize(self, *args, **kwargs):
        named = [value for key, value in kwargs.items() if key.startswith("new_num")]
        wanted, multiple = (*args, *named, None, None)[:2]
        refuse_resizing(self, option, wanted, kwargs.get("pad_to_multiple_of", multiple))
        return method(self, *args, **kwargs)

    resize.tqlearn_guard = True
    return resize


def refuse_resizing(
    model: nn.Module, option: str, wanted: int | None, multiple: int | None = None
) -> None:
    """Do nothing where the tables keep their size or are plain.

    Args:
        option: of the config, with the rows of the tables that are meant.
        wanted: rows; None for as many as there are.
        multiple: rows are rounded up to a multiple of it.

    Raises:
        ValueError: a table, or an output layer, that would change its size is compressed.
    """
    tables = [model.get_input_embeddings()] if option == "vocab_size" else []
    rows = {_rows(table) for table in tables} | {getattr(_text(model.config), option, None)}
    rows -= {None}
    size = max(rows, default=0) if wanted is None else wanted
    if rows == {size if multiple is None else -(-size // multiple) * multiple}:
        return
    found = {name: m for name, m in model.named_modules() if _compressed(m) and _rows(m) in rows}
    if found:
        raise ValueError(
            f"the embedding {[*found]} of {max(rows)} rows is compressed and cannot be resized; "
            "resize the model before tqlearn.compress, or tqlearn.bake(model, dense=True) first "
            "and compress it anew"
        )


def _text(config: object) -> object:
    return config.get_text_config() if hasattr(config, "get_text_config") else config


def _compressed(module: nn.Module) -> bool:
    return isinstance(module, Cores) or bool(chain_of(module))


def _rows(module: nn.Module) -> int | None:
    for name in ("num_embeddings", "out_features"):
        if hasattr(module, name):
            return getattr(module, name)
    return None
