"""What a running notebook has cost: processor seconds and memory, read from outside its kernel."""

from dataclasses import dataclass
from pathlib import Path

import psutil

CPU_SECONDS_CAP = 90  # a notebook; the capstone may use 150
MEMORY_CAP = 1.2 * 2**30  # Binder gives 2 GB in all, JupyterLab takes its share


@dataclass(frozen=True)
class Usage:
    """CPU-seconds of all threads and children, and the peak of resident memory in bytes."""

    cpu_seconds: float
    peak_bytes: int

    def __str__(self) -> str:
        return f"{self.cpu_seconds:.1f} CPU-seconds, {self.peak_bytes / 2**30:.2f} GiB"

    def complaint(self) -> str | None:
        """Say which cap is broken, or None."""
        if self.cpu_seconds <= CPU_SECONDS_CAP and self.peak_bytes <= MEMORY_CAP:
            return None
        return f"{self}: above the cap of {CPU_SECONDS_CAP} CPU-seconds, {MEMORY_CAP / 2**30} GiB"


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
