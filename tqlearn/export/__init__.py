"""Models for other engines; needs the extra ``ship``.

- ``verb``: export, and what each target refuses
- ``tracing``: a model as a graph in which codes are still codes
- ``grids``: what codes and roundings are to another engine
- ``lowering``: from the trace to operators of onnx and onnxruntime (``products``, ``tables``)
- ``attention``: one node on hidden states; ``fusing``: neighbors that are one operator
- ``unpacking``: streams of codes to what an operator reads, at loading
- ``graph``: a graph of ONNX that is written anew
- ``folders``: folders that plain transformers reads: dense, compressed-tensors
"""

from .verb import TARGETS, export

__all__ = ["TARGETS", "export"]
