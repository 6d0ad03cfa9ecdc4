"""The device that a script of this folder measures: a GPU, or for a trial the CPU."""

from argparse import ArgumentParser, Namespace

import torch
from common import RESULTS


def device_for(options: ArgumentParser, args: Namespace) -> torch.device:
    """Return the GPU, or the CPU for a trial that writes no result; else say what to do and end."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    if not args.quick or args.out.resolve().parent == RESULTS.resolve():
        options.error(
            "this measures a GPU, and torch finds no CUDA device; --quick --out FILE tries the "
            f"script on the CPU and writes to a file outside {RESULTS.name}/"
        )
    return torch.device("cpu")


def told(device: torch.device) -> dict:
    """Return what the figures depend on besides the versions of packages."""
    if device.type != "cuda":
        return {"name": "cpu"}
    return {
        "name": torch.cuda.get_device_name(device),
        "capability": ".".join(map(str, torch.cuda.get_device_capability(device))),
        "cuda": torch.version.cuda,
        "cusparselt": torch.backends.cusparselt.version(),
    }
