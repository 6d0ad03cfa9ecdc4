"""One trial of a sweep: a plan from the space, its student, bytes, training and score."""

import json
import os
import random
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import optuna
import torch
from optuna.trial import TrialState

from ..quantizers import calibrate
from ..spaces import Choice, Ints, filled, written
from ..storage import report
from ..surgery import compress

STEP = "step "  # what an interim score's attribute begins with


@dataclass(frozen=True)
class Found:
    """A finished trial.

    Attributes:
        number: of the trial in the study.
        bytes: of the whole packed file.
        score: larger is better.
        latency: seconds, None where it was not asked for.
        plan: as JSON holds it; ``tq.compress`` takes it.
        options: what ``train`` was given.
    """

    number: int
    bytes: int
    score: float
    latency: float | None
    plan: dict[str, list]
    options: dict[str, object] = field(default_factory=dict)


def found(trial: optuna.trial.FrozenTrial) -> Found:
    """Read a finished trial."""
    size, score, *latency = trial.values
    attrs = trial.user_attrs
    return Found(trial.number, int(size), score, *(latency or [None]),
                 json.loads(attrs["plan"]), json.loads(attrs["options"]))  # fmt: skip


def pick(trial: optuna.Trial) -> Callable[[str, object], object]:
    """Return what asks Optuna for a value in place of a range."""

    def suggest(name: str, among: object) -> object:
        if isinstance(among, Choice):
            return trial.suggest_categorical(name, [repr(option) for option in among.options])
        if isinstance(among, Ints):
            return trial.suggest_int(name, among.low, among.high, step=among.step, log=among.log)
        return trial.suggest_float(name, among.low, among.high, log=among.log)

    return suggest


def hopeless(study: optuna.Study, size: int, step: int, score: float, patience: int) -> bool:
    """Say whether at this step no more than half of ``patience`` or more others were worse.

    The others are trials that have ended, are no larger, and have told a score at this step: a
    student below their median, and at least as large, will hardly be on the front.
    """
    key = f"{STEP}{step}"
    done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
    told = [t.user_attrs[key] for t in done
            if key in t.user_attrs and t.user_attrs["bytes"] <= size]  # fmt: skip
    return len(told) >= patience and score < float(np.median(told))


def run(sweep: "Sweep", study: optuna.Study, trial: optuna.Trial) -> tuple[float, ...]:  # noqa: F821
    """Try one plan; return its bytes, score and, if asked for, latency.

    Raises:
        optuna.TrialPruned: it is above the limit, or hopeless.
    """
    trial.set_user_attr("worker", worker())
    plan = filled(sweep.space, pick(trial))
    options = filled(sweep.options, pick(trial), "option ")
    trial.set_user_attr("plan", json.dumps({name: written(edits) for name, edits in plan.items()}))
    trial.set_user_attr("options", json.dumps(options))
    seed(sweep.seed)
    try:
        student = compress(sweep.model, plan)
    except (ValueError, TypeError) as error:  # such as a rank above what a layer admits
        trial.set_user_attr("refused", str(error))
        raise optuna.TrialPruned(str(error)) from error
    student = calibrate(student, sweep.batches)
    size = report(student).file
    trial.set_user_attr("bytes", size)
    if sweep.limit is not None and size > sweep.limit:
        raise optuna.TrialPruned(f"{size:,} bytes are above the limit of {sweep.limit:,}")

    def tell(step: int, score: float) -> None:
        """Tell an interim score; ends the trial if it is hopeless."""
        trial.set_user_attr(f"{STEP}{step}", float(score))
        if hopeless(study, size, step, score, sweep.patience):
            raise optuna.TrialPruned(f"at step {step} below the median of what is no larger")

    if sweep.train is not None:
        trained = sweep.train(student, tell, **options)
        student = student if trained is None else trained
    score = float(sweep.score(student.eval()))
    if sweep.train is not None:
        size = report(student).file  # a training may have compacted it
    values = (float(size), score)
    return values if sweep.latency is None else (*values, float(sweep.latency(student)))


def seed(number: int) -> None:
    """Begin every trial with the same random numbers: what differs is the plan."""
    random.seed(number)
    np.random.seed(number)
    torch.manual_seed(number)


def worker() -> dict[str, object]:
    """Say which process this is, so that another can see that it has died."""
    return {"host": os.uname().nodename if hasattr(os, "uname") else "", "pid": os.getpid(),
            "began": began(os.getpid())}  # fmt: skip


def began(pid: int) -> float | None:
    """Return when a process began, None if there is none."""
    import psutil

    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except psutil.NoSuchProcess:
        return None
