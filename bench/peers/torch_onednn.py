"""torch's operators on oneDNN."""

from __future__ import annotations

from typing import Any

from pycompress.bench.conv import Operands as Images
from pycompress.bench.gemm import Operands
from pycompress.bench.peer import Call, Peer, Ready

from ._sparse import serve_dense
from ._torch import CAPS, convolutions, quantized_linear, start

PEER = Peer("torch_onednn", "torch oneDNN", ["torch"], caps=CAPS)


@PEER.family(
    "gemm",
    {
        "u8s8": "_int_mm, s8 x s8",
        "dynamic": "quantized.linear_dynamic",
        "static": "quantized.linear",
        "f32": "mkldnn._linear_pointwise, weight reordered",  # what torch.compile makes of a linear layer
    },
)
def gemm(operands: Operands, form: str) -> Call | Ready:
    if form in ("dynamic", "static"):
        return quantized_linear("onednn", operands, form)
    torch = start()
    if form == "f32":
        x, w = torch.from_numpy(operands.x), torch.from_numpy(operands.w)
        packed, linear = torch.ops.mkldnn._reorder_linear_weight(w, len(x)), torch.ops.mkldnn._linear_pointwise
        return Ready(lambda: linear(x, packed, None, "none", [], ""), lambda y: y.numpy())
    x, w = torch.from_numpy(operands.signed()), torch.from_numpy(operands.weight.q.copy()).t()
    return Ready(lambda: torch._int_mm(x, w), lambda y: operands.unsigned_sums(y.numpy()))


serve_dense(PEER, gemm)


@PEER.family("conv", {"static": "quantized.conv2d", "f32": "mkldnn._convolution_pointwise, weight reordered"})
def conv(images: Images, form: str) -> Ready:
    if form == "static":
        return convolutions("onednn", images)
    torch = start()
    x = torch.from_numpy(images.nchw(form)).to(memory_format=torch.channels_last)
    steps, size = [], list(x.shape)
    for layer in images.layers:
        about = ([layer.padding] * 2, [layer.stride] * 2, [1, 1], layer.groups)
        w = torch.ops.mkldnn._reorder_convolution_weight(torch.from_numpy(layer.w), *about, size)
        steps.append((w, None, *about, "none", [], ""))
        size = [1, len(layer.w), images.case.result_side, images.case.result_side]
    run = torch.ops.mkldnn._convolution_pointwise

    def call() -> Any:
        y = x
        for step in steps:
            y = run(y, *step)
        return y

    return Ready(call, lambda y: y.permute(0, 2, 3, 1).contiguous().numpy())
