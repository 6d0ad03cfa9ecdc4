"""From a traced graph to operators that keep codes as codes.

A ``Decode`` of the trace (a packed tensor) and a ``Round`` (a quantizer of activations) become, by
who reads them:

- a product with a 2-d weight: ``MatMulNBits``; behind a ``Round``, QuantizeLinear, DequantizeLinear
  and MatMul, which the CPU provider fuses to an integer product
- a look-up in a table: ``GatherBlockQuantized``
- anything else: the floats, see ``unpacking.floats``

Source: onnxruntime's documentation of its contrib operators.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import onnx

from . import attention, unpacking
from .fusing import Fusing
from .graph import CONTRIB, Writer, attribute, names_in
from .grids import Rounding, Weight
from .products import Product
from .tables import look_up

LEAST = 512  # numbers: a smaller weight is not worth an operator of its own


class Lowering:
    """Write a traced graph anew.

    Args:
        model: the trace.
        weights, roundings: by the key that a ``Decode`` or ``Round`` node carries.
    """

    def __init__(
        self, model: onnx.ModelProto, weights: dict[str, Weight], roundings: dict[str, Rounding]
    ) -> None:
        self.w = Writer(model)
        self.attention = attention.Attention(self.w, self.w.model.graph)
        self.weights, self.roundings = weights, roundings
        self.decoded: dict[str, tuple[Weight, bool]] = {}  # and whether it is seen transposed
        self.rounded: dict[str, tuple[Rounding, str]] = {}  # and the output of DequantizeLinear

    def run(self) -> onnx.ModelProto:
        """Return the model in operators of onnx and onnxruntime."""
        graph = self.w.model.graph
        for node in [*graph.node]:
            if not self._taken(node):
                self._plain(node)
        for value in graph.output:
            if (found := self._value(value.name)) != value.name:
                self.w.add("Identity", [found], out=value.name)
        outputs = [value.name for value in graph.output]
        self.w.nodes = Fusing(self.w.nodes, self.w.constants, outputs).run()
        domains = {n.domain: 1 for n in self.w.nodes if n.domain == CONTRIB}
        domains |= {"": attention.OPSET} if self.attention.used else {}
        return self.w.finish(domains)

    def _taken(self, node: onnx.NodeProto) -> bool:
        """Handle a node that we have something better for; say whether we did."""
        if self.attention.taken(node):
            return True
        if node.domain == "tqlearn":
            if node.op_type == "Attend":
                self.attention.write(node, self._value)
                return True
            key = attribute(node, "key").decode()
            if node.op_type == "Decode":
                self.decoded[node.output[0]] = self.weights[key], False
            else:
                self._rounding(node, self.roundings[key])
            return True
        ways: dict[str, Callable] = {
            "Transpose": self._transpose, "MatMul": self._matmul, "Gemm": self._gemm,
            "Gather": self._gather, "Reshape": self._reshape,
        }  # fmt: skip
        way = ways.get(node.op_type) if node.domain == "" else None
        return way is not None and way(node)

    def _plain(self, node: onnx.NodeProto) -> None:
        if key := next(hidden(node), None):
            raise ValueError(
                f"{key} is read inside a branch or a loop of the model, where no operator on codes "
                "can stand; leave it out of the plan"
            )
        new = onnx.NodeProto()
        new.CopyFrom(node)
        for i, name in enumerate(new.input):
            new.input[i] = self._value(name)
        for name in set(names_in(node)) - set(node.input):  # read inside a body, by this name
            if (found := self._value(name)) != name:
                self.w.once(
                    (name, "body"), lambda f=found, n=name: self.w.add("Identity", [f], out=n)
                )
        self.w.nodes.append(new)

    def _value(self, name: str) -> str:
        """Return the floats of a name."""
        if name in self.decoded:
            weight, turned = self.decoded[name]
            found = unpacking.floats(self.w, weight)
            if turned:
                key = (weight.name, "turned")
                found = self.w.once(key, lambda: self.w.add("Transpose", [found], perm=[1, 0]))
            return found
        if name in self.rounded:
            rounding, out = self.rounded[name]
            if not rounding.shift.any():
                return out
            back = self.w.constant(rounding.shift)
            return self.w.once((out, "back"), lambda: self.w.add("Sub", [out, back]))
        return self.attention.value(name) or name

    def _rounding(self, node: onnx.NodeProto, r: Rounding) -> None:
        """Write a ``Round``; what it makes of factors alone is a weight in codes."""
        w, x = self.w, self._value(node.input[0])
        q, pair, axis = self._codes(r, x)
        if r.scale.size == 1 and not r.shift.any() and w.is_fixed(x):
            values = w.computed(q)
            bits, stream = (r.levels - 1).bit_length(), values.reshape(-1)
            zero = r.whole.astype(np.float32)
            made = Weight(node.output[0], values.shape, stream, bits, r.scale, zero)
            self._made(node.output[0], made, q)
        else:
            self.rounded[node.output[0]] = r, w.add("DequantizeLinear", [q, *pair], **axis)

    def _made(self, name: str, weight: Weight, codes: str) -> None:
        """Take codes that are computed at loading for a weight."""
        self.decoded[name] = replace(weight, name=name, core=True, made=True), False
        self.w.once((name, "codes"), lambda: codes)

    def _codes(self, r: Rounding, x: str) -> tuple[str, tuple[str, str], dict[str, int]]:
        """Add QuantizeLinear; fewer codes than a byte has are clipped."""
        w = self.w
        if r.shift.any():
            x = w.add("Add", [x, w.constant(r.shift)])
        if r.levels < 256:
            low, high = (-(r.whole * r.scale), (r.levels - 1.0 - r.whole) * r.scale)
            x = w.add("Max", [w.add("Min", [x, w.constant(high)]), w.constant(low)])
        many = r.scale.size > 1
        pair = (
            w.constant(r.scale if many else r.scale[0]),
            w.constant(r.whole if many else r.whole[0], np.uint8),
        )
        axis = {"axis": -1} if many else {}
        return w.add("QuantizeLinear", [x, *pair], **axis), pair, axis

    def _reshape(self, node: onnx.NodeProto) -> bool:
        weight, turned = self.decoded.get(node.input[0], (None, False))
        if weight is None or not weight.made or turned or not self.w.is_fixed(node.input[1]):
            return False
        codes = self.w.add("Reshape", [unpacking.codes(self.w, weight), node.input[1]])
        shape = self.w.computed(codes).shape
        self._made(node.output[0], replace(weight, shape=shape), codes)
        return True

    def _transpose(self, node: onnx.NodeProto) -> bool:
        weight, turned = self.decoded.get(node.input[0], (None, False))
        if weight is None or [*attribute(node, "perm", [1, 0])] != [1, 0] or len(weight.shape) != 2:
            return False
        self.decoded[node.output[0]] = weight, not turned
        return True

    def _matmul(self, node: onnx.NodeProto) -> bool:
        return self._product(node, turned=False, bias=None)

    def _gemm(self, node: onnx.NodeProto) -> bool:
        scaled = any(attribute(node, k, 1.0) != 1.0 for k in ("alpha", "beta"))
        if scaled or attribute(node, "transA", 0):
            return False
        bias = node.input[2] if len(node.input) > 2 and node.input[2] else None
        return self._product(node, bool(attribute(node, "transB", 0)), bias)

    def _product(self, node: onnx.NodeProto, turned: bool, bias: str | None) -> bool:
        weight, seen = self.decoded.get(node.input[1], (None, False))
        if weight is None or len(weight.shape) != 2 or weight.bits is None or weight.numel < LEAST:
            return False
        stored = seen != turned  # as nn.Linear stores it, (out, in)
        rounding, x = self.rounded.get(node.input[0], (None, None))
        if weight.made and rounding is None:
            return False
        product = Product(self.w, weight, stored)
        if rounding is not None and rounding.scale.size == 1 and product.by_row:
            out = product.integers(x, rounding)
        elif weight.core and weight.container == 8:
            return False  # a small factor: floats are faster, and take little memory
        elif product.block is not None:
            out = product.nbits(self._value(node.input[0]))
        else:
            return False
        if bias is not None:
            out = self.w.add("Add", [out, self._value(bias)])
        self.w.add("Identity", [out], out=node.output[0])
        return True

    def _gather(self, node: onnx.NodeProto) -> bool:
        weight, turned = self.decoded.get(node.input[0], (None, False))
        if weight is None or turned or attribute(node, "axis", 0) or len(weight.shape) != 2:
            return False
        found = look_up(self.w, weight, self._value(node.input[1]))
        if found is not None:
            self.w.add("Identity", [found], out=node.output[0])
        return found is not None


def hidden(node: onnx.NodeProto) -> Iterator[str]:
    """Yield the keys of packed tensors and roundings inside the bodies of a node."""
    for found in node.attribute:
        if found.type == onnx.AttributeProto.GRAPH:
            for inner in found.g.node:
                if inner.domain == "tqlearn":
                    yield attribute(inner, "key", inner.op_type.encode()).decode()
                yield from hidden(inner)
