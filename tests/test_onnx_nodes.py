"""The node tests that the onnx package carries, of these operators, bit for bit."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from reference import same_bits

import pycompress as pc

onnx = pytest.importorskip("onnx")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

OPERATORS = {
    "QuantizeLinear": pc.quantize_linear,
    "DequantizeLinear": pc.dequantize_linear,
    "DynamicQuantizeLinear": pc.dynamic_quantize_linear,
    "MatMulInteger": pc.matmul_integer,
    "QLinearMatMul": pc.qlinear_matmul,
    "ConvInteger": pc.conv_integer,
    "QLinearConv": pc.qlinear_conv,
}
# What the oldest onnx of the test extra has; later ones have more types.
AT_LEAST = {
    "QuantizeLinear": 11,
    "DequantizeLinear": 12,
    "DynamicQuantizeLinear": 3,
    "MatMulInteger": 1,
    "QLinearMatMul": 8,
    "ConvInteger": 2,
    "QLinearConv": 1,
}


def node_tests():
    """Directories whose model is one node of these operators: the "_expanded" ones are graphs of others."""
    data = Path(onnx.__file__).parent / "backend" / "test" / "data" / "node"
    for directory in sorted(data.glob("test_*")):
        nodes = onnx.load(directory / "model.onnx").graph.node
        if len(nodes) == 1 and nodes[0].op_type in OPERATORS:
            yield pytest.param(directory, nodes[0], id=directory.name.removeprefix("test_"))


NODES = list(node_tests())


def test_all_are_there():
    found = Counter(param.values[1].op_type for param in NODES)
    assert all(found[operator] >= count for operator, count in AT_LEAST.items()), found


def load(directory, kind, count):
    tensors = []
    for i in range(count):
        tensor = TensorProto()
        tensor.ParseFromString((directory / f"{kind}_{i}.pb").read_bytes())
        tensors.append(numpy_helper.to_array(tensor))
    return tensors


def saturated(wanted, a, a_scale, a_zero_point, b, b_scale, b_zero_point, y_scale, y_zero_point):
    """The operator saturates; where it has to, the int8 data of onnx 1.20 and before are modulo 256
    (onnx issue 7835)."""
    sums = (a.astype(int) - a_zero_point) @ (b.astype(int) - b_zero_point)
    level = sums * (a_scale.astype(float) * b_scale / y_scale) + y_zero_point
    info = np.iinfo(wanted.dtype)
    far_below, far_above = level < info.min - 1, level > info.max + 1
    return np.where(far_below, info.min, np.where(far_above, info.max, wanted)).astype(wanted.dtype)


@pytest.mark.parametrize(("directory", "node"), NODES)
def test_node(directory, node):
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    arguments = {"axis": attributes.pop("axis")} if "axis" in attributes else {}
    for name in ("strides", "pads", "dilations"):
        if name in attributes:
            arguments[name] = tuple(attributes.pop(name))
    if "group" in attributes:
        arguments["group"] = attributes.pop("group")
    attributes.pop("kernel_shape", None)  # that of w
    attributes.pop("block_size", None)  # it is seen in the shape of scale
    output_dtype = attributes.pop("output_dtype", None)
    assert not attributes
    data_sets = sorted(directory.glob("test_data_set_*"))
    assert data_sets
    for data_set in data_sets:
        inputs = load(data_set, "input", len(node.input))
        if output_dtype is not None:
            inputs.append(np.zeros(inputs[1].shape, helper.tensor_dtype_to_np_dtype(output_dtype)))
        outputs = load(data_set, "output", len(node.output))
        if node.op_type == "QLinearMatMul":
            outputs[0] = saturated(outputs[0], *inputs)
        got = OPERATORS[node.op_type](*inputs, **arguments)
        for result, wanted in zip(got if isinstance(got, tuple) else (got,), outputs, strict=True):
            same_bits(result, wanted)
