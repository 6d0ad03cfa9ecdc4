"""A graph of ONNX that is written anew, node by node."""

from collections.abc import Callable, Sequence

import numpy as np
import onnx
from onnx import helper, inliner, numpy_helper

CONTRIB = "com.microsoft"  # operators of onnxruntime's own
SMALL = 4096  # bytes: constants up to here are looked for among those that are there


class Writer:
    """Collect nodes and constants; names that a torch export gave keep their meaning.

    Args:
        model: whose constants are kept, and whose nodes the caller hands on one by one.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        if model.functions:
            model = inliner.inline_local_functions(model)
        self.model, self.nodes = model, []
        self.constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self._known: dict[object, str] = {}
        self._fixed: set[str] = {""}  # an input that is left out
        self._made_by: dict[str, onnx.NodeProto] = {}
        self._seen = 0
        self._count = 0

    def name(self, word: str) -> str:
        """Return a name that nothing has."""
        self._count += 1
        return f"tq_{word}_{self._count}"

    def constant(self, values: object, dtype: type = np.float32, name: str = "constant") -> str:
        """Return the name of a constant; small ones of equal values are one."""
        array = np.ascontiguousarray(np.asarray(values, dtype=dtype))
        array = array.reshape(np.shape(values))  # of no axes, too
        key = (array.shape, array.dtype.str, array.tobytes()) if array.nbytes <= SMALL else None
        if key is None or key not in self._known:
            new = self.name(name)
            self.constants[new] = numpy_helper.from_array(array, new)
            if key is None:
                return new
            self._known[key] = new
        return self._known[key]

    def add(
        self, op: str, inputs: Sequence[str], domain: str = "", out: str | None = None, **attributes
    ) -> str:
        """Add a node of one output and return the output's name."""
        out = self.name(op.lower()) if out is None else out
        self.nodes.append(helper.make_node(op, [*inputs], [out], domain=domain, **attributes))
        return out

    def once(self, key: object, make: Callable[[], str]) -> str:
        """Return what was made under a key, made now if it is the first time."""
        if key not in self._known:
            self._known[key] = make()
        return self._known[key]

    def is_fixed(self, name: str) -> bool:
        """Say whether a name depends on no input."""
        for node in self.nodes[self._seen :]:
            self._made_by.update(dict.fromkeys(node.output, node))
            if all(one in self.constants or one in self._fixed for one in names_in(node)):
                self._fixed.update(node.output)
        self._seen = len(self.nodes)
        return name in self.constants or name in self._fixed

    def computed(self, name: str) -> np.ndarray:
        """Return the values of a name, as onnxruntime computes them.

        Raises:
            ValueError: they depend on an input.
        """
        import onnxruntime

        if not self.is_fixed(name):
            raise ValueError(f"{name} depends on what the model is called with")
        nodes, wanted = {}, [name]
        while wanted:
            one = wanted.pop()
            node = self._made_by.get(one)
            if node is not None and id(node) not in nodes:
                nodes[id(node)] = node
                wanted += names_in(node)
        chosen = [node for node in self.nodes if id(node) in nodes]
        used = {one for node in chosen for one in names_in(node)}
        held = [tensor for one, tensor in self.constants.items() if one in used]
        out = helper.make_empty_tensor_value_info(name)
        graph = helper.make_graph(chosen, "fixed", [], [out], held)
        model = helper.make_model(
            graph, opset_imports=self.model.opset_import, ir_version=self.model.ir_version
        )
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        engine = onnxruntime.InferenceSession(model.SerializeToString(), options)
        return engine.run([name], {})[0]

    def has(self, key: object) -> bool:
        """Say whether ``once`` has made something under a key."""
        return key in self._known

    def finish(self, domains: dict[str, int]) -> onnx.ModelProto:
        """Return the model with the nodes that were written and the constants that they use."""
        graph, used, kept = self.model.graph, {value.name for value in self.model.graph.output}, []
        for node in reversed(self.nodes):  # what nobody reads any more goes
            if used.intersection(node.output):
                used.update(filter(None, names_in(node)))
                kept.append(node)
        self.nodes = kept[::-1]
        del graph.node[:], graph.initializer[:], graph.value_info[:]
        for node in self.nodes:  # where in the code it came from would outweigh a small model
            del node.metadata_props[:]
            node.doc_string = ""
        del graph.metadata_props[:], self.model.metadata_props[:]
        graph.node.extend(self.nodes)
        graph.initializer.extend(t for name, t in self.constants.items() if name in used)
        kept = {i.domain: i.version for i in self.model.opset_import if i.domain != "tqlearn"}
        del self.model.opset_import[:]
        for domain, version in (kept | domains).items():
            self.model.opset_import.append(helper.make_opsetid(domain, version))
        return self.model


def names_in(node: onnx.NodeProto) -> list[str]:
    """Return what a node reads, inside its bodies too."""
    found = [*node.input]
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            found += [name for inner in attribute.g.node for name in names_in(inner)]
            found += [value.name for value in attribute.g.output]
    return found


def attribute(node: onnx.NodeProto, name: str, default: object = None) -> object:
    """Return the value of an attribute of a node."""
    for found in node.attribute:
        if found.name == name:
            return helper.get_attribute_value(found)
    return default
