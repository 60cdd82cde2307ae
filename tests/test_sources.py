"""Models of others: safetensors and sharded sets, npz, ONNX, GGUF; whole, and broken."""

from __future__ import annotations

import json
import pickle
import struct
import zipfile
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

import pycompress as pc
from pycompress.io import Tensors, open_tensors


def arrays() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {
        "a.weight": rng.standard_normal((4, 6)).astype(np.float32),
        "a.bias": np.arange(4, dtype=np.float16),
        "ids": np.arange(3),
        "none": np.empty((0, 2), np.float32),
    }


def same(found: Tensors, wanted: dict[str, Any]) -> None:
    assert set(found) == set(wanted)
    for name, array in wanted.items():
        info = found.info(name)
        assert info.shape == array.shape
        assert found[name].dtype == array.dtype
        assert found.tensor(name).nbytes == array.nbytes
        np.testing.assert_array_equal(found[name], array)


# ---- safetensors


def sharded(directory: Any) -> Any:
    names = list(arrays())
    for i, some in enumerate((names[:2], names[2:])):
        safetensors.numpy.save_file({name: arrays()[name] for name in some}, directory / f"model-{i}.safetensors")
    index = directory / "model.safetensors.index.json"
    index.write_text(
        json.dumps({"metadata": {}, "weight_map": {n: f"model-{i // 2}.safetensors" for i, n in enumerate(names)}})
    )
    return index


def test_safetensors_as_a_file_and_as_a_directory(tmp_path: Any) -> None:
    safetensors.numpy.save_file(arrays(), tmp_path / "model.safetensors")
    same(open_tensors(tmp_path / "model.safetensors"), arrays())
    same(open_tensors(tmp_path), arrays())


def test_a_sharded_set(tmp_path: Any) -> None:
    same(open_tensors(sharded(tmp_path)), arrays())
    found = open_tensors(str(tmp_path))
    same(found, arrays())
    assert len(found.files) == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "no index"),
        ("[]", "no index"),
        ("{}", "no index"),
        ('{"weight_map": []}', "weight_map"),
        ('{"weight_map": {"ids": 3}}', "weight_map"),
        ('{"weight_map": {"ids": "../model-1.safetensors"}}', "no file's name"),
        ('{"weight_map": {"ids": "/etc/passwd"}}', "no file's name"),
        ('{"weight_map": {"ids": ".."}}', "no file's name"),
        ('{"weight_map": {"ids": ""}}', "no file's name"),
        ('{"weight_map": {"ids": "model-7.safetensors"}}', "not there"),
        ('{"weight_map": {"ids": "model-0.safetensors"}}', "has no tensor 'ids'"),
    ],
)
def test_an_index_that_lies(text: str, message: str, tmp_path: Any) -> None:
    index = sharded(tmp_path)
    index.write_text(text)
    with pytest.raises(pc.FormatError, match=message):
        open_tensors(index)


def test_what_is_not_there(tmp_path: Any) -> None:
    with pytest.raises(FileNotFoundError):
        open_tensors(tmp_path / "nothing")
    with pytest.raises(pc.FormatError, match="a directory without"):
        open_tensors(tmp_path)
    (tmp_path / "text").write_text("some text of no format at all")
    with pytest.raises(pc.FormatError, match="text: a header of"):
        open_tensors(tmp_path / "text")


