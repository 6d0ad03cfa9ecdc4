"""A product of codes and the bias behind it are one operator: ``MatMulIntegerToFloat``,
``MatMulNBits``. onnxruntime joins neither by itself, and each saves a walk over all tokens.

A sum and its LayerNorm could be one too, but onnxruntime 1.32 is slower at a
``SkipLayerNormalization`` on a CPU than at the two.
"""

import collections
from collections.abc import Iterable, Mapping

import onnx
from onnx import helper

from .graph import CONTRIB, attribute, names_in

BIAS = 5  # of MatMulNBits' inputs


class Fusing:
    """Join nodes; what nobody reads any more stays, for ``Writer.finish`` to drop.

    Args:
        nodes: in their order.
        constants: names to tensors.
        outputs: of the model.
    """

    def __init__(
        self,
        nodes: list[onnx.NodeProto],
        constants: Mapping[str, onnx.TensorProto],
        outputs: Iterable[str],
    ) -> None:
        self.nodes, self.constants = nodes, constants
        self.made = {out: node for node in nodes for out in node.output}
        self.reads = collections.Counter(name for node in nodes for name in names_in(node))
        self.reads.update(outputs)

    def run(self) -> list[onnx.NodeProto]:
        """Return the nodes."""
        return [(self._biased(node) if node.op_type == "Add" else None) or node
                for node in self.nodes]  # fmt: skip

    def _only(self, name: str) -> onnx.NodeProto | None:
        """Return the node behind a name, through Identity, if nobody else reads it."""
        while self.reads[name] == 1:
            node = self.made.get(name)
            if node is None or node.op_type != "Identity":
                return node
            name = node.input[0]
        return None

    def _biased(self, node: onnx.NodeProto) -> onnx.NodeProto | None:
        for name, bias in (node.input, [*node.input][::-1]):
            if bias not in self.constants or [*self.constants[bias].dims] in ([], [1]):
                continue
            if len(self.constants[bias].dims) != 1:
                continue
            product = self._only(name)
            if product is None:
                continue
            if product.op_type == "MatMulNBits" and len(product.input) <= BIAS:
                if attribute(product, "N") != self.constants[bias].dims[0]:
                    continue
                new = onnx.NodeProto()
                new.CopyFrom(product)
                new.input.extend([""] * (BIAS - len(new.input)) + [bias])
                new.output[0] = node.output[0]
                return new
            if product.op_type == "MatMul":
                return self._integers(product, bias, node.output[0])
        return None

    def _integers(self, product: onnx.NodeProto, bias: str, out: str) -> onnx.NodeProto | None:
        pair = [self.made.get(name) for name in product.input]
        if any(node is None or node.op_type != "DequantizeLinear" for node in pair):
            return None
        (x, scale, zero), (weight, scales, zeros) = (node.input for node in pair)
        inputs = [x, weight, scale, scales, zero, zeros, bias]
        return helper.make_node("MatMulIntegerToFloat", inputs, [out], domain=CONTRIB)
