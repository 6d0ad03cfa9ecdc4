"""Load a damaged model and say what came of it.

- refused: an error that tqlearn raises on purpose, or one of safetensors and transformers.
- raw: an error that tqlearn ran into.
- same: loaded, with the outputs of the undamaged model.
- warned: loaded, other outputs, and a warning of tqlearn said that something is not as saved.
- silent: loaded, other outputs, no word.
- memory, hang: more than 1 GiB, or more than 20 seconds of a processor, for a file of kilobytes.
"""

import json
import linecache
import resource
import signal
import traceback
import warnings
from contextlib import contextmanager
from random import Random

import damage
import torch
import transformers
from torch import nn

import tqlearn as tq

KEY = "tqlearn.digests"  # of the header
OUTCOMES = ("refused", "same", "warned", "silent", "raw", "memory", "hang")
SPARE, SECONDS = 2**30, 20
IDS = torch.arange(3, 19).reshape(2, 8)
X = torch.linspace(-2, 2, 6 * 12).reshape(6, 12)
BERT = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
        "intermediate_size": 24, "max_position_embeddings": 20, "num_labels": 3}  # fmt: skip
PLAN = {
    "*.word_embeddings": [tq.TTM(rank=4, order=2), tq.LSQ(4)],
    "*.query": [tq.PACT(4), tq.Inputs(tq.PACT(8))],
    "*.key": [tq.TwoFour(), tq.LSQ(4)],
    "*.value": [tq.TT(rank=4, order=2), tq.LSQ(4)],
    "*.intermediate.dense": [tq.Kronecker(rank=2)],
    "*.output.dense": [tq.SAWB(4, per="channel")],
    "classifier": [tq.LowRank(rank=2), tq.Uniform(8)],
}
PLAIN = {
    "0": [tq.TT(rank=4, order=2), tq.LSQ(4)],
    "2": [tq.LSQ(3, per="channel"), tq.Inputs(tq.LSQ(8))],
    "4": [tq.TwoFour(pattern="3:6"), tq.PACT(4)],
}


def net():
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(12, 16), nn.GELU(), nn.Linear(16, 12), nn.LayerNorm(12),
                         nn.Linear(12, 4)).eval()  # fmt: skip


class File:
    """What ``tqlearn.save`` writes and ``tqlearn.load`` reads."""

    def __init__(self, folder, packed):
        self.path = folder / "model.safetensors"
        student = tq.calibrate(tq.compress(net(), PLAIN), [X])
        tq.save(tq.pack(student) if packed else student, self.path)
        self.files = {self.path: self.path.read_bytes()}
        self.weights = [self.path]

    def load(self):
        with torch.no_grad():
            return tq.load(net(), self.path).eval()(X)

    def layout(self):
        return damage.split(self.files[self.path])[0]["__metadata__"]["tqlearn"]

    def with_layout(self, text):
        header, body = damage.split(self.path.read_bytes())
        header["__metadata__"]["tqlearn"] = text
        self.path.write_bytes(damage.join(header, body))

    def reseal(self, text):
        from tqlearn.storage.digests import read, seal

        self.with_layout(text)
        header, body = damage.split(self.path.read_bytes())
        header["__metadata__"][KEY] = seal(read(self.path)[0], text + "{}")
        self.path.write_bytes(damage.join(header, body))


class Folder:
    """What ``save_pretrained`` writes and ``from_pretrained`` reads."""

    def __init__(self, folder, packed, shards=False):
        torch.manual_seed(0)
        bert = transformers.BertForSequenceClassification(transformers.BertConfig(**BERT)).eval()
        student = tq.calibrate(tq.compress(bert, PLAN), [{"input_ids": IDS}])
        model = tq.pack(student) if packed else student
        model.save_pretrained(folder, max_shard_size="3KB" if shards else "1GB")
        self.folder, self.config = folder, folder / "config.json"
        self.files = {p: p.read_bytes() for p in folder.iterdir()}
        self.weights = sorted(folder.glob("*.safetensors"))

    def load(self):
        kind = transformers.BertForSequenceClassification
        with torch.no_grad():
            return kind.from_pretrained(self.folder)(IDS).logits

    def layout(self):
        return json.loads(self.files[self.config])["quantization_config"]["layout"]

    def with_layout(self, text):
        whole = json.loads(self.files[self.config])
        whole["quantization_config"]["layout"] = text
        self.config.write_text(json.dumps(whole))

    def reseal(self, text):
        from tqlearn.hf.sealing import settled
        from tqlearn.storage.digests import read, seal

        self.with_layout(text)
        found = {}
        for path in self.weights:
            found |= read(path)[0]
        line = seal(found, text, settled(json.loads(self.files[self.config])))
        for path in self.weights:
            header, body = damage.split(path.read_bytes())
            header["__metadata__"][KEY] = line
            path.write_bytes(damage.join(header, body))


def payload(subject, dice):
    path = dice.choice(subject.weights)
    how = dice.choice(damage.PAYLOADS)
    path.write_bytes(how(subject.files[path], dice))
    return how.__name__


