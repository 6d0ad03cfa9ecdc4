"""What the rooms beyond the core need, and a word on how to install it when it is not there.

``pip install tqlearn`` brings torch and three small packages. Whatever else a module of tqlearn
imports, at its top or within a function, ends in one sentence instead of a missing name.
"""

import sys
from importlib.machinery import ModuleSpec

HF = frozenset(
    ("PIL", "accelerate", "datasets", "huggingface_hub", "sacrebleu", "seqeval", "sklearn",
     "tokenizers", "transformers")
)  # fmt: skip
LAB = frozenset(
    ("IPython", "anywidget", "ipywidgets", "nbclient", "nbformat", "packaging", "plotly", "psutil",
     "tensorly", "traitlets")
)  # fmt: skip
LM = frozenset(("gguf",))
SHIP = frozenset(("compressed_tensors", "onnx", "onnxruntime", "onnxscript"))
SWEEP = frozenset(("optuna", "tqdm"))


class SayWhatToInstall:
    """The last finder that Python asks: nobody has the module, and one of ours wants it."""

    @classmethod
    def find_spec(cls, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """Return nothing: the module is not there.

        Raises:
            ModuleNotFoundError: a module of tqlearn asks for a package of an extra.
        """
        if name in HF | LAB | LM | SHIP | SWEEP:
            asking, *above = _asking()
            if asking.split(".")[0] == "tqlearn":
                lab = any(f"{one}.".startswith("tqlearn.lab.") for one in (asking, *above))
                lists = {"lm": LM, "ship": SHIP, "sweep": SWEEP}
                known = {one: extra for extra, names in lists.items() for one in names}
                extra = known.get(name) or ("lab" if lab or name in LAB else "hf")
                words = f"which is not installed: pip install 'tqlearn[{extra}]'"
                raise ModuleNotFoundError(f"{asking} needs {name}, {words}", name=name)
        return None


def _asking() -> list[str]:
    """Return the name of the module whose import statement runs, then who has asked for that."""
    found, frame = [], sys._getframe(1)
    while frame is not None:
        names = frame.f_globals
        if not names.get("__name__", "").startswith(("importlib", __name__)):
            spec = names.get("__spec__")  # of a module that runs as __main__, its real name
            found.append((spec.name if spec else names.get("__name__")) or "")
        frame = frame.f_back
    return found or [""]


def install() -> None:
    """Let Python ask, after everybody else."""
    if SayWhatToInstall not in sys.meta_path:
        sys.meta_path.append(SayWhatToInstall)
