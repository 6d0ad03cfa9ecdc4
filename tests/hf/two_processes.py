"""Two gloo processes that train one step or two of every plan; what they find goes into a folder.

Called as ``two_processes.py FOLDER`` by test_processes.py, once for all its tests.
"""

import copy
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import torch
import torch.distributed as dist
from accelerate.utils import FullyShardedDataParallelPlugin
from accelerate.utils.fsdp_utils import fsdp2_prepare_model
from tiny_llamas import tiny_llama
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import fully_shard
from torch.multiprocessing import start_processes
from torch.nn.parallel import DistributedDataParallel
from transformers import BertConfig, BertForSequenceClassification

import tqlearn as tq
import tqlearn.hf
from tqlearn.sparsity import block_masks, score_penalty

SOME, TABLE = ("*.q_proj", "*.down_proj"), "model.embed_tokens"
PENALTY = "BlockPrune, a penalty on its scores"
DENSE = ("*.query", "*.output.dense")


def on(*edits: object, where: tuple[str, ...] = SOME) -> dict:
    """A plan that gives some layers the same edits."""
    return dict.fromkeys(where, list(edits))


LLAMAS = {
    "LSQ": on(tq.LSQ(4)) | {TABLE: [tq.LSQ(8)]},  # the head is tied to the table
    "LSQ per channel": on(tq.LSQ(4, per="channel")),
    "LSQ per 16": on(tq.LSQ(4, per=16, scale_dtype="float16")),
    "LSQPlus": on(tq.LSQPlus(4)),
    "LearnedClip": on(tq.LearnedClip(4)),
    "PACT": on(tq.PACT(4)),
    "SAWB": on(tq.SAWB(4)),
    "Ternary": on(tq.Ternary()),
    "Uniform": on(tq.Uniform(4)),
    "inputs LSQ": on(tq.LSQ(4), tq.Inputs(tq.LSQ(8))),
    "inputs PACT": on(tq.SAWB(4), tq.Inputs(tq.PACT(8))),
    "inputs Uniform": on(tq.LSQ(4), tq.Inputs(tq.Uniform(8))),
    "TT": on(tq.TT(4), tq.LSQ(4)),
    "TTM": {TABLE: [tq.TTM(4, order=2), tq.LSQ(4)]},
    "Kronecker": on(tq.Kronecker(2), tq.LSQ(8)),
    "LowRank": on(tq.LowRank(4), tq.LSQ(8)),
    "2:4": on(tq.TwoFour(), tq.SAWB(4)),
    "2:4 ste": on(tq.TwoFour(update="ste"), tq.LSQ(4)),
    "2:4 sr-ste": on(tq.TwoFour(update="sr-ste")),
    "BlockPrune": None,  # heads and FFN dimensions
    PENALTY: None,
}
BERTS = {
    "BERT TT inputs": on(tq.TT(4), tq.LSQ(4, activations=8), where=DENSE),
    "BERT attention": on(tq.LSQ(4), where=DENSE),  # and its queries, keys, values, probabilities
    "BERT MinMax": on(tq.Inputs(tq.MinMax(8, bucket="tensor")), where=DENSE),
}
IDS = torch.arange(48).reshape(4, 12) * 37 % 96 + 2
HALVES = [slice(0, 2), slice(2, 4)]


