"""Who runs MobileNetV2: ours, torch, onnxruntime and OpenVINO, each in a process of its own, with one thread."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from mobilenet_net import Conv, Float, Floats, Int8, Network, Ranges, load

Run = Callable[[Floats], Floats]  # NHWC images -> logits
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "PYCOMPRESS_NUM_THREADS")
# What holds each library to an instruction set; onnxruntime asks the CPU and obeys nothing.
CAPS = {
    "avx2": {
        "PYCOMPRESS_ISA": "avx2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "ATEN_CPU_CAPABILITY": "avx2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    }
}
FREE = ("onnxruntime",)


def export(net: Network, path: Path) -> None:
    """The network as an ONNX model, NCHW, batch 1, of Conv, Clip, Add, GlobalAveragePool, Flatten and Gemm."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    nodes, constants = [], {"zero": np.float32(0), "six": np.float32(6)}

    def conv(c: Conv, x: str) -> str:
        constants[f"{c.name}.w"], constants[f"{c.name}.b"] = c.w, c.b
        k, y = c.w.shape[2], c.name if not c.relu6 else f"{c.name}.sum"
        about = {
            "kernel_shape": [k, k],
            "strides": [c.stride] * 2,
            "pads": [k // 2] * 4,
            "group": len(c.w) if c.depthwise else 1,
        }
        nodes.append(helper.make_node("Conv", [x, f"{c.name}.w", f"{c.name}.b"], [y], name=c.name, **about))
        if c.relu6:
            nodes.append(helper.make_node("Clip", [y, "zero", "six"], [c.name], name=f"{c.name}.clip"))
        return c.name

    x = conv(net.stem, "x")
    for expand, depthwise, project, residual in net.blocks:
        y = conv(project, conv(depthwise, conv(expand, x) if expand else x))
        if residual:
            nodes.append(helper.make_node("Add", [x, y], [f"{y}.add"], name=f"{y}.add"))
            y = f"{y}.add"
        x = y
    constants["classifier.w"], constants["classifier.b"] = net.classifier
    nodes.append(helper.make_node("GlobalAveragePool", [conv(net.last, x)], ["pool"], name="pool"))
    nodes.append(helper.make_node("Flatten", ["pool"], ["rows"], name="flatten"))
    nodes.append(
        helper.make_node("Gemm", ["rows", "classifier.w", "classifier.b"], ["logits"], name="classifier", transB=1)
    )
    values = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, s)
        for n, s in (("x", [1, 3, 224, 224]), ("logits", [1, 1000]))
    ]
    weights = [numpy_helper.from_array(np.ascontiguousarray(a), name) for name, a in constants.items()]
    graph = helper.make_graph(nodes, "mobilenet_v2", values[:1], values[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())


def quantize(source: Path, target: Path, photographs: Floats) -> None:
    """By onnxruntime's static quantizer: QDQ, uint8 activations by their extremes, int8 weights per channel."""
    import logging

    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left = iter(photographs)

        def get_next(self) -> dict[str, Floats] | None:
            image = next(self.left, None)
            return None if image is None else {"x": nchw(image[None])}

    logging.getLogger().setLevel(logging.ERROR)
    quantize_static(
        source, target, Reader(), quant_format=QuantFormat.QDQ, per_channel=True, activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8, calibrate_method=CalibrationMethod.MinMax,
    )  # fmt: skip


def nchw(images: Floats) -> Floats:
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2))


def _ours(kind: str, place: Path, ranges: Ranges) -> Any:
    net = load(place / "mobilenet.pth")
    network = Float(net) if kind == "float32" else Int8(net, ranges)
    return lambda x: x, network, lambda y: y


