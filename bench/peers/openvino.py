"""OpenVINO's CPU plugin. Its int8 MatMul takes float32 in and out, and the range of the activations from the model."""

from __future__ import annotations

import numpy as np

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
    import openvino
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
    settings = {
        "INFERENCE_NUM_THREADS": threads(),
        "ENABLE_CPU_PINNING": False,  # the worker is pinned already
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
    }
    request = openvino.Core().compile_model(openvino.Model([y], [x]), "CPU", settings).create_infer_request()
    request.set_input_tensor(openvino.Tensor(operands.x, shared_memory=True))
    return Ready(request.infer, lambda _: request.get_output_tensor().data.copy())


serve_dense(PEER, gemm)
