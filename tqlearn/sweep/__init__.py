"""Search plans on Optuna: whole-file bytes against score, shared by workers, resumed after a kill.

    from tqlearn.sweep import Sweep, choice, ints

    space = {"*.query": [tq.TT(rank=ints(4, 64)), tq.LSQ(bits=choice(2, 3, 4, 8))]}
    sweep = Sweep(teacher, space, score=accuracy, train=fine_tune, storage="flights.sweep")
    sweep.run(trials=100)
    print(sweep.table())
    student = tq.compress(teacher, sweep.best(limit=500_000).plan)

- ``study``: Sweep: what is searched and where it is kept; the front, the best under a size
- ``trials``: one trial: plan, student, bytes, training, score; what is hopeless ends early
- ``__main__``: ``python -m tqlearn.sweep FILE.py --workers 2``

Needs the extra ``sweep``. Ranges come from ``tqlearn.spaces``.
"""

from ..spaces import choice, filled, floats, ints, read, written
from .study import Sweep, each, plot_front
from .trials import Found

__all__ = [
    "Found",
    "Sweep",
    "choice",
    "each",
    "filled",
    "floats",
    "ints",
    "plot_front",
    "read",
    "written",
]
