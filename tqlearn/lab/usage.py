"""What a running notebook has cost: processor seconds and memory, read from outside its kernel.

The cap counts seconds of one processor, an AMD EPYC of the third generation (Zen 3, 2.45 GHz). On
a slower one the same page takes more of them, and nothing is wrong with it: ``speed`` says by how
much to scale.

``MIX_SECONDS`` is what the mix of ``speed`` takes on that processor, on one thread: the fastest of
25 runs, in seconds of the process, for whatever else a machine does only adds to a run. It was
measured there with a garbage collector that looked through all of torch, and scaled to one that
does not by both on another processor. ``speed`` takes the median of five: what slows the lessons
down just now slows the mix down as well.
"""

import gc
import json
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import median

import psutil

CPU_SECONDS_CAP = 90  # a notebook; the capstone may use 150
MIX_SECONDS = 0.104
MEMORY_CAP = 1.2 * 2**30  # Binder gives 2 GB in all, JupyterLab takes its share


@dataclass(frozen=True)
class Usage:
    """CPU-seconds of all threads and children, and the peak of resident memory in bytes."""

    cpu_seconds: float
    peak_bytes: int

    def __str__(self) -> str:
        return f"{self.cpu_seconds:.1f} CPU-seconds, {self.peak_bytes / 2**30:.2f} GiB"

    def scaled(self, speed: float) -> float:
        """CPU-seconds that the processor of the cap would have taken."""
        return self.cpu_seconds * speed

    def complaint(self, speed: float = 1.0) -> str | None:
        """Say which cap is broken by what has been used, scaled with ``speed()``; or None."""
        seconds = self.scaled(speed)
        if seconds <= CPU_SECONDS_CAP and self.peak_bytes <= MEMORY_CAP:
            return None
        return (
            f"{self}, {seconds:.1f} scaled: "
            f"above the cap of {CPU_SECONDS_CAP} CPU-seconds, {MEMORY_CAP / 2**30} GiB"
        )


def process_usage(pid: int) -> Usage:
    """Return what the process has used so far.

    Linux keeps the peak in VmHWM (``ru_maxrss`` would start at the size of the parent process);
    Windows in ``peak_wset``; macOS offers neither, so the present size stands for it.
    """
    process = psutil.Process(pid)
    status, memory = Path(f"/proc/{pid}/status"), process.memory_info()
    peak = getattr(memory, "peak_wset", memory.rss)
    if status.exists():
        line = next(s for s in status.read_text().splitlines() if s.startswith("VmHWM:"))
        peak = int(line.split()[1]) * 1024
    return Usage(sum(process.cpu_times()[:4]), peak)  # user, system, and the same of children


@cache
def speed() -> float:
    """Return how fast this machine is, 1 being the one of the cap: a second of what lessons do."""
    return MIX_SECONDS / median(_mix() for _ in range(5))


def _mix() -> float:
    """CPU-seconds of small matrix products with their gradients, and of work for Python.

    Garbage is collected as in a new process, however the caller's collects it.
    """
    import torch

    threads, collects, often = torch.get_num_threads(), gc.isenabled(), gc.get_threshold()
    frozen = gc.get_freeze_count()
    torch.set_num_threads(1)
    gc.freeze()
    gc.enable()
    gc.set_threshold(700, 10, 10)
    start = time.process_time()
    up, down = torch.full((128, 512), 0.01).requires_grad_(), torch.full((512, 128), 0.01)
    for _ in range(20):
        (torch.nn.functional.gelu(torch.ones(256, 128) @ up) @ down).square().mean().backward()
    for _ in range(5):
        json.loads(json.dumps({str(k): k for k in range(20_000)}))
    spent = time.process_time() - start
    torch.set_num_threads(threads)
    gc.set_threshold(*often)
    if not frozen:
        gc.unfreeze()
    if not collects:
        gc.disable()
    return spent