def _torch(kind: str, place: Path, ranges: Ranges) -> Any:
    import torch
    from torch.nn import functional

    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    net = load(place / "mobilenet.pth")

    class Layer(torch.nn.Module):  # type: ignore[misc]
        def __init__(self, c: Conv) -> None:
            super().__init__()
            k, groups = c.w.shape[2], len(c.w) if c.depthwise else 1
            inputs = len(c.w) if c.depthwise else c.w.shape[1]
            self.conv = torch.nn.Conv2d(inputs, len(c.w), k, c.stride, k // 2, groups=groups)
            self.conv.weight.data, self.conv.bias.data, self.relu6 = (
                torch.from_numpy(c.w),
                torch.from_numpy(c.b),
                c.relu6,
            )

        def forward(self, x: Any) -> Any:
            return functional.relu6(self.conv(x)) if self.relu6 else self.conv(x)

    class Whole(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.last = Layer(net.stem), Layer(net.last)
            self.blocks = torch.nn.ModuleList(
                torch.nn.Sequential(*(Layer(c) for c in block[:3] if c)) for block in net.blocks
            )
            self.w, self.b = (torch.nn.Parameter(torch.from_numpy(a)) for a in net.classifier)

        def forward(self, x: Any) -> Any:
            x = self.stem(x)
            for block, about in zip(self.blocks, net.blocks, strict=True):
                x = x + block(x) if about[3] else block(x)
            return functional.linear(self.last(x).mean((2, 3)), self.w, self.b)

    example = torch.zeros(1, 3, 224, 224).to(memory_format=torch.channels_last)
    traced = torch.jit.trace(Whole().eval().to(memory_format=torch.channels_last), example)
    model = torch.jit.optimize_for_inference(torch.jit.freeze(traced))  # oneDNN's convolutions, clamps fused
    return lambda x: torch.from_numpy(nchw(x)).to(memory_format=torch.channels_last), model, lambda y: y.numpy()


def _onnxruntime(kind: str, place: Path, ranges: Ranges) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = 1, 1, 3
    session = onnxruntime.InferenceSession(str(place / f"{kind}.onnx"), options, providers=["CPUExecutionProvider"])
    return nchw, lambda x: session.run(None, {"x": x})[0], lambda y: y


def _openvino(kind: str, place: Path, ranges: Ranges) -> Any:
    import openvino

    settings = {
        "INFERENCE_NUM_THREADS": 1,
        "ENABLE_CPU_PINNING": False,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
    }
    request = openvino.Core().compile_model(str(place / f"{kind}.onnx"), "CPU", settings).create_infer_request()

    def run(x: Floats) -> Any:
        request.set_input_tensor(openvino.Tensor(x, shared_memory=True))
        request.infer()
        return request.get_output_tensor().data

    return nchw, run, lambda y: y.copy()


MAKERS = {"pycompress": _ours, "torch": _torch, "onnxruntime": _onnxruntime, "openvino": _openvino}


def _work(pipe: Any, name: str, kind: str, place: Path, ranges: Ranges) -> None:
    """The worker: told ("logits", images) or ("time", image, times), it answers with logits, or the best seconds."""
    try:
        before, run, after = MAKERS[name](kind, place, ranges)
        pipe.send("ready")
        while (request := pipe.recv()) is not None:
            if request[0] == "logits":
                pipe.send(np.concatenate([after(run(before(image[None]))) for image in request[1]]))
                continue
            x, seconds = before(request[1]), []
            for _ in range(request[2]):
                start = time.perf_counter()
                run(x)
                seconds.append(time.perf_counter() - start)
            pipe.send(min(seconds))
    except Exception as error:  # whatever a library throws is its result
        pipe.send(error if isinstance(error, ImportError) else RuntimeError(f"{type(error).__name__}: {error}"[:300]))


class Runner:
    """One library with one kind of weights, in its process. RuntimeError and ImportError tell what it lacks."""

    def __init__(self, name: str, kind: str, place: Path, ranges: Ranges, isa: str | None) -> None:
        self.name, self.kind, self.held = name, kind, isa is None or name not in FREE
        context = get_context("spawn")
        self.pipe, theirs = context.Pipe()
        environment = {**dict.fromkeys(THREADS, "1"), **CAPS.get(isa or "", {})}
        before, cores = {key: os.environ.get(key) for key in environment}, os.sched_getaffinity(0)
        os.environ.update(environment)  # the child has them from the start, and its core too
        os.sched_setaffinity(0, {max(cores)})
        try:
            self.process = context.Process(target=_work, args=(theirs, name, kind, place, ranges), daemon=True)
            self.process.start()
        finally:
            os.sched_setaffinity(0, cores)
            for key, value in before.items():
                os.environ.pop(key) if value is None else os.environ.update({key: value})
        theirs.close()
        self._answer()

    def _answer(self) -> Any:
        try:
            answer = self.pipe.recv()
        except EOFError:
            raise RuntimeError(f"{self.name} {self.kind}: the process ended with {self.process.exitcode}") from None
        if isinstance(answer, Exception):
            raise answer
        return answer

    def logits(self, images: Floats) -> Floats:
        self.pipe.send(("logits", images))
        return self._answer()  # type: ignore[no-any-return]

    def seconds(self, image: Floats, times: int) -> float:
        self.pipe.send(("time", image, times))
        return float(self._answer())

    def end(self) -> None:
        self.pipe.send(None)
        self.process.join(5)