def layout(subject, dice):
    subject.with_layout(damage.layout(subject.layout(), dice))
    return "layout"


def config(subject, dice):
    subject.config.write_text(damage.config(subject.files[subject.config].decode(), dice))
    return "config"


def shards(subject, dice):
    """Two shards change places, one is lost or older, or the index is damaged."""
    a, b = dice.sample(subject.weights, 2)
    index = subject.folder / "model.safetensors.index.json"
    kind = dice.randrange(4)
    if kind == 0:
        a.write_bytes(subject.files[b])
        b.write_bytes(subject.files[a])
    elif kind == 1:
        a.unlink()
    elif kind == 2:
        index.write_text(damage.config(subject.files[index].decode(), dice))
    else:
        a.write_bytes(damage.flip_bit(subject.files[a], dice))
    return "shards"


def resealed(subject, dice):
    """A damaged layout with digests that fit it: the checks of the layout stand alone."""
    subject.reseal(damage.layout(subject.layout(), dice))
    return "resealed layout"


def unsealed(subject, dice):
    """Damage to a file without digests, as older ones are."""
    for path in subject.weights:
        header, body = damage.split(subject.files[path])
        header["__metadata__"].pop(KEY)
        path.write_bytes(damage.join(header, body))
    if dice.random() < 0.5:
        subject.with_layout(damage.layout(subject.layout(), dice))
        return "unsealed layout"
    path = dice.choice(subject.weights)
    how = dice.choice([how for how in damage.PAYLOADS if how is not damage.notes])
    path.write_bytes(how(path.read_bytes(), dice))
    return f"unsealed {how.__name__}"


class Hang(Exception):
    pass


@contextmanager
def limits():
    """Little memory beyond what is there, and little time of the processor."""

    def stop(*_):
        raise Hang

    with open("/proc/self/statm") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    handler = signal.signal(signal.SIGVTALRM, stop)
    resource.setrlimit(resource.RLIMIT_AS, (now + SPARE, before[1]))
    signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, handler)
        resource.setrlimit(resource.RLIMIT_AS, before)


def raised_by_us(error):
    """None: tqlearn was not there. True: it raised on purpose. False: it ran into the error."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [i for i, f in enumerate(frames) if "/tqlearn/" in f.filename]
    if not ours:
        return None
    last = frames[-1]
    line = linecache.getline(last.filename, last.lineno).strip()
    words = isinstance(error, ValueError | TypeError) and line.startswith("raise ")
    if "/tqlearn/" in last.filename:
        return words
    theirs = frames[ours[-1] + 1 :]
    return None if any("/transformers/" in f.filename for f in theirs) else False


def outcome(subject, wanted):
    """(one of OUTCOMES, the error or None) of a load."""
    with warnings.catch_warnings(record=True) as said, limits():
        warnings.simplefilter("always")
        try:
            found = subject.load()
        except Hang as error:
            return "hang", error
        except Exception as error:
            if isinstance(error, MemoryError) or "allocate" in str(error):
                return "memory", error
            return ("raw" if raised_by_us(error) is False else "refused"), error
    if found.shape == wanted.shape and torch.allclose(found, wanted, atol=1e-6, rtol=1e-5):
        return "same", None
    words = [str(w.message) for w in said]
    return ("warned" if any("is not the one" in w for w in words) else "silent"), None


def two(kind):
    """A packed one and one that learns."""
    return lambda folder: [kind(folder / "a", True), kind(folder / "b", False)]


def both(folder):
    return [File(folder / "a", True), Folder(folder / "b", True)]


KINDS = {  # of damage, with the subjects that it fits
    "file, payload": (payload, two(File)),
    "file, layout": (layout, two(File)),
    "folder, payload": (payload, two(Folder)),
    "folder, layout": (layout, two(Folder)),
    "folder, config": (config, two(Folder)),
    "folder, shards": (shards, lambda folder: [Folder(folder / "a", True, shards=True)]),
    "layout with digests of its own": (resealed, both),
    "no digests": (unsealed, both),
}


def fuzz(kind, folder, times, seed=0, note=None):
    """Counts {outcome: how often} of so many damaged loads; ``note`` gets each that is not right.

    Args:
        note: called with (how it was damaged, number, outcome, error).
    """
    hurt, make = KINDS[kind]
    for name in "ab":
        (folder / name).mkdir(parents=True, exist_ok=True)
    subjects = make(folder)
    wanted = [subject.load() for subject in subjects]
    counts = dict.fromkeys(OUTCOMES, 0)
    for i in range(times):
        subject, dice = subjects[i % len(subjects)], Random(f"{kind} {seed} {i}")
        how = hurt(subject, dice)
        what, error = outcome(subject, wanted[i % len(subjects)])
        counts[what] += 1
        if note and what not in ("refused", "same", "warned"):
            note(how, i, what, error)
        for path, data in subject.files.items():
            if not path.exists() or path.stat().st_size != len(data) or path.read_bytes() != data:
                path.write_bytes(data)
    return counts