# ---- npz


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz(save: Any, tmp_path: Any) -> None:
    path = tmp_path / "m.npz"
    more = arrays() | {"fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)), "big": np.arange(3, dtype=">i4")}
    save(path, **more)
    same(open_tensors(path), more | {"big": np.arange(3, dtype=np.int32)})


def test_npz_is_never_unpickled(tmp_path: Any) -> None:
    class Bomb:
        def __reduce__(self) -> Any:
            return exec, ("raise AssertionError('unpickled')",)

    path = tmp_path / "m.npz"
    np.savez(path, x=np.array([1, None], object))
    with pytest.raises(pc.FormatError, match="'x' is an array of object"):
        open_tensors(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", pickle.dumps(Bomb()))
    with pytest.raises(pc.FormatError, match="'x' is no array"):
        open_tensors(path)


def npy(header: str, data: bytes = b"") -> bytes:
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + data


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"text",
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (3,)}", bytes(8)),
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (3,)}", bytes(16)),
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999,)}", bytes(16)),
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}", bytes(16)),
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (True,)}", bytes(4)),
        npy("{'descr': '<f4', 'fortran_order': False}"),
        npy("{'descr': 'O', 'fortran_order': False, 'shape': (1,)}", bytes(8)),
        npy("{'descr': '<U1', 'fortran_order': False, 'shape': (1,)}", bytes(4)),
        npy("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,)}", bytes(4)),
        npy("__import__('os').system('false')"),
        npy("(" * 5000),
    ],
)
def test_npz_that_lies(content: bytes, tmp_path: Any) -> None:
    path = tmp_path / "m.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", content)
    with pytest.raises(pc.FormatError, match=r"m.npz: "):
        open_tensors(path)


def test_npz_with_two_of_one_name(tmp_path: Any) -> None:
    content = npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1,)}", bytes(4))
    with zipfile.ZipFile(tmp_path / "m.npz", "w") as archive:
        archive.writestr("x.npy", content)
        archive.writestr("x", content)
    with pytest.raises(pc.FormatError, match="two arrays"):
        open_tensors(tmp_path / "m.npz")


def broken(path: Any, rounds: int) -> int:
    """Reads the file with one byte after the other changed; returns how many were refused. All else must be clean."""
    whole = bytearray(path.read_bytes())
    rng, refused = np.random.default_rng(0), 0
    for i in rng.choice(len(whole), min(rounds, len(whole)), replace=False):
        before = whole[i]
        whole[i] ^= int(rng.integers(1, 256))
        path.write_bytes(whole)
        whole[i] = before
        try:
            found = open_tensors(path)
            for name in found:
                found[name]
        except pc.FormatError:
            refused += 1
    return refused


def test_npz_with_any_byte_changed(tmp_path: Any) -> None:
    np.savez_compressed(tmp_path / "m.npz", **arrays())
    assert broken(tmp_path / "m.npz", 1200) > 300


# ---- ONNX


def onnx_model(**options: Any) -> tuple[Any, dict[str, Any]]:
    onnx = pytest.importorskip("onnx")
    rng = np.random.default_rng(0)
    weights = {
        "matmul": rng.standard_normal((6, 4)).astype(np.float32),
        "gemm": rng.standard_normal((5, 4)).astype(np.float32),
        "table": rng.standard_normal((10, 6)).astype(np.float32),
        "conv": rng.standard_normal((3, 2, 3, 3)).astype(np.float32),
        "depthwise": rng.standard_normal((3, 1, 3, 3)).astype(np.float32),
        "bias": np.arange(4, dtype=np.float16),
    }
    node = onnx.helper.make_node
    nodes = [
        node("Gather", ["table", "ids"], ["g"]),
        node("MatMul", ["g", "matmul"], ["m"]),
        node("Gemm", ["m", "gemm"], ["y"], transB=1),
        node("Conv", ["image", "conv"], ["c"]),
        node("Conv", ["c", "depthwise"], ["d"], group=3),
    ]
    tensors = [onnx.numpy_helper.from_array(a, name) for name, a in weights.items()]
    half = onnx.helper.make_tensor("bf16", onnx.TensorProto.BFLOAT16, [2], np.array([1.5, -2], np.float32).tolist())
    typed = onnx.helper.make_tensor("typed", onnx.TensorProto.FLOAT, [2], [1.0, 2.0])
    graph = onnx.helper.make_graph(nodes, "g", [], [], [*tensors, half, typed])
    extra = {"bf16": np.array([1.5, -2], np.float32), "typed": np.array([1, 2], np.float32)}
    return onnx.helper.make_model(graph), weights | extra


