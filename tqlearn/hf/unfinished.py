"""What a stream has finished so far: shards that are filled beside, a journal, and the way home.

All stands in ``out/.stream.part``, and ``out/.stream.lock`` keeps other streams out. The line of
digests in the headers is of all tensors together, so no shard is whole before the last tensor is
there; then they take their places one by one.
"""

import errno
import json
import re
import shutil
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import CodeType, FunctionType

from transformers import PreTrainedModel
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from ..locks import locked
from ..storage.digests import KEY, Stored, digests, seal_line
from ..storage.shards import Journal, Shard
from ..writing import telling, write
from .card import write_card
from .sealing import remove_shards, settled

WORK = ".stream.part"
JOURNAL = "journal.jsonl"


def told(edit: object) -> str:
    """Return what an edit is, in words that another process finds as well.

    A digest stands for what its print leaves out: long fields, and what a function does.
    """
    parts = fields(edit) if is_dataclass(edit) else ()
    hidden = [getattr(edit, part.name) for part in parts if not part.repr]
    hidden += [edit] if isinstance(edit, FunctionType) else []
    words, more = _lasting(edit), _lasting(_said(hidden))
    known = any(value is not None for value in hidden)
    return f"{words} {zlib.crc32(more.encode()):08x}" if known else words


def _lasting(value: object) -> str:
    """Return a print without addresses, which are others in each process."""
    return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(value))


def _said(value: object) -> object:
    """Return what prints whole, in one order, and without the place of a file."""
    if isinstance(value, FunctionType):
        around = [cell.cell_contents for cell in value.__closure__ or ()]
        return _said([value.__code__, value.__defaults__, value.__kwdefaults__, around])
    if isinstance(value, CodeType):
        return value.co_code.hex(), value.co_names, _said(value.co_consts)
    if isinstance(value, (list, tuple)):
        return [*map(_said, value)]
    if isinstance(value, frozenset):
        return sorted(map(repr, value))
    return value.tolist() if hasattr(value, "tolist") else value


@contextmanager
def alone(out: Path) -> Iterator[None]:
    """Make a folder, and let no other stream into it while the body runs.

    The lock is the system's, see ``locks``: it goes with the process that holds it.

    Raises:
        ValueError: another call streams into it.
        OSError: it cannot be written to, or its file system has no locks.
    """
    with ExitStack() as held:
        try:
            with telling(out):
                out.mkdir(parents=True, exist_ok=True)
                held.enter_context(locked(out / "stream", patience=0.0))
        except TimeoutError as error:
            raise ValueError(
                f"another call streams into {out} at this moment, and two would mix their files; "
                "wait until that one has ended or stop it, then make this call again, or give "
                "another folder as out"
            ) from error
        yield


