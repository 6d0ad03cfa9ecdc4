"""A model from a folder or by its name, opened without a copy of its weights in memory."""

from os import PathLike
from pathlib import Path

from torch import nn

from ...arguments import require


def opened(place: str | PathLike) -> nn.Module:
    """Return the model of a folder or of a name on the hub, in evaluation mode.

    transformers builds it on meta and maps the file: numbers come into memory where they are looked
    at, a layer at a time, and may leave it again.

    Args:
        place: a folder that ``save_pretrained`` wrote, "owner/name" or "owner/name@revision".

    Raises:
        ValueError: it is not there, or says no architecture that transformers knows.
    """
    import transformers

    from ...hf.slices import class_of  # and hf's bridge: a compressed folder opens, too

    require("workbench: model", place, str | PathLike)
    name, _, revision = str(place).partition("@") if not Path(place).is_dir() else (place, "", "")
    pinned = {"revision": revision} if revision else {}
    try:
        config = transformers.AutoConfig.from_pretrained(name, **pinned)
        return class_of(config).from_pretrained(name, **pinned).eval()
    except OSError as error:
        raise ValueError(
            f"{place!r} is no folder that save_pretrained wrote and no model in the cache or on "
            f"the hub ({str(error).splitlines()[0]}); load the model yourself and hand it over"
        ) from error