def test_onnx_initializers(tmp_path: Any) -> None:
    onnx = pytest.importorskip("onnx")
    model, wanted = onnx_model()
    path = tmp_path / "m.onnx"
    onnx.save(model, path)
    found = open_tensors(path)
    same(found, wanted)
    kinds = {name: found.info(name).layer for name in wanted}
    assert kinds | {"bias": None, "bf16": None, "typed": None} == {
        "matmul": "linear",
        "gemm": "linear",
        "table": "embedding",
        "conv": "conv",
        "depthwise": "depthwise",
        "bias": None,
        "bf16": None,
        "typed": None,
    }
    assert found.info("matmul").transposed
    assert not found.info("gemm").transposed


def test_onnx_weights_become_outputs_by_inputs(tmp_path: Any) -> None:
    onnx = pytest.importorskip("onnx")
    model, wanted = onnx_model()
    onnx.save(model, tmp_path / "m.onnx")
    made = pc.compress(tmp_path / "m.onnx", {"rule": [{"layer": "linear", "quantize": {"bits": 8}}]})
    assert made["matmul"].shape == (4, 6)
    np.testing.assert_allclose(made["matmul"].todense(), wanted["matmul"].T, atol=0.02)
    np.testing.assert_allclose(made["gemm"].todense(), wanted["gemm"], atol=0.02)
    np.testing.assert_array_equal(made["table"], wanted["table"])


def test_onnx_external_data(tmp_path: Any) -> None:
    onnx = pytest.importorskip("onnx")
    model, wanted = onnx_model()
    path = tmp_path / "m.onnx"
    onnx.save(model, path, save_as_external_data=True, location="m.data", size_threshold=0)
    same(open_tensors(path), wanted)
    for change in (
        {"location": "../m.data"},
        {"location": "/etc/hostname"},
        {"location": "nothing"},
        {"location": ""},
        {"offset": "-4"},
        {"offset": "99999999"},
        {"offset": "x"},
        {"length": "4"},
    ):
        model = onnx.load(path, load_external_data=False)
        (tensor,) = [t for t in model.graph.initializer if t.name == "conv"]
        where = {e.key: e.value for e in tensor.external_data} | change
        del tensor.external_data[:]
        for key, value in where.items():
            tensor.external_data.add(key=key, value=value)
        (tmp_path / "bad.onnx").write_bytes(model.SerializeToString())
        found = open_tensors(tmp_path / "bad.onnx")
        np.testing.assert_array_equal(found["matmul"], wanted["matmul"])
        with pytest.raises(pc.FormatError, match="'conv'"):
            found["conv"]


def test_onnx_that_is_broken(tmp_path: Any) -> None:
    onnx = pytest.importorskip("onnx")
    model, _ = onnx_model()
    path = tmp_path / "m.onnx"
    path.write_bytes(b"\xff" * 100)
    with pytest.raises(pc.FormatError, match="no ONNX model"):
        open_tensors(path)
    model.graph.initializer[0].raw_data = b"1234"
    onnx.save(model, path)
    with pytest.raises(pc.FormatError, match="has 4 bytes"):
        open_tensors(path)["matmul"]
    model.graph.initializer[0].dims[0] = -1
    onnx.save(model, path)
    with pytest.raises(pc.FormatError, match="shape"):
        open_tensors(path)
    onnx.save(onnx_model()[0], path)
    assert broken(path, 300) > 10


# ---- GGUF