class Unfinished:
    """A stream on its way to a folder.

    Args:
        out: the folder, which ``alone`` holds.
        shards: of the result, by the name of their files.
        identity: {kind: {name: value}}, what must be the same in the call that goes on.

    Raises:
        ValueError: an unfinished stream lies there that differs in its identity; it is unchanged.
    """

    def __init__(
        self, out: Path, shards: Sequence[Shard], identity: Mapping[str, Mapping[str, object]]
    ) -> None:
        self.out, self.work = out, out / WORK
        self.names = [str(shard.path) for shard in shards]
        self.home = {name: shard for shard in shards for name in shard.tensors}
        for shard in shards:
            shard.path = self.work / shard.path
        self.journal, self.identity = Journal(self.work / JOURNAL), identity
        self.digests: dict[str, int] = {}
        self.files: list[str] | None = None  # the result's, once all are whole
        self.known = False
        for entry in self.journal.read():
            if "identity" in entry:
                self._require_same(entry["identity"])
                self.known = True
            self.digests |= entry.get("digests", {})
            self.files = entry.get("files", self.files)

    def _require_same(self, was: Mapping[str, Mapping]) -> None:
        now = json.loads(json.dumps(self.identity))
        for kind in now | dict(was):  # in order: the plan before the files that it makes
            before, here = was.get(kind, {}), now.get(kind, {})
            for name in sorted(before.keys() | here.keys()):
                if before.get(name) != here.get(name):
                    raise ValueError(
                        f"{self.work} holds an unfinished stream with another {kind}: {name!r} was "
                        f"{before.get(name)}, now it is {here.get(name)}; make the call as it was, "
                        "or delete that folder to begin anew"
                    )

    def begin(self) -> None:
        """Make the files to fill, and look whether what is written down is there.

        Raises:
            OSError: there is not enough room.
        """
        if self.files is not None:
            return
        with telling(self.out):
            self._require_room()
            self.work.mkdir(exist_ok=True)
        if not self.known:  # before any file, so that none is taken for another stream's
            self.journal.add({"identity": self.identity})
        with telling(self.out):
            for shard in set(self.home.values()):
                shard.begin()
        self.digests = {
            name: digest
            for name, digest in self.digests.items()
            if digests({name: self.home[name].get(name)})[name] == digest
        }

    def _require_room(self) -> None:
        whole = sum(shard.size for shard in set(self.home.values()))
        done = sum(b - a for name in self.digests for a, b in [self.home[name].places[name]])
        if whole - done > (free := shutil.disk_usage(self.out).free):
            raise OSError(errno.ENOSPC, f"{whole - done:,} bytes are needed, {free:,} are free")

    def has(self, names: Iterable[str]) -> bool:
        """Say whether tensors are finished."""
        return self.files is not None or all(name in self.digests for name in names)

    def put(self, made: Mapping[str, Stored]) -> None:
        """Write tensors, wait until they are on the disk, then write down that they are."""
        with telling(self.out):
            for name, stored in made.items():
                self.home[name].put(name, stored)
            for shard in {self.home[name] for name in made}:
                shard.sync()
        found = digests(made)
        self.journal.add({"digests": found})
        self.digests |= found

    def finish(self, model: PreTrainedModel, notes: Mapping[str, str], index: dict | None) -> None:
        """Write digests, configs and index, then let everything take its place.

        Args:
            model: the packed one, on meta.
            notes: of the headers, with a blank in the place of the digests.
        """
        if self.files is None:
            self._seal(model, notes, index)
        with telling(self.out):
            for name in self.files:
                if (self.work / name).is_file():
                    (self.work / name).replace(self.out / name)
        remove_shards(self.out, set(self.files))
        for name in {SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME} - set(self.files):
            (self.out / name).unlink(missing_ok=True)  # of an earlier save: it would be read first
        write_card(model, self.out)
        shutil.rmtree(self.work)

    def _seal(self, model: PreTrainedModel, notes: Mapping[str, str], index: dict | None) -> None:
        model.config.dtype = str(model.dtype).split(".")[1]  # as save_pretrained does
        model.config.architectures = [type(model).__name__]
        method = model.config.quantization_config
        layout = method["layout"] if isinstance(method, dict) else method.layout
        config = settled(json.loads(model.config.to_json_string()))
        line = seal_line(self.digests, layout, config)
        with telling(self.out):
            for shard in set(self.home.values()):
                shard.finish({**notes, KEY: line})
            model.config.save_pretrained(self.work)
            if model.can_generate():
                model.generation_config.save_pretrained(self.work)
        if index is not None:
            text = json.dumps(index, indent=2, sort_keys=True) + "\n"
            write(self.work / SAFE_WEIGHTS_INDEX_NAME, text)
        there = {file.name for file in self.work.glob("[!.]*")}  # not what a kill has left
        rest = sorted(there - {*self.names, JOURNAL})
        rest.sort(key=lambda name: name == "config.json")  # last: no model without its weights
        self.files = [*self.names, *rest]
        self.journal.add({"files": self.files})
