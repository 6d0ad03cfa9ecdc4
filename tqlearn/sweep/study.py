"""``Sweep``: what is searched, where the trials are kept, and what came of them."""

import json
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import optuna
from optuna.storages import JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from torch import nn

from ..arguments import require, require_model
from ..spaces import filled, is_open, ranges_in
from ..surgery import match
from .trials import Found, began, found, run, worker

ENDED = TrialState.COMPLETE, TrialState.PRUNED
SAMPLERS = {"tpe": optuna.samplers.TPESampler, "nsga2": optuna.samplers.NSGAIISampler}


def each(model: nn.Module, plan: Mapping[str, object]) -> dict[str, object]:
    """Return a space in which every layer that a pattern names has ranges of its own.

    That is mixed precision: ``each(model, {"*.query": [LSQ(bits=choice(2, 4, 8))]})``.
    """
    first = filled(plan, lambda name, among: getattr(among, "low", None) or _some(among))
    names: dict[str, object] = {}
    for pattern, edits in plan.items():
        only = {pattern: first[pattern]} if first[pattern] else {}
        for name in match(model, only) if only else [pattern]:
            names.setdefault(name, edits)
    return names


def _some(among: object) -> object:
    return repr(among.options[0]) if hasattr(among, "options") else among.high


class Sweep:
    """A search for plans: fewer bytes of the whole packed file against a better score.

    Args:
        model: the teacher; every trial compresses a copy of it.
        space: a plan with ranges (``ints``, ``floats``, ``choice``) among its edits' arguments.
        score: student -> number, larger is better. Measure it on a part of the training data: the
            test split is for what you report in the end.
        train: (student, tell, **options) -> student or None; without it students are calibrated
            only. ``tell(step, score)`` tells an interim score and ends a hopeless trial.
        options: name -> value or range, handed to ``train``: learning rates, distillation or not.
        batches: what calibrates quantized inputs; see ``calibrate``.
        latency: student -> seconds; a third objective.
        limit: students whose file is larger are not trained.
        storage: a file's name (a journal, which several processes of one machine can share), or the
            URL of a database for several machines, such as "postgresql://..."; None keeps the
            study in memory.
        sampler: "nsga2" or "tpe".
        patience: so many trials must have told a score before one is ended as hopeless.
        seed: of sampler and students. The same seed and one worker give the same front.
        name: of the study in its storage.

    Raises:
        TypeError: the space is no plan, or there is no range in it.
        ValueError: an unknown sampler.
    """

    def __init__(
        self,
        model: nn.Module,
        space: Mapping[str, object],
        score: Callable[[nn.Module], float],
        *,
        train: Callable[..., nn.Module | None] | None = None,
        options: Mapping[str, object] | None = None,
        batches: Iterable | None = None,
        latency: Callable[[nn.Module], float] | None = None,
        limit: int | None = None,
        storage: str | Path | None = None,
        sampler: str = "nsga2",
        patience: int = 5,
        seed: int = 0,
        name: str = "sweep",
    ):
        require_model("Sweep", model)
        for key, value in (("seed", seed), ("patience", patience)):
            require(f"Sweep: {key}", value, int)
        require("Sweep: limit", limit, int | None)
        if sampler not in SAMPLERS:
            raise ValueError(f"sampler is one of {sorted(SAMPLERS)}, got {sampler!r}")
        if not (is_open(space) or is_open(options or {})):
            raise TypeError(
                "there is nothing to search: put a range into the plan, such as TT(rank=ints(4, 9))"
            )
        self.model, self.space, self.score, self.train = model, space, score, train
        self.options, self.batches, self.latency = dict(options or {}), batches, latency
        self.limit, self.sampler, self.patience, self.seed = limit, sampler, patience, seed
        self.name = name
        directions = ["minimize", "maximize", *(["minimize"] if latency else [])]
        with _quiet():
            self.study = optuna.create_study(
                storage=_storage(storage), directions=directions, study_name=name,
                load_if_exists=True,
            )  # fmt: skip
        asked = json.dumps([repr(space), repr(options), seed, sampler])
        if self.study.user_attrs.setdefault("asked", asked) != asked:
            raise ValueError(
                f"{storage} holds a study {name!r} of another space, seed or sampler; give another "
                "name or storage"
            )
        self.study.set_user_attr("asked", asked)

    def run(self, trials: int, *, progress: bool = True) -> "Sweep":
        """Go on until the study has so many finished trials, whoever has run them.

        Trials of this machine's processes that have died are begun anew, with the plans they had.
        The last trials of other machines are not waited for.
        """
        from tqdm.auto import tqdm

        with _quiet(), tqdm(total=trials, disable=not progress, unit="trial") as bar:
            while (done := self._ended()) < trials:
                bar.update(done - bar.n)
                self._retry()
                running = self.study.get_trials(deepcopy=False, states=[TrialState.RUNNING])
                if done + len(running) < trials:
                    self._one()
                elif any(_is_here(trial) for trial in running):  # it may die yet
                    time.sleep(0.2)
                else:
                    break  # the last ones are with other machines
            bar.update(done - bar.n)
        return self

    def _ended(self) -> int:
        return len(self.study.get_trials(deepcopy=False, states=ENDED))

    def _one(self) -> None:
        """Ask for one plan and try it. A sampler begins anew each time: a kill leaves no trace."""
        asked = len(self.study.get_trials(deepcopy=False))
        self.study.sampler = SAMPLERS[self.sampler](seed=self.seed * 100_003 + asked)
        trial = self.study.ask()
        try:
            values = run(self, self.study, trial)
        except optuna.TrialPruned as reason:
            trial.set_user_attr("ended", str(reason))
            self.study.tell(trial, state=TrialState.PRUNED)
        except BaseException:
            self.study.tell(trial, state=TrialState.FAIL)
            raise
        else:
            self.study.tell(trial, values)

    def _retry(self) -> None:
        """Give up trials whose process has died, and queue their plans."""
        for trial in self.study.get_trials(deepcopy=False, states=[TrialState.RUNNING]):
            owner = trial.user_attrs.get("worker")
            if owner and _is_here(trial) and began(owner["pid"]) != owner["began"]:
                try:
                    self.study.tell(trial.number, state=TrialState.FAIL)
                except (ValueError, RuntimeError):
                    continue  # another worker was first
                self.study.enqueue_trial(trial.params, {"again": trial.number})

    def front(self) -> list[Found]:
        """Return the trials that no other beats in everything, fewest bytes first."""
        best = [found(trial) for trial in self.study.best_trials]
        return sorted(best, key=lambda one: (one.bytes, -one.score, one.number))

    def best(self, limit: int | None = None) -> Found:
        """Return the best score, of all or of those whose file is at most ``limit`` bytes.

        Raises:
            ValueError: there is none.
        """
        small = [one for one in self.front() if limit is None or one.bytes <= limit]
        if not small:
            sizes = [one.bytes for one in self.front()]
            least = f"the smallest has {sizes[0]:,}" if sizes else "no trial has finished"
            raise ValueError(f"no model has at most {limit} bytes; {least}")
        return max(small, key=lambda one: (one.score, -one.bytes))

    def table(self) -> str:
        """Return the front as text."""
        lines = [f"{'bytes':>12} {'score':>10}  plan"]
        for one in self.front():
            lines.append(f"{one.bytes:>12,} {one.score:>10.4g}  {_plan_words(one)}")
        states = [t.state for t in self.study.get_trials(deepcopy=False)]
        counts = (f"{states.count(s)} {s.name.lower()}" for s in dict.fromkeys(states))
        ranges = len([*ranges_in([self.space, self.options])])
        return "\n".join([*lines, f"trials: {', '.join(counts)}; {ranges} ranges"])