def gguf_file(path: Any, **more: Any) -> dict[str, Any]:
    gguf = pytest.importorskip("gguf")
    rng = np.random.default_rng(0)
    w = rng.standard_normal((4, 64)).astype(np.float32)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_uint32("some.key", 3)
    writer.add_tensor("f32", w)
    writer.add_tensor("f16", w.astype(np.float16))
    wanted = {"f32": w, "f16": w.astype(np.float16).astype(np.float32)}
    for name in ("Q8_0", "Q4_0", *more.get("types", ())):
        kind = getattr(gguf.GGMLQuantizationType, name)
        data = gguf.quants.quantize(w, kind)
        writer.add_tensor(name, data, raw_dtype=kind)
        wanted[name] = gguf.quants.dequantize(data, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return wanted


def test_gguf(tmp_path: Any) -> None:
    wanted = gguf_file(tmp_path / "m.gguf")
    found = open_tensors(tmp_path / "m.gguf")
    assert found.format == "gguf"
    for name, array in wanted.items():
        assert found.info(name).shape == array.shape
        assert found[name].dtype == np.float32
        np.testing.assert_array_equal(found[name], array)
    assert found.info("Q4_0").nbytes == 4 * 2 * 18
    made = pc.compress(tmp_path / "m.gguf", "int8")
    assert all(made[name].shape == (4, 64) for name in wanted)


def test_gguf_of_another_type_is_told(tmp_path: Any) -> None:
    gguf_file(tmp_path / "m.gguf", types=["Q5_0"])
    found = open_tensors(tmp_path / "m.gguf")
    with pytest.raises(pc.FormatError, match="'Q5_0' is Q5_0"):
        found["Q5_0"]


def test_gguf_that_is_broken(tmp_path: Any) -> None:
    path = tmp_path / "m.gguf"
    gguf_file(path)
    whole = path.read_bytes()
    for size in (4, 5, 30, len(whole) // 2, len(whole) - 33):
        path.write_bytes(whole[:size])
        with pytest.raises(pc.FormatError, match=r"m.gguf"):
            open_tensors(path)
    path.write_bytes(whole)
    assert broken(path, 400) > 0


@pytest.mark.parametrize("count", [2**62, 2**40, 10**5])
def test_gguf_whose_counts_lie_is_refused_at_once(count: int, tmp_path: Any) -> None:
    pytest.importorskip("gguf")
    start = b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 1) + b"k"
    for tail in (
        struct.pack("<IIQ", 9, 0, count),  # an array of so many bytes
        struct.pack("<IIQ", 9, 8, count),  # of so many strings
        struct.pack("<IIQ", 9, 9, count),
        struct.pack("<IQ", 8, count),
        9 * struct.pack("<IIQ", 9, 9, 1),
    ):
        (tmp_path / "m.gguf").write_bytes(start + tail + bytes(100))
        with pytest.raises(pc.FormatError, match="no GGUF file"):
            open_tensors(tmp_path / "m.gguf")
    for counts in ((count, 0), (0, count)):
        (tmp_path / "m.gguf").write_bytes(b"GGUF" + struct.pack("<IQQ", 3, *counts) + bytes(100))
        with pytest.raises(pc.FormatError, match="beyond its end"):
            open_tensors(tmp_path / "m.gguf")


@given(data=st.data())
@settings(max_examples=100)
def test_gguf_headers_of_any_bytes(data: Any, tmp_path: Any) -> None:
    path = tmp_path / "m.gguf"
    gguf_file(path)
    whole = bytearray(path.read_bytes())
    start = data.draw(st.integers(4, 300))
    whole[start : start + data.draw(st.integers(0, 16))] = data.draw(st.binary(max_size=16))
    path.write_bytes(whole)
    try:
        found = open_tensors(path)
        for name in found:
            found[name]
    except pc.FormatError:
        pass


# ---- what cannot be


def test_tensors_in_memory() -> None:
    recipe = {"rule": [{"quantize": {"bits": 8}}]}
    with pytest.raises(TypeError, match="tensors is list"):
        pc.compress([1], recipe)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="a name 3"):
        pc.compress({3: np.ones(2)}, recipe)  # type: ignore[dict-item]
    with pytest.raises(TypeError, match=r"tensors\['a'\] is an array of complex128"):
        pc.compress({"a": np.ones(2, complex)}, recipe)
