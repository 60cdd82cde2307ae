"""What the ways through torch share."""

from __future__ import annotations

from typing import Any

from pycompress.bench.conv import Operands as Images
from pycompress.bench.gemm import Operands
from pycompress.bench.peer import Call, Ready, threads

# Each of its libraries is held by a variable of its own.
CAPS = {
    isa: {
        "ATEN_CPU_CAPABILITY": "avx2",
        "FBGEMM_ENABLE_INSTRUCTIONS": "AVX2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
        "ONEDNN_MAX_CPU_ISA": onednn,
    }
    for isa, onednn in (("avx2", "AVX2"), ("avxvnni", "AVX2_VNNI"))
}


def start() -> Any:
    """torch, on as many threads as allowed, without what only training needs."""
    import torch

    torch.set_num_threads(threads())
    torch.set_grad_enabled(False)
    return torch


def quantized_linear(engine: str, operands: Operands, form: str) -> Call | Ready:
    """torch.ao.nn.quantized.Linear's operators, on that engine."""
    torch = start()
    torch.backends.quantized.engine = engine
    weight = operands.weight
    scale, zeros = torch.from_numpy(weight.scale.astype("f8")), torch.zeros(len(weight.q), dtype=torch.long)
    w = torch._make_per_channel_quantized_tensor(torch.from_numpy(weight.q.copy()), scale, zeros, 0)
    packed = torch.ops.quantized.linear_prepack(w, None)
    if form == "dynamic":
        x = torch.from_numpy(operands.x)
        run = torch.ops.quantized.linear_dynamic
        return Ready(lambda: run(x, packed, False), lambda y: y.numpy())
    q = torch._make_per_tensor_quantized_tensor(torch.from_numpy(operands.q), *operands.x_qparams)
    y_scale, y_zero_point = operands.y_qparams
    run = torch.ops.quantized.linear
    return Ready(lambda: run(q, packed, y_scale, y_zero_point), lambda y: y.int_repr().numpy())


def convolutions(engine: str, images: Images) -> Ready:
    """torch.ao.nn.quantized.Conv2d's operators, channels last, on that engine."""
    torch = start()
    torch.backends.quantized.engine = engine
    q = torch.from_numpy(images.nchw("static")).to(memory_format=torch.channels_last)
    x = torch._make_per_tensor_quantized_tensor(q, *images.layers[0].x_qparams)
    steps = []
    for layer in images.layers:
        scale, zeros = torch.from_numpy(layer.scale.astype("f8")), torch.zeros(len(layer.q), dtype=torch.long)
        w = torch._make_per_channel_quantized_tensor(torch.from_numpy(layer.q.copy()), scale, zeros, 0)
        about = ([layer.stride] * 2, [layer.padding] * 2, [1, 1], layer.groups)
        steps.append((torch.ops.quantized.conv2d_prepack(w, None, *about), *layer.y_qparams))
    run = torch.ops.quantized.conv2d

    def call() -> Any:
        y = x
        for step in steps:
            y = run(y, *step)
        return y

    return Ready(call, lambda y: y.int_repr().permute(0, 2, 3, 1).contiguous().numpy())
