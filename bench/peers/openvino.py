"""OpenVINO's CPU plugin. Its int8 MatMul takes float32 in and out, and the range of the activations from the model."""

from __future__ import annotations

from typing import Any

import numpy as np

from pycompress.bench.conv import Operands as Images
from pycompress.bench.gemm import Operands
from pycompress.bench.peer import Peer, Ready, threads

from ._sparse import serve_dense

PEER = Peer(
    "openvino",
    "OpenVINO",
    ["openvino"],
    caps={"avx2": {"ONEDNN_MAX_CPU_ISA": "AVX2"}, "avxvnni": {"ONEDNN_MAX_CPU_ISA": "AVX2_VNNI"}},
    not_held=["f32", "f16"],  # its float32 MatMul is MLAS, which asks the CPU
)


@PEER.family("gemm", {"dynamic": "FakeQuantize + MatMul, range known", "f32": "MatMul", "f16": "MatMul"})
def gemm(operands: Operands, form: str) -> Ready:
    from openvino import opset13 as ops

    x = ops.parameter(list(operands.x.shape), np.float32)
    if form == "f32":
        y = ops.matmul(x, ops.constant(operands.w), False, True)
    elif form == "f16":
        y = ops.matmul(x, ops.convert(ops.constant(operands.w.astype(np.float16)), "f32"), False, True)
    else:
        (scale, zero_point), weight = operands.x_qparams, operands.weight
        low, high = (np.float32((q - zero_point) * scale) for q in (0, 255))
        levels = ops.fake_quantize(x, low, high, low, high, 256)
        w = ops.multiply(ops.convert(ops.constant(weight.q), "f32"), ops.constant(weight.scale[:, None]))
        y = ops.matmul(levels, w, False, True)
    return _request(y, x, operands.x)


@PEER.family("conv", {"static": "Convolution on u8, NHWC", "f32": "Convolution, NCHW"})
def conv(images: Images, form: str) -> Ready:
    from openvino import opset13 as ops

    static = form == "static"
    image = images.q if static else images.nchw(form)
    x = ops.parameter(list(image.shape), image.dtype)
    y = x
    if (
        static
    ):  # levels become values by a FakeQuantize: after Subtract and Multiply the plugin would convolve in float32
        low, high = _range(images.layers[0].x_qparams)
        levels = ops.convert(ops.transpose(x, np.array([0, 3, 1, 2])), "f32")
        y = ops.fake_quantize(levels, np.float32(0), np.float32(255), low, high, 256)
    for layer in images.layers:
        about = ([layer.stride] * 2, [layer.padding] * 2, [layer.padding] * 2, [1, 1])
        grouped = (layer.groups, len(layer.w) // layer.groups, *layer.w.shape[1:])
        shape = grouped if layer.groups > 1 else layer.w.shape
        w: Any = ops.constant(layer.w.reshape(shape))
        if static:
            scale = layer.scale.reshape(*shape[: len(shape) - 3], 1, 1, 1)
            w = ops.multiply(ops.convert(ops.constant(layer.q.reshape(shape)), "f32"), ops.constant(scale))
        y = (ops.group_convolution if layer.groups > 1 else ops.convolution)(y, w, *about)
        if static:
            low, high = _range(layer.y_qparams)
            last = layer is images.layers[-1]
            to = (np.float32(0), np.float32(255)) if last else (low, high)
            y = ops.fake_quantize(y, low, high, *to, 256)
            y = ops.convert(y, "u8") if last else y
    y = ops.transpose(y, np.array([0, 2, 3, 1])) if static else y
    ready = _request(y, x, image)
    return ready if static else Ready(ready.call, lambda _: ready.result(None).transpose(0, 2, 3, 1))


def _range(qparams: tuple[float, int]) -> tuple[np.float32, np.float32]:
    """The values of the levels 0 and 255."""
    scale, zero_point = qparams
    return np.float32((0 - zero_point) * scale), np.float32((255 - zero_point) * scale)


def _request(y: Any, x: Any, value: Any) -> Ready:
    """The model from x to y, with x bound to that array."""
    import openvino

    settings = {
        "INFERENCE_NUM_THREADS": threads(),
        "ENABLE_CPU_PINNING": False,  # the worker is pinned already
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
    }
    request = openvino.Core().compile_model(openvino.Model([y], [x]), "CPU", settings).create_infer_request()
    request.set_input_tensor(openvino.Tensor(value, shared_memory=True))

    def call(_: Any = value) -> None:  # shared memory: it has to live as long as the call
        request.infer()

    return Ready(call, lambda _: request.get_output_tensor().data.copy())


serve_dense(PEER, gemm)
