"""onnxruntime's CPU provider, input and result bound. Its MLAS asks the CPU what there is and cannot be held."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pycompress.bench.conv import Operands as Images
from pycompress.bench.gemm import Operands, int4_groups
from pycompress.bench.peer import Peer, Ready, threads

from ._sparse import serve_dense

PEER = Peer("onnxruntime", "onnxruntime", ["onnxruntime", "onnx"])


@PEER.family(
    "gemm",
    {
        "u8s8": "MatMulInteger",
        "dynamic": "DynamicQuantizeLinear, MatMulInteger, Mul",
        "static": "QLinearMatMul",
        "f32": "MatMul",
        "int4_32": "MatMulNBits, accuracy_level 4",
        "int4_128": "MatMulNBits, accuracy_level 4",
    },
)
def gemm(operands: Operands, form: str) -> Ready:
    from onnx import helper

    (n, k), weight, x, result = operands.w.shape, operands.weight, operands.x, np.float32
    scale, zero_point = operands.x_qparams
    nodes, constants = [], {"w": np.ascontiguousarray(weight.q.T)}
    if form == "u8s8":
        x, result = operands.q, np.int32
        constants |= {"xz": np.uint8(zero_point)}
        nodes = [helper.make_node("MatMulInteger", ["x", "w", "xz"], ["y"])]
    elif form == "dynamic":
        constants |= {"ws": weight.scale}
        nodes = [
            helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "xs", "xz"]),
            helper.make_node("MatMulInteger", ["q", "w", "xz"], ["sums"]),
            helper.make_node("Cast", ["sums"], ["float_sums"], to=1),
            helper.make_node("Mul", ["xs", "ws"], ["scale"]),
            helper.make_node("Mul", ["float_sums", "scale"], ["y"]),
        ]  # which it fuses into its DynamicQuantizeMatMul
    elif form == "static":
        x, result, (y_scale, y_zero_point) = operands.q, np.uint8, operands.y_qparams
        constants |= {"xs": np.float32(scale), "xz": np.uint8(zero_point), "ws": weight.scale, "wz": np.zeros(n, "i1")}
        constants |= {"ys": np.float32(y_scale), "yz": np.uint8(y_zero_point)}
        nodes = [helper.make_node("QLinearMatMul", ["x", "xs", "xz", "w", "ws", "wz", "ys", "yz"], ["y"])]
    elif form == "f32":
        constants = {"w": np.ascontiguousarray(operands.w.T)}
        nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    else:
        size = int(form.removeprefix("int4_"))
        q, scales = int4_groups(operands.w, size)
        levels = (q + 8).astype(np.uint8)
        constants = {"w": levels[..., ::2] | levels[..., 1::2] << 4, "ws": scales}
        about = {"K": k, "N": n, "bits": 4, "block_size": size, "accuracy_level": 4, "domain": "com.microsoft"}
        nodes = [helper.make_node("MatMulNBits", ["x", "w", "ws"], ["y"], **about)]
    return _session(nodes, constants, x, np.zeros((len(x), n), result))


serve_dense(PEER, gemm)


@PEER.family("conv", {"static": "QLinearConv, channels_last", "f32": "Conv, NCHW"})
def conv(images: Images, form: str) -> Ready:
    from onnx import helper

    nodes, constants, x = [], {}, "x"
    for i, layer in enumerate(images.layers):
        y = "y" if layer is images.layers[-1] else f"mid{i}"
        about = {
            "kernel_shape": layer.w.shape[2:],
            "strides": [layer.stride] * 2,
            "pads": [layer.padding] * 4,
            "group": layer.groups,
        }
        if form == "f32":
            constants[f"w{i}"] = layer.w
            nodes.append(helper.make_node("Conv", [x, f"w{i}"], [y], **about))
        else:
            named = {"w": layer.q, "ws": layer.scale, "wz": np.zeros(len(layer.q), np.int8)}
            for at, (scale, zero_point) in (("x", layer.x_qparams), ("y", layer.y_qparams)):
                named |= {f"{at}s": np.float32(scale), f"{at}z": np.uint8(zero_point)}
            constants |= {f"{name}{i}": value for name, value in named.items()}
            inputs = [x, *(f"{name}{i}" for name in ("xs", "xz", "w", "ws", "wz", "ys", "yz"))]
            nodes.append(helper.make_node("QLinearConv", inputs, [y], **about, channels_last=1, domain="com.microsoft"))
        x = y
    b, h, w, c = images.result_shape
    if form == "static":
        return _session(nodes, constants, images.q, np.zeros((b, h, w, c), np.uint8))
    ready = _session(nodes, constants, images.nchw(form), np.zeros((b, c, h, w), np.float32))
    return Ready(ready.call, lambda y: ready.result(y).transpose(0, 2, 3, 1))


def _session(nodes: list[Any], constants: dict[str, Any], x: NDArray[Any], y: NDArray[Any]) -> Ready:
    """A model of these nodes from x to y, with both bound to it."""
    import onnxruntime
    from onnx import helper, numpy_helper

    def info(name: str, a: NDArray[Any]) -> Any:
        return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)

    initializers = [numpy_helper.from_array(np.asarray(a), name) for name, a in constants.items()]
    graph = helper.make_graph(nodes, "product", [info("x", x)], [info("y", y)], initializers)
    opsets = [helper.make_opsetid("", 13), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = threads(), 1, 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    bound, value = session.io_binding(), onnxruntime.OrtValue.ortvalue_from_numpy
    result = value(y)
    bound.bind_ortvalue_input("x", value(x))
    bound.bind_ortvalue_output("y", result)
    return Ready(lambda: session.run_with_iobinding(bound), lambda _: result.numpy())
