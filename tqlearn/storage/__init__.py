"""A compressed model on disk.

- ``codes``: integers of 1 to 8 bits in a stream of bytes
- ``packed``: what a packed tensor is
- ``pack``: a model's tensors to codes and back
- ``layout``: a model describes itself; rebuild
- ``digests``, ``specs``, ``checks``: a file that is not what was saved is refused by name
- ``files``: save and load
- ``resizing``: tables that may not change their size
- ``report``: honest sizes, three ways to count
- ``weighing``: the same of a model that is not there yet
- ``shards``: files that are filled tensor by tensor, and a journal of it
"""

from .codes import pack_bits, unpack_bits
from .files import load, save
from .layout import attach_layout, describe, rebuild
from .pack import (
    bake_tensors,
    pack_tensors,
    place_packed,
    stored_bits,
    stored_bytes,
    unpack_tensors,
)
from .packed import Packed
from .packed_nm import PackedNM
from .report import Report, file_bytes, report
from .weighing import file_size, weigh

__all__ = [
    "Packed",
    "PackedNM",
    "Report",
    "attach_layout",
    "bake_tensors",
    "describe",
    "file_bytes",
    "file_size",
    "load",
    "pack_bits",
    "pack_tensors",
    "place_packed",
    "rebuild",
    "report",
    "save",
    "stored_bits",
    "stored_bytes",
    "unpack_bits",
    "unpack_tensors",
    "weigh",
]
