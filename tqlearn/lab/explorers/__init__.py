"""Explorers, one file per notebook: a pure function, a drawing of it, sliders over the drawing."""

from .base import Explorer, choice, sweep
from .budget import budget, budget_explorer, draw_budget
from .tradeoff import BITS, RANKS, compressed_bert_explorer, draw_tradeoff, join, untrained

__all__ = [
    "BITS",
    "RANKS",
    "Explorer",
    "budget",
    "budget_explorer",
    "choice",
    "compressed_bert_explorer",
    "draw_budget",
    "draw_tradeoff",
    "join",
    "sweep",
    "untrained",
]
