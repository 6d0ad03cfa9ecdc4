"""Attention as one node: ``Attention`` of onnx on hidden states, heads never moved to the front.

The trace has a node of ours in the place of ``F.scaled_dot_product_attention``; what torch's
exporter makes of that is a product, a mask, a softmax, a search for NaN and a product, each a walk
over (batch, heads, tokens, tokens).
"""

import contextlib
from collections.abc import Callable, Iterator

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from onnx import numpy_helper
from torch import Tensor

from .graph import Writer, attribute

OPSET = 23  # the first with Attention
SAME = ("Expand", "Unsqueeze", "Identity", "Reshape", "Cast")  # all true stays all true
SWAP = [0, 2, 1, 3]  # (batch, tokens, heads, width) to (batch, heads, tokens, width), and back


@contextlib.contextmanager
def as_one_node() -> Iterator[None]:
    """Have a trace take attention for one node, "tqlearn::Attend"."""
    plain = F.scaled_dot_product_attention

    def attend(
        query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None,
        dropout_p: float = 0.0, is_causal: bool = False, scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:  # fmt: skip
        other = dropout_p or is_causal or enable_gqa or query.dim() != 4
        if other or (attn_mask is not None and attn_mask.dim() != 4):
            return plain(query, key, value, attn_mask, dropout_p, is_causal, scale=scale,
                         enable_gqa=enable_gqa)  # fmt: skip
        inputs = (query, key, value) if attn_mask is None else (query, key, value, attn_mask)
        return torch.onnx.ops.symbolic(
            "tqlearn::Attend", inputs, {"scale": scale or query.shape[-1] ** -0.5},
            dtype=query.dtype, shape=(*query.shape[:-1], value.shape[-1]), version=1,
        )  # fmt: skip

    F.scaled_dot_product_attention = attend
    try:
        yield
    finally:
        F.scaled_dot_product_attention = plain


class Attention:
    """What a traced graph says around its "Attend" nodes.

    Args:
        w: where the new graph is written.
        graph: the trace.
    """

    def __init__(self, w: Writer, graph: onnx.GraphProto) -> None:
        self.w = w
        self.made = {out: node for node in graph.node for out in node.output}
        values = (*graph.value_info, *graph.input, *graph.output)
        self.shapes = {
            v.name: [d.dim_value or d.dim_param for d in v.type.tensor_type.shape.dim]
            for v in values
        }
        self.flat: dict[str, tuple[str, int]] = {}  # heads in front -> hidden states, heads
        self.swapped: dict[str, str] = {}  # the same, heads behind the tokens
        self.used = False

    def hidden(self, name: str) -> str | None:
        """Return the (batch, tokens, heads * width) that a tensor of heads was made of."""
        node = self.made.get(name)
        if node is None or node.op_type != "Transpose" or [*attribute(node, "perm", [])] != SWAP:
            return None
        split = self.made.get(node.input[0])
        if split is None or split.op_type != "Reshape":
            return None
        before, after = self.shapes.get(split.input[0], []), self.shapes.get(split.output[0], [])
        if len(before) != 3 or before[:2] != after[:2] or len(after) != 4:
            return None
        whole = all(isinstance(n, int) for n in after[2:]) and before[2] == after[2] * after[3]
        return split.input[0] if whole else None

    def write(self, node: onnx.NodeProto, value: Callable[[str], str]) -> None:
        """Write an "Attend" node; ``value`` gives the name of a tensor in the new graph."""
        query, key, values, *mask = node.input
        three = [self.hidden(name) for name in (query, key, values)]
        heads = [self.shapes.get(name, [None, None])[1] for name in (query, key)]
        options = {"scale": attribute(node, "scale")}
        if None not in three:
            options |= {"q_num_heads": heads[0], "kv_num_heads": heads[1]}
        inputs = [value(name) for name in ((query, key, values) if None in three else three)]
        if mask and not self.is_true(mask[0]):
            length = self.shapes.get(query, [None] * 3)[2] or query
            inputs.append(
                self._mask(value(mask[0]), mask[0], inputs[0], 1 + (None in three), length)
            )
        y = self.w.add("Attention", inputs, **options)
        self.used = True
        if None in three:
            self.w.add("Identity", [y], out=node.output[0])
        else:
            self.flat[node.output[0]] = y, heads[0]

    def _mask(self, new: str, name: str, query: str, axis: int, length: object) -> str:
        """Return a mask with a row for every query; onnxruntime wants them written out.

        Layers with queries of one length share it; those of a decoder may have another.
        """
        if self.shapes.get(name, [0, 0])[-2] != 1:
            return new
        return self.w.once((new, length, "rows"), lambda: self._rows(new, query, axis))

    def _rows(self, mask: str, query: str, axis: int) -> str:
        w, one = self.w, self.w.constant([1], np.int64)
        tokens = w.add("Shape", [query], start=axis, end=axis + 1)
        return w.add("Expand", [mask, w.add("Concat", [one, one, tokens, one], axis=0)])

    def taken(self, node: onnx.NodeProto) -> bool:
        """Follow the way of the heads back to hidden states; say whether the node is on it."""
        if not node.input:
            return False
        name, out = node.input[0], node.output[0]
        if node.op_type == "Reshape" and name in self.flat and self._same(name, out):
            self.flat[out] = self.flat[name]
            return True
        if node.op_type == "Transpose" and name in self.flat:
            if [*attribute(node, "perm", [])] == SWAP:
                self.swapped[out] = name
                return True
        if node.op_type == "Reshape" and name in self.swapped:
            before, after = self.shapes.get(name, []), self.shapes.get(out, [])
            if len(before) == 4 and len(after) == 3 and before[:2] == after[:2]:
                self.w.add("Identity", [self.flat[self.swapped[name]][0]], out=out)
                return True
        return False

    def _same(self, before: str, after: str) -> bool:
        """Say whether a view of heads is of the shape that they have."""
        a, b = (self.shapes.get(name, []) for name in (before, after))
        return len(a) == len(b) == 4 and a[1] == b[1] and a[3] == b[3] and a[0] == b[0]

    def value(self, name: str) -> str | None:
        """Return a tensor of heads for whoever else reads it; None if it is not one of ours."""
        if name in self.swapped:
            y, heads = self.flat[self.swapped[name]]
            return self.w.once((name, "heads"), lambda: self._split(y, heads))
        if name in self.flat:
            y, heads = self.flat[name]
            return self.w.once(
                (name, "front"),
                lambda: self.w.add("Transpose", [self._split(y, heads)], perm=SWAP),
            )
        return None

    def _split(self, y: str, heads: int) -> str:
        return self.w.add("Reshape", [y, self.w.constant([0, 0, heads, -1], np.int64)])

    def is_true(self, name: str) -> bool:
        """Say whether a mask is true everywhere, whatever comes in: a position is 0 or more.

        transformers draws such a mask for a trace, where a call without one has none.
        """
        node = self.made.get(name)
        while node is not None and node.op_type in SAME:
            node = self.made.get(node.input[0])
        if node is None or node.op_type != "GreaterOrEqual" or self._number(node.input[1]) != 0:
            return False
        node = self.made.get(node.input[0])
        while node is not None and node.op_type in SAME:
            node = self.made.get(node.input[0])
        if node is None or node.op_type != "Range":
            return False
        return self._number(node.input[0]) == 0 and self._number(node.input[2]) == 1

    def _number(self, name: str) -> float | None:
        tensor, node = self.w.constants.get(name), self.made.get(name)
        if tensor is None and node is not None and node.op_type == "Constant":
            tensor = attribute(node, "value")
        array = None if tensor is None else numpy_helper.to_array(tensor)
        return float(array.reshape(())) if array is not None and array.size == 1 else None
