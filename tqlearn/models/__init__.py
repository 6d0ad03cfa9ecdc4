"""Small models written to be read: a translation Transformer with a point at every tensor."""

from . import sizes
from .nodes import node_maxima, prune_nodes
from .search import beam_search
from .transformer import Transformer

__all__ = ["Transformer", "beam_search", "node_maxima", "prune_nodes", "sizes"]
