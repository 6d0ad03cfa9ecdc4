"""A weight as a product of small tensors.

- ``svd``: the leading singular triples, three ways
- ``low_rank``: a matrix as two thin ones
- ``trains``: tensor trains (TT) and tensor-train matrices (TTM)
- ``kronecker``: the nearest sum of Kronecker products
- ``cores``: what the layers below share
- ``layers``: TTLinear, LowRankLinear
- ``embeddings``: TTMEmbedding
- ``kronecker_layers``: KroneckerLinear, KroneckerEmbedding
- ``sizing``: how large: a rank, a ratio or an error
- ``edits``: TT, LowRank, TTM (and ``kronecker_edit``: Kronecker)
- ``peers``: trains as tensorly's objects and back
"""

from ..precision import widened
from .edits import TT, TTM, LowRank
from .embeddings import TTMEmbedding
from .kronecker import check_pair, kronecker_dense, modes_within, nearest_kronecker, rearrange
from .kronecker_edit import Kronecker
from .kronecker_layers import KroneckerCores, KroneckerEmbedding, KroneckerLinear
from .layers import LowRankLinear, TTLinear, check_modes
from .low_rank import low_rank
from .peers import from_tensorly, tensorly_axes, to_tensorly
from .sizing import Structure
from .svd import allowed_norm, check_finite, leading, squares, truncated_svd
from .trains import balance_norms, check_table_modes, tt_dense, tt_svd, ttm_dense, ttm_svd

__all__ = [
    "Kronecker",
    "KroneckerCores",
    "KroneckerEmbedding",
    "KroneckerLinear",
    "LowRank",
    "LowRankLinear",
    "Structure",
    "TT",
    "TTLinear",
    "TTM",
    "TTMEmbedding",
    "allowed_norm",
    "balance_norms",
    "check_finite",
    "check_modes",
    "check_pair",
    "check_table_modes",
    "from_tensorly",
    "kronecker_dense",
    "leading",
    "low_rank",
    "modes_within",
    "nearest_kronecker",
    "rearrange",
    "squares",
    "tensorly_axes",
    "to_tensorly",
    "truncated_svd",
    "tt_dense",
    "tt_svd",
    "ttm_dense",
    "ttm_svd",
    "widened",
]