def _is_here(trial: optuna.trial.FrozenTrial) -> bool:
    """Say whether a trial runs on this machine; one that has just begun has not said so yet."""
    here = worker()["host"]
    return trial.user_attrs.get("worker", {"host": here})["host"] == here


def _plan_words(one: Found) -> str:
    words = []
    for pattern, edits in one.plan.items():
        said = (f"{e['edit']}({', '.join(f'{k}={v}' for k, v in e.items() if k != 'edit')})"
                for e in edits)  # fmt: skip
        words.append(f"{pattern}: {' '.join(said) or '-'}")
    return "; ".join([*words, *(f"{k}={v}" for k, v in one.options.items())])


def plot_front(sweep: Sweep) -> "plotly.graph_objects.Figure":  # noqa: F821
    """Return a figure of all finished trials, and their front as a staircase (extra ``lab``)."""
    import plotly.graph_objects as go

    done = sweep.study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])
    parts = (("all trials", [found(t) for t in done], "markers"),
             ("front", sweep.front(), "lines+markers"))  # fmt: skip
    figure = go.Figure(layout={"xaxis_title": "bytes of the whole file", "xaxis_type": "log",
                               "yaxis_title": "score"})  # fmt: skip
    for name, ones, mode in parts:
        figure.add_scatter(
            x=[one.bytes for one in ones], y=[one.score for one in ones], name=name, mode=mode,
            text=[_plan_words(one) for one in ones], line_shape="hv",
        )  # fmt: skip
    return figure


def _storage(where: str | Path | None) -> optuna.storages.BaseStorage | None:
    """Open a journal in a file, or the database of a URL."""
    if where is None:
        return None
    if "://" in str(where):
        return RDBStorage(str(where))
    Path(where).parent.mkdir(parents=True, exist_ok=True)
    return JournalStorage(JournalFileBackend(str(where)))


class _quiet:  # noqa: N801
    """Optuna says a line per trial; our bar says enough."""

    def __enter__(self) -> None:
        self.level = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(optuna.logging.WARNING)

    def __exit__(self, *_: object) -> None:
        optuna.logging.set_verbosity(self.level)
