"""Files: what is written can be read, by us and by others; what is broken is refused."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import pickle
import stat
import struct
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

import pycompress as pc
from pycompress import weights as kinds
from pycompress.io import safetensors as container
from pycompress.io import schema
from pycompress.report import Report
from pycompress.weights import Weight

KINDS = [name for name in kinds.__all__ if name != "Weight" and issubclass(getattr(kinds, name), Weight)]


def examples(name: str) -> dict[str, Weight]:
    """Small weights of a kind, in its forms."""
    rng = np.random.default_rng(1)
    w = rng.standard_normal((6, 8)).astype(np.float32)
    kind = getattr(kinds, name)
    if name == "LowRankWeight":
        a, b = w[:, :2].copy(), w[:2].copy()
        low = kind(kinds.Int8Weight.from_float(a), kinds.Int8Weight.from_float(b), mid_qparams=(0.5, 3))
        return {"floats": kind(a, b), "mixed": kind(a, kinds.Int8Weight.from_float(b)), "integers": low}
    if name == "DepthwiseWeight":
        w = rng.standard_normal((5, 1, 3, 3)).astype(np.float32)
        return {f"{bits}": kind.from_float(w, bits=bits) for bits in (8, 32)}
    if hasattr(kind, "from_dense"):
        w[np.abs(w) < 0.8] = 0
        return {f"{bits}": kind.from_dense(w, bits=bits) for bits in (8, 32)}
    made = {"matrix": kind.from_float(w)}
    if name == "Int8Weight":
        made["convolution"] = kind.from_float(rng.standard_normal((2, 3, 3, 3)).astype(np.float32))
    return made


def every_kind() -> dict[str, Any]:
    return {f"{name}.{form}": w for name in KINDS for form, w in examples(name).items()}


def plain() -> dict[str, Any]:
    rng = np.random.default_rng(2)
    arrays: dict[str, Any] = {dtype.name: (rng.standard_normal((3, 2)) * 50).astype(dtype) for dtype in container.CODES}
    return arrays | {"scalar": np.array(2.5, np.float32), "empty": np.empty((0, 4), np.int16)}


def same(a: Any, b: Any) -> None:
    assert type(a) is type(b)
    if isinstance(a, Weight):
        mine, theirs = pickle.loads(pickle.dumps(a)), b
        assert mine.shape == theirs.shape
        np.testing.assert_array_equal(mine.todense(), theirs.todense())
        assert a._arrays().keys() == b._arrays().keys()
        for name, array in a._arrays().items():
            same(np.asarray(array), np.asarray(b._arrays()[name]))
    else:
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


# ---- round trips


def test_every_kind_and_dtype_comes_back(tmp_path: Any) -> None:
    tensors = {**every_kind(), **plain(), "a/b é": np.arange(3.0)}
    path = tmp_path / "model.safetensors"
    pc.CompressedModel(tensors).save(path)
    model = pc.load(path)
    assert set(model) == set(tensors)
    assert len(model) == len(tensors)
    for name, value in tensors.items():
        same(value, model[name])
        assert model[name].nbytes == value.nbytes
    assert model.nbytes == sum(value.nbytes for value in tensors.values())
    assert "a/q" not in model
    with pytest.raises(KeyError):
        model["Int8Weight.matrix/q"]


def test_a_weight_is_built_once_and_runs(tmp_path: Any) -> None:
    w = np.random.default_rng(0).standard_normal((6, 8)).astype(np.float32)
    weight = pc.Int8Weight.from_float(w)
    path = tmp_path / "m"
    pc.CompressedModel({"w": weight}).save(path)
    model = pc.load(path)
    assert model["w"] is model["w"]
    assert not model["w"].q.flags.writeable
    assert not model["w"].q.flags.owndata  # it is the file's
    np.testing.assert_array_equal(pc.linear(w, model["w"]), pc.linear(w, weight))
    path.unlink()
    np.testing.assert_array_equal(pc.linear(w, model["w"]), pc.linear(w, weight))


def test_others_read_our_files_and_we_theirs(tmp_path: Any) -> None:
    path = tmp_path / "ours"
    weight = pc.Int8Weight.from_float(np.ones((3, 5), np.float32))
    pc.CompressedModel({"x": weight, **plain()}).save(path)
    theirs = safetensors.numpy.load_file(path)
    for name, array in {**plain(), "x/q": weight.q, "x/scale": weight.scale}.items():
        same(theirs.pop(name), array)
    assert not theirs
    with safetensors.safe_open(path, "np") as file:
        assert file.metadata()["format"] == "pycompress"
    safetensors.numpy.save_file(plain(), path, {"k": "v"})
    file = container.File(path)
    assert file.metadata == {"k": "v"}
    for name, array in plain().items():
        same(file.array(name), array)


def test_values_are_aligned_whatever_comes_before(tmp_path: Any) -> None:
    path = tmp_path / "m"
    tensors = {
        f"{i}": np.ones(3, dtype) for i, dtype in enumerate([np.int8, np.float64, np.int8, np.float16, np.float32])
    }
    pc.CompressedModel(tensors).save(path)
    for entry in container.File(path).entries.values():
        assert entry.start % container.SIZES[entry.dtype] == 0


def test_saving_over_the_file_that_is_mapped(tmp_path: Any) -> None:
    path = tmp_path / "m"
    pc.CompressedModel(every_kind()).save(path)
    before = path.read_bytes()
    model = pc.load(path)
    model.save(path)
    assert path.read_bytes() == before
    for name, value in every_kind().items():
        same(value, model[name])


def test_a_save_that_fails_leaves_what_was_there(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m"
    pc.CompressedModel({"a": np.ones(3)}).save(path)
    before = path.read_bytes()

    def full(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(container, "_write_all", full)
    with pytest.raises(OSError, match="No space"):
        pc.CompressedModel({"a": np.zeros(3)}).save(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


@pytest.mark.parametrize("error", [errno.EXDEV, errno.EINVAL, errno.ENOSYS, None])
def test_bytes_are_copied_where_the_kernel_cannot(error: int | None, tmp_path: Any, monkeypatch: Any) -> None:
    data = np.random.default_rng(0).integers(0, 256, 3 * container.CHUNK + 5, np.uint8)
    (tmp_path / "source").write_bytes(b"before" + data.tobytes() + b"after")
    tensor = container.Tensor("U8", data.shape, container.Range(tmp_path / "source", 6))

    def refused(*arguments: Any) -> int:
        raise OSError(error, "not here")

    if error is None:
        monkeypatch.delattr(os, "copy_file_range")
    else:
        monkeypatch.setattr(os, "copy_file_range", refused)
    seen: list[int] = []
    container.write(tmp_path / "m", {"x": tensor}, {}, seen.append)
    assert sum(seen) == data.size
    np.testing.assert_array_equal(container.File(tmp_path / "m").array("x"), data)
    short = container.Tensor("U8", (data.size + 100,), tensor.data)
    with pytest.raises(pc.FormatError, match="became shorter"):
        container.write(tmp_path / "m", {"x": short}, {})
    if error is not None:
        monkeypatch.undo()
        with pytest.raises(pc.FormatError, match="became shorter"):
            container.write(tmp_path / "m", {"x": short}, {})


def test_the_file_has_usual_permissions(tmp_path: Any) -> None:
    (tmp_path / "usual").touch()
    pc.CompressedModel({"a": np.ones(3)}).save(tmp_path / "m")
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("usual", "m")]
    assert modes[0] == modes[1]


def test_what_cannot_be_saved(tmp_path: Any) -> None:
    with pytest.raises(TypeError, match=r"tensors\['a'\] is list"):
        pc.CompressedModel({"a": [1, 2]})  # type: ignore[dict-item]
    with pytest.raises(TypeError, match="complex"):
        pc.CompressedModel({"a": np.ones(2, complex)}).save(tmp_path / "m")
    weight = pc.Int8Weight.from_float(np.ones((2, 2), np.float32))
    with pytest.raises(ValueError, match="'x/q'"):
        pc.CompressedModel({"x": weight, "x/q": np.ones(2)}).save(tmp_path / "m")

    class Mine(pc.Int8Weight):
        pass

    with pytest.raises(TypeError, match="Mine"):
        pc.CompressedModel({"x": Mine(weight.q, weight.scale)}).save(tmp_path / "m")
    assert not list(tmp_path.iterdir())


def test_bfloat16_and_float8(tmp_path: Any) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    every = np.arange(256, dtype=np.uint8)
    wide = np.arange(0, 65536, 7, dtype=np.uint16)
    data = {"BF16": wide, "F8_E4M3": every, "F8_E5M2": every}
    types = {"BF16": ml_dtypes.bfloat16, "F8_E4M3": ml_dtypes.float8_e4m3fn, "F8_E5M2": ml_dtypes.float8_e5m2}
    tensors = {}
    for name, raw in data.items():
        source = tmp_path / name
        source.write_bytes(raw.tobytes())
        tensors[name] = container.Tensor(name, raw.shape, container.Range(source, 0))
    path = tmp_path / "m"
    container.write(path, tensors, {})
    file = container.File(path)
    for name, raw in data.items():
        np.testing.assert_array_equal(file.array(name), raw.view(types[name]).astype(np.float32))


# ---- what is broken


def parts(path: Any) -> tuple[dict[str, Any], bytes]:
    data = path.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def with_header(path: Any, header: Any, data: bytes) -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def read_all(path: Any) -> None:
    model = pc.load(path)
    str(model.report())
    for name in model:
        value = model[name]
        if isinstance(value, Weight):
            with np.errstate(over="ignore", invalid="ignore"):  # of scales that are huge, as those of a weight may be
                value.todense()


@pytest.fixture
def small(tmp_path: Any) -> Any:
    path = tmp_path / "small"
    weight = pc.Int8Weight.from_float(np.arange(6, dtype=np.float32).reshape(2, 3))
    pc.CompressedModel({"x": weight, "y": np.array([1.5, 2.5], np.float32)}).save(path)
    return path


@pytest.mark.parametrize("data", [b"", b"1234567", b"\x02" + 7 * b"\0" + b"[]", 8 * b"\xff" + b"{}", 8 * b"\0" + b"{}"])
def test_no_safetensors_at_all(data: bytes, tmp_path: Any) -> None:
    (tmp_path / "m").write_bytes(data)
    with pytest.raises(pc.FormatError, match="m: "):
        pc.load(tmp_path / "m")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dtype": "F33"}, "dtype 'F33'"),
        ({"dtype": 4}, "dtype 4"),
        ({"dtype": "I64"}, "has 8 bytes"),
        ({"shape": [3]}, "has 8 bytes"),
        ({"shape": [-1]}, "shape"),
        ({"shape": [2.0]}, "shape"),
        ({"shape": [True, 2]}, "shape"),
        ({"shape": "2"}, "shape"),
        ({"shape": [2**62, 2**62, 0]}, "has 8 bytes"),
        ({"shape": [1] * 40 + [2]}, "shape"),
        ({"shape": [2**64 + 2]}, "shape"),
        ({"data_offsets": [0, 4]}, "has 4 bytes"),
        ({"data_offsets": [8, 0]}, "data_offsets"),
        ({"data_offsets": [-8, 0]}, "data_offsets"),
        ({"data_offsets": [0, 8, 16]}, "data_offsets"),
        ({"data_offsets": [0, 2**70]}, "data_offsets"),
        ({"data_offsets": [10**30, 10**30 + 8]}, "data_offsets"),
        ({"extra": 1}, "dtype, shape and data_offsets"),
    ],
)
def test_header_that_lies(change: dict[str, Any], message: str, small: Any) -> None:
    header, data = parts(small)
    header["y"] |= change
    with_header(small, header, data)
    with pytest.raises(pc.FormatError, match=message):
        pc.load(small)


def test_overlaps_gaps_and_what_is_left_over(small: Any) -> None:
    header, data = parts(small)
    with_header(small, header, data + b"x")
    with pytest.raises(pc.FormatError, match="the tensors end"):
        pc.load(small)
    with_header(small, header, data[:-1])
    with pytest.raises(pc.FormatError, match="data_offsets"):
        pc.load(small)
    (start, end), other = header["y"]["data_offsets"], header["x/scale"]["data_offsets"]
    header["y"]["data_offsets"] = other
    with_header(small, header, data)
    with pytest.raises(pc.FormatError, match="a gap or an overlap"):
        pc.load(small)
    del header["y"]
    with_header(small, header, data)
    with pytest.raises(pc.FormatError, match=r"gap|end at"):
        pc.load(small)
    assert end - start == 8


@pytest.mark.parametrize(
    "text",
    [
        b"{",
        b"[]",
        b'"x"',
        b'{"a": 1}',
        b"\xff{}",
        b'{"__metadata__": {"a": 1}}',
        b'{"__metadata__": []}',
        b'{"__metadata__": {}, "__metadata__": {}}',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"a": ' + b"9" * 10_000 + b"}",
    ],
)
def test_header_that_is_no_header(text: bytes, tmp_path: Any) -> None:
    with_header(tmp_path / "m", text, b"")
    with pytest.raises(pc.FormatError):
        pc.load(tmp_path / "m")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("format", "pt"), "format in the metadata is 'pt'"),
        (("pycompress.version", "2"), "version '2'"),
        (("pycompress.weights", "{"), "no JSON"),
        (("pycompress.weights", "[]"), "no JSON object"),
        (("pycompress.weights", '{"x": NaN}'), "no number"),
        (("pycompress.report", "{}"), "no report"),
        (("pycompress.report", '{"layers": [{"name": 3}], "path": []}'), "no report"),
    ],
)
def test_metadata_that_lies(change: tuple[str, str], message: str, small: Any) -> None:
    header, data = parts(small)
    header["__metadata__"][change[0]] = change[1]
    with_header(small, header, data)
    with pytest.raises(pc.FormatError, match=message):
        pc.load(small)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "Weight"}, "kind 'Weight'"),
        ({"kind": "QParams"}, "kind 'QParams'"),
        ({"kind": "__class__"}, "kind '__class__'"),
        ({"kind": "os.system"}, "kind"),
        ({"kind": ["Int8Weight"]}, "kind"),
        ({"shape": [2]}, "its arrays make"),
        ({"shape": [-2, 3]}, "list of sizes"),
        ({"arrays": ["q"]}, "no Int8Weight"),
        ({"arrays": ["q", "q", "scale"]}, "arguments"),
        ({"arrays": ["q", "scale", "y"]}, "arguments"),
        ({"arrays": "q"}, "no list"),
        ({"values": {"q": 1}}, "arguments"),
        ({"values": {"out": [[1]]}}, "values"),
        ({"weights": {"q": {}}, "arrays": ["scale"]}, "no object of kind"),
        ({"more": 1}, "no object of kind"),
    ],
)
def test_schema_that_lies(change: dict[str, Any], message: str, small: Any) -> None:
    header, data = parts(small)
    weights = json.loads(header["__metadata__"]["pycompress.weights"])
    weights["x"] |= change
    header["__metadata__"]["pycompress.weights"] = json.dumps(weights)
    with_header(small, header, data)
    with pytest.raises(pc.FormatError, match=message):
        read_all(small)


def test_weights_in_weights_end_somewhere(small: Any) -> None:
    header, data = parts(small)
    deep: dict[str, Any] = {"kind": "Int8Weight", "shape": [2, 3], "arrays": ["q", "scale"]}
    for _ in range(5):
        deep = {"kind": "LowRankWeight", "shape": [2, 3], "weights": {"a": deep}}
    header["__metadata__"]["pycompress.weights"] = json.dumps({"x": deep})
    with_header(small, header, data)
    with pytest.raises(pc.FormatError, match=r"needs a tensor|deeper"):
        pc.load(small)


def test_bytes_that_no_weight_can_have(small: Any) -> None:
    header, data = parts(small)
    start, end = header["x/scale"]["data_offsets"]
    for bad in (np.nan, np.inf, 0, -1):
        values = np.array([1, bad], np.float32).tobytes()
        with_header(small, header, data[:start] + values + data[end:])
        model = pc.load(small)  # weights are read when they are asked for
        np.testing.assert_array_equal(model["y"], [1.5, 2.5])
        with pytest.raises(pc.FormatError, match=r"small: 'x' is no Int8Weight: scale\[1\]"):
            model["x"]


def test_booleans_are_0_or_1(tmp_path: Any) -> None:
    pc.CompressedModel({"b": np.array([True, False])}).save(tmp_path / "m")
    header, data = parts(tmp_path / "m")
    with_header(tmp_path / "m", header, b"\x02" + data[1:])
    with pytest.raises(pc.FormatError, match="neither 0 nor 1"):
        pc.load(tmp_path / "m")["b"]


def test_every_corruption_of_one_byte(tmp_path: Any) -> None:
    """Each byte of a small file, changed: it loads with values that were checked, or is refused, and nothing else
    happens."""
    path = tmp_path / "m"
    tensors = {**every_kind(), "y": np.arange(3.0), "b": np.array([True])}
    small = {name.partition(".")[0]: name for name in every_kind()}.values()  # one form of each kind
    tensors = {name: value for name, value in tensors.items() if name in small or not isinstance(value, Weight)}
    pc.CompressedModel(tensors, Report()).save(path)
    whole = bytearray(path.read_bytes())
    refused = 0
    rng = np.random.default_rng(0)
    for i in range(len(whole)):
        for value in {whole[i] ^ 1 << int(rng.integers(8)), int(rng.integers(256))} - {whole[i]}:
            before, whole[i] = whole[i], value
            path.write_bytes(whole)
            whole[i] = before
            try:
                read_all(path)
            except pc.FormatError as error:
                assert str(path) in str(error)  # noqa: PT017
                refused += 1
    assert refused > 1.5 * (len(whole) - sum(v.nbytes for v in tensors.values()))  # nearly all of the header is checked


@given(data=st.data())
@settings(max_examples=200)
def test_files_of_any_bytes(data: Any, tmp_path: Any) -> None:
    path = tmp_path / "m"
    pc.CompressedModel({"x": examples("LowRankWeight")["integers"], "y": np.arange(3.0)}, Report()).save(path)
    whole = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(whole)))
        whole[start : start + data.draw(st.integers(0, 40))] = data.draw(st.binary(max_size=40))
    path.write_bytes(whole)
    with contextlib.suppress(pc.FormatError):
        read_all(path)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*"abqx", "scale"]), inner, max_size=3),
    max_leaves=8,
)
_ENTRY = st.fixed_dictionaries(
    {
        "kind": st.sampled_from(KINDS) | _JSON,
        "shape": st.just([2, 3]) | _JSON,
        "arrays": st.lists(st.sampled_from(["q", "scale", "a", "b", "shape"]), max_size=3) | _JSON,
        "weights": st.dictionaries(st.sampled_from("ab"), _JSON, max_size=2) | _JSON,
        "values": st.dictionaries(st.sampled_from(["shape", "block", "mid_qparams"]), _JSON, max_size=2) | _JSON,
    }
)


@given(entry=_ENTRY)
@settings(max_examples=200)
def test_any_schema(entry: Any, tmp_path: Any) -> None:
    path = tmp_path / "m"
    weight = pc.Int8Weight.from_float(np.arange(6, dtype=np.float32).reshape(2, 3))
    pc.CompressedModel({"x": weight}, Report()).save(path)
    header, data = parts(path)
    header["__metadata__"]["pycompress.weights"] = json.dumps({"x": entry})
    with_header(path, header, data)
    with contextlib.suppress(pc.FormatError):
        read_all(path)


def test_schema_of_a_kind_that_is_not_there(small: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kinds, "__all__", [name for name in kinds.__all__ if name != "Int8Weight"])
    with pytest.raises(pc.FormatError, match="'Int8Weight', which this version of pycompress does not have"):
        pc.load(small)
    assert schema.VERSION == 1
