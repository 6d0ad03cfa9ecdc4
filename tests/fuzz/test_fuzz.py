"""Damaged models: refused by name, or loaded to the same outputs; never wrong in silence.

A few hundred loads here; ``TQLEARN_FUZZ=10000 pytest tests/fuzz`` for more, and with
``TQLEARN_FUZZ_SEED`` other ones. benchmarks/fuzz.py writes the counts of ten thousand.
"""

import os

import pytest
import transformers
from loads import KINDS, fuzz

TIMES = int(os.environ.get("TQLEARN_FUZZ", "400"))
SEED = int(os.environ.get("TQLEARN_FUZZ_SEED", "0"))
SHARES = {"file, payload": 0.3, "file, layout": 0.25, "folder, payload": 0.15,
          "folder, layout": 0.1, "folder, config": 0.04, "folder, shards": 0.04,
          "layout with digests of its own": 0.06, "no digests": 0.06}  # fmt: skip


@pytest.fixture(autouse=True)
def quiet():
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity(transformers.logging.CRITICAL)
    yield
    transformers.utils.logging.enable_progress_bar()
    transformers.utils.logging.set_verbosity_warning()


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_damage_is_refused_or_harmless(kind, tmp_path):
    wrong = []
    counts = fuzz(kind, tmp_path, max(8, round(TIMES * SHARES[kind])), SEED,
                  lambda *what: wrong.append(what))  # fmt: skip
    if kind in ("layout with digests of its own", "no digests"):
        # nobody can tell that such a file was meant otherwise: no crash is all that is asked
        wrong = [what for what in wrong if what[2] != "silent"]
        assert counts["refused"] > 0
    else:
        assert counts["refused"] > sum(counts.values()) / 2 or kind == "folder, config"
    assert not wrong, wrong[:5]
