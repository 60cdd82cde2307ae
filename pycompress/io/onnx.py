"""ONNX models (extra `onnx`): their initializers, by what the graph does with each; external data is mapped."""

from __future__ import annotations

import math
import mmap
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._errors import FormatError
from . import safetensors
from .sources import Info, Tensors

__all__ = ["ONNX"]


class ONNX(Tensors):
    """The initializers of a model's graph.

    The second operand of a MatMul, [K, N], counts as a linear layer's weight that lies there transposed; so does that
    of a Gemm, unless it has transB. The table of a Gather is an embedding, the weight of a Conv its own kind of layer.
    """

    format = "onnx"

    def __init__(self, path: Path) -> None:
        super().__init__()
        try:
            import onnx
            from google.protobuf.message import DecodeError
        except ImportError as error:
            raise ImportError('ONNX models need the package onnx: pip install "pycompress-kernels[onnx]"') from error
        self.files = [path]
        try:
            model = onnx.load_model(path, load_external_data=False)
        except (DecodeError, ValueError, RecursionError) as error:
            raise FormatError(f"{path}: no ONNX model: {error}") from error
        uses = _uses(model.graph)
        self._tensors: dict[str, Any] = {}
        codes = {onnx.helper.np_dtype_to_tensor_dtype(dtype): code for dtype, code in safetensors.CODES.items()}
        codes[onnx.TensorProto.BFLOAT16] = "BF16"
        for tensor in model.graph.initializer:
            shape, code = tuple(tensor.dims), codes.get(tensor.data_type)
            if tensor.name in self._tensors:
                raise FormatError(f"{path}: two initializers are called {tensor.name!r}")
            if code is None:
                kinds = ", ".join(sorted(codes.values()))
                raise FormatError(f"{path}: {tensor.name!r} has type {tensor.data_type}, wanted one of {kinds}")
            if len(shape) > safetensors.MAX_NDIM or min(shape, default=0) < 0:
                raise FormatError(f"{path}: {tensor.name!r} has shape {shape}")
            self._tensors[tensor.name] = tensor
            layer, transposed = uses.get(tensor.name, (None, False))
            self._infos[tensor.name] = Info(
                shape, code, safetensors.SIZES[code] * math.prod(shape), layer, transposed and len(shape) == 2
            )

    def __getitem__(self, name: str) -> NDArray[Any]:
        import onnx

        tensor, info = self._tensors[name], self._infos[name]
        data: Any
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            data = self._external(name, {entry.key: entry.value for entry in tensor.external_data}, info.nbytes)
        elif tensor.HasField("raw_data"):
            data = tensor.raw_data
        else:
            try:
                a = np.asarray(onnx.numpy_helper.to_array(tensor))
            except (ValueError, TypeError, OverflowError) as error:
                raise FormatError(f"{self.files[0]}: {name!r} is no tensor: {error}") from error
            if a.shape != info.shape:
                raise FormatError(f"{self.files[0]}: {name!r} has shape {a.shape}, and says {info.shape}")
            return a.astype(np.float32) if info.dtype == "BF16" else a
        if len(data) != info.nbytes:
            raise FormatError(f"{self.files[0]}: {name!r}, {info.dtype} of shape {info.shape}, has {len(data)} bytes")
        return safetensors.decode(info.dtype, info.shape, data)

    def _external(self, name: str, where: dict[str, str], nbytes: int) -> Any:
        """The bytes of a tensor that lies in another file, which must be below the model's own directory."""
        base = self.files[0].parent.resolve()
        location = where.get("location", "")
        try:
            path = (base / location).resolve()
            start, length = int(where.get("offset", 0)), int(where.get("length", nbytes))
        except (ValueError, OSError, RuntimeError) as error:
            raise FormatError(f"{self.files[0]}: {name!r} lies at {where}: {error}") from None
        if os.path.isabs(location) or not path.is_relative_to(base) or not path.is_file():
            raise FormatError(f"{self.files[0]}: {name!r} lies in {location!r}, wanted a file beside the model")
        if not nbytes:
            return b""
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if start < 0 or length != nbytes or start + nbytes > size:
                raise FormatError(f"{self.files[0]}: {name!r}, {nbytes} bytes, is not within {location!r} at {where}")
            page = start - start % mmap.ALLOCATIONGRANULARITY
            mapped = mmap.mmap(file.fileno(), nbytes + start - page, access=mmap.ACCESS_READ, offset=page)
        return memoryview(mapped)[start - page :]


def _uses(graph: Any) -> dict[str, tuple[str, bool]]:
    """For each initializer: the kind of layer it is the weight of, and whether it lies there as [K, N]."""
    uses: dict[str, tuple[str, bool]] = {}
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for node in graph.node:
        attributes = {attribute.name: attribute.i for attribute in node.attribute}
        if node.op_type == "Gather" and node.input:
            uses.setdefault(node.input[0], ("embedding", False))
        elif node.op_type in ("MatMul", "Gemm") and len(node.input) > 1:
            uses.setdefault(node.input[1], ("linear", not attributes.get("transB", 0)))
        elif node.op_type == "Conv" and len(node.input) > 1:
            shape = shapes.get(node.input[1], ())
            depthwise = len(shape) == 4 and shape[1] == 1 and attributes.get("group", 1) == shape[0]
            kind = "depthwise" if depthwise else "grouped" if attributes.get("group", 1) > 1 else "conv"
            uses.setdefault(node.input[1], (kind, False))
    return {name: use for name, use in uses.items() if name in shapes}