def tiny_bert() -> nn.Module:
    """2 layers of width 32 without dropout."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    quiet = {"hidden_dropout_prob": 0, "attention_probs_dropout_prob": 0, "initializer_range": 0.3}
    config = BertConfig(vocab_size=128, intermediate_size=64, max_position_embeddings=32,
                        num_labels=3, **sizes, **quiet)  # fmt: skip
    return BertForSequenceClassification(config).eval()


def student_of(name: str) -> nn.Module:
    """A calibrated student in training mode; the same in every process."""
    teacher = tiny_bert() if name in BERTS else tiny_llama()
    plan = (LLAMAS | BERTS)[name] or tq.block_plan(teacher, block=(8, 8))
    student = tq.compress(teacher, plan)
    if name == "BERT attention":
        student = tq.hf.quantize_attention(student, tq.LSQ(8))
    return tq.calibrate(student, [batch(name, slice(0, 1))]).train()


def batch(name: str, rows: slice = slice(None)) -> dict:
    """Rows of the batch; as many words in each half."""
    ids = IDS[rows]
    labels = ids[:, 0] % 3 if name in BERTS else ids
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}


def train(student: nn.Module, name: str, parts: list[slice], steps: int = 1) -> dict:
    """Plain gradient descent with momentum; the parts of a batch one after the other.

    Returns:
        The state after the first step.
    """
    optimizer = torch.optim.SGD(student.parameters(), lr=0.01, momentum=0.9)
    inner = getattr(student, "module", student)
    for step in range(steps):
        optimizer.zero_grad()
        for rows in parts:
            loss = student(**batch(name, rows)).loss
            if name == PENALTY:
                masks = block_masks(inner).values()
                loss = loss + score_penalty(masks, {"attention": 1, "dense": 1})
            (loss / len(parts)).backward()
        optimizer.step()
        first = first if step else copied(inner.state_dict())
    return first


def copied(state: dict) -> dict:
    return {key: value.detach().clone() for key, value in state.items()}


def gathered(student: nn.Module) -> dict:
    """The whole state, in process 0."""
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    return copied(get_model_state_dict(student, options=options))


def sharded(student: nn.Module) -> nn.Module:
    """Each layer a group of FSDP2, and all the rest one."""
    inner = getattr(student, "model", None) or student.bert.encoder
    for layer in getattr(inner, "layers", None) or inner.layer:
        fully_shard(layer)
    return fully_shard(student)


def plain(student: nn.Module) -> nn.Module:
    """One process."""
    return student


def every_plan(rank: int, name: str) -> dict:
    """States after the first step and the second, of one process and of both, by the way to it."""
    start, half = student_of(name), [HALVES[rank]]
    ways = {"ddp": (half, DistributedDataParallel), "fsdp": (half, sharded)}
    if rank == 0:
        ways |= {"whole": ([slice(None)], plain), "one": (HALVES, plain)}
    found = {"start": copied(start.state_dict())}
    for way, (parts, wrap) in ways.items():
        if (name, way) == (PENALTY, "fsdp"):  # which has no whole scores for a penalty
            continue
        student = tq.quantizers.synchronize(copy.deepcopy(start), wrap is not plain)
        first = train(wrap(student), name, parts, 2)
        second = gathered(student) if wrap is sharded else copied(student.state_dict())
        found |= {way: second} | ({} if wrap is sharded else {f"{way}, first": first})
    return found


def alone(rank: int) -> dict:
    """Running ranges that nobody has brought together, and those that are to stay apart."""
    found = {}
    for word in (None, False):
        student = sharded(student_of("inputs Uniform"))
        student = student if word is None else tq.quantizers.synchronize(student, word)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            train(student, "inputs Uniform", [HALVES[rank]])
        ranges = {k: v.clone() for k, v in student.named_buffers() if k.endswith((".low", ".high"))}
        found[word] = {str(w.message) for w in said if w.category is UserWarning}, ranges
    return found


def by_accelerate(rank: int, name: str, in_parts: bool) -> dict:
    """One step after what ``Accelerator.prepare`` does to a model with FSDP2; it asks for GPUs."""
    kind = {"auto_wrap_policy": "transformer_based_wrap", "cpu_ram_efficient_loading": in_parts}
    plugin = FullyShardedDataParallelPlugin(fsdp_version=2, **kind)
    stand_in = SimpleNamespace(
        state=SimpleNamespace(fsdp_plugin=plugin), mixed_precision="no", device=torch.device("cpu"),
        is_main_process=rank == 0,
    )  # fmt: skip
    student = fsdp2_prepare_model(stand_in, student_of(name))
    train(student, name, [HALVES[rank]], 2)
    return gathered(student)


def refused(rank: int) -> dict:
    """What is said where sharded numbers are not at hand."""
    found = {}
    student = sharded(student_of("LSQ"))
    verbs = {"pack": tq.pack, "bake": tq.bake, "report": tq.report, "calibrate": tq.calibrate}
    for verb, call in verbs.items():
        with said(found, verb):
            call(student)
    student = student_of("LSQ")
    fully_shard(student.model)
    with said(found, "tied"):
        train(fully_shard(student), "LSQ", [HALVES[rank]])
    plan = {"*.up_proj": [tq.BlockPrune((8, 8), group="all")]}
    student = sharded(tq.compress(tiny_llama(), plan).train())
    with said(found, "scores"):
        train(student, "LSQ", [HALVES[rank]])
    with said(found, "buffers in parts"):
        by_accelerate(rank, "2:4", True)
    return found


@contextmanager
def said(found: dict, about: str) -> Iterator[None]:
    try:
        yield
    except (ValueError, AttributeError) as error:
        found[about] = str(error)


def look(rank: int, found: dict, name: str, call: Callable, *given: object) -> None:
    """Note what a call gives, or what it raises, for the test of that name."""
    try:
        found[name] = call(rank, *given)
    except Exception as error:
        found[name] = f"{type(error).__name__}: {error}"
    dist.barrier()  # after an error in one process alone, until the timeout


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    meet = {"init_method": f"file://{folder}/meet", "rank": rank, "world_size": 2}
    dist.init_process_group("gloo", **meet, timeout=timedelta(minutes=5))
    found: dict = {}
    for name in LLAMAS | BERTS:
        look(rank, found, name, every_plan, name)
    look(rank, found, "alone", alone)
    for name in ("LSQ", "TTM"):
        for in_parts in (False, True):
            look(rank, found, f"accelerate {name} {in_parts}", by_accelerate, name, in_parts)
    look(rank, found, "refused", refused)
    torch.save(found, Path(folder, f"{rank}.pt"))
    dist.destroy_process_group()


if __name__ == "__main__":
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    start_processes(work, (sys.argv[1],), nprocs=2, start_method="fork")
