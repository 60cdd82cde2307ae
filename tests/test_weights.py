"""Int8Weight and QParams: what they hold, how they are made, copied and pickled."""

import copy
import pickle

import numpy as np
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st
from reference import f32, random_bytes, same_bits

import pycompress as pc


@pytest.fixture
def weight(rng):
    return pc.Int8Weight(random_bytes(rng, np.int8, 5, 9), rng.uniform(0.01, 0.1, 5).astype(f32))


def same_weight(got, wanted):
    same_bits(got.q, wanted.q)
    same_bits(got.scale, wanted.scale)


# ---- from_float


def check_from_float(w):
    """The definition, and what follows from it."""
    weight = pc.Int8Weight.from_float(w)
    q, scale = reference.int8_weight(np.asarray(w).astype(f32))
    same_bits(weight.q, q)
    same_bits(weight.scale, scale)
    assert weight.q.min(initial=0) >= -127
    return weight


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, np.longdouble, ">f4"])
def test_from_float_is_the_definition(rng, dtype):
    w = rng.standard_normal((40, 33)) * 10.0 ** rng.uniform(-3, 3, (40, 1))
    weight = check_from_float(w.astype(dtype))
    error = np.abs(weight.todense() - w.astype(dtype).astype(f32))
    assert (error <= weight.scale[:, None] * f32(0.50001)).all()


def test_from_float_of_special_rows():
    rows = [
        [0, 0, 0, 0],
        [-0.0, 0, 0, 0],
        [1e-45, -1e-45, 0, 0],  # max / 127 underflows: the row counts as zero
        [1e-43, -3e-43, 0, 2e-43],  # a subnormal scale
        [1e-38, 1e-39, -1e-40, 0],
        [3.4e38, -3.4e38, 1e38, 0],
        [-127, 126.5, 63.5, -0.5],  # halves
        [-5, -5, -5, -5],
    ]
    weight = check_from_float(np.array(rows, f32))
    assert weight.scale[0] == weight.scale[1] == weight.scale[2] == 1
    assert not weight.q[:3].any()
    assert weight.q[6].tolist() == [-127, 126, 64, 0]
    assert (np.isfinite(weight.scale) & (weight.scale > 0)).all()


def test_from_float_rounds_halves_to_even():
    w = np.concatenate([np.arange(-126, 127) + 0.5, [127.0]]).astype(f32)[None]
    assert pc.Int8Weight.from_float(w).q[0].tolist() == [*np.rint(w[0]).astype(int)]


def test_from_float_of_a_convolution(rng):
    w = rng.standard_normal((6, 3, 5, 2)).astype(f32)
    weight = check_from_float(w)
    assert weight.shape == weight.todense().shape == (6, 3, 5, 2)


def test_from_float_in_pieces(rng, monkeypatch):
    from pycompress.weights import int8

    w = rng.standard_normal((23, 50)).astype(f32)
    whole = pc.Int8Weight.from_float(w)
    for chunk in (1, 50, 120, 10**6):
        monkeypatch.setattr(int8, "_CHUNK", chunk)
        same_weight(pc.Int8Weight.from_float(w), whole)


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (0, 0), (0, 3, 1, 1)])
def test_from_float_of_nothing(shape):
    weight = check_from_float(np.ones(shape, f32))
    assert weight.shape == shape


def test_from_float_leaves_its_argument_alone(rng):
    w = rng.standard_normal((5, 9)).astype(f32)
    before = w.copy()
    for layout in (w, np.asfortranarray(w), w[::-1, ::-1]):
        check_from_float(layout)
    same_bits(w, before)
    assert w.flags.writeable


def test_from_float_takes_lists_of_floats():
    same_weight(pc.Int8Weight.from_float([[1.0, -2.0]]), pc.Int8Weight.from_float(np.array([[1, -2]], f32)))


@given(st.lists(st.lists(st.floats(-(2.0**127), 2.0**127, width=32), min_size=3, max_size=3), max_size=6))
def test_from_float_of_any_values(rows):
    check_from_float(np.array(rows, f32).reshape(-1, 3))


# ---- what it holds


def test_shape_nbytes_and_repr(weight):
    assert weight.shape == (5, 9)
    assert weight.nbytes == 5 * 9 + 5 * 4
    assert repr(weight) == "Int8Weight(5x9, 65 bytes)"
    pc.linear(np.ones((1, 9), f32), weight)
    assert weight.nbytes == 65


def test_todense_is_q_times_scale(weight):
    same_bits(weight.todense(), weight.q.astype(f32) * weight.scale[:, None])
    q = weight.q.reshape(5, 3, 3, 1)
    same_bits(pc.Int8Weight(q, weight.scale).todense(), weight.todense().reshape(q.shape))


def test_minus_128_is_a_value(rng):
    weight = pc.Int8Weight(np.full((3, 7), -128, np.int8), np.ones(3, f32))
    x = random_bytes(rng, np.uint8, 4, 7)
    same_bits(pc.matmul_integer(x, weight), x.astype(np.int32) @ weight.q.T.astype(np.int32))


def test_arrays_are_read_only_views(weight):
    q, scale = np.ones((2, 3), np.int8), np.ones(2, f32)
    weight = pc.Int8Weight(q, scale)
    assert np.shares_memory(weight.q, q)
    assert np.shares_memory(weight.scale, scale)
    for array in (weight.q, weight.scale):
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 2
    assert q.flags.writeable
    assert scale.flags.writeable


def test_no_other_attributes(weight):
    with pytest.raises(AttributeError):
        weight.other = 1


def test_memory_mapped_q_is_not_copied(tmp_path, rng):
    q, scale = random_bytes(rng, np.int8, 40, 33), rng.uniform(0.01, 0.1, 40).astype(f32)
    q.tofile(tmp_path / "q")
    mapped = np.memmap(tmp_path / "q", np.int8, "r", shape=q.shape)
    weight, x = pc.Int8Weight(mapped, scale), rng.standard_normal((3, 33)).astype(f32)
    assert np.shares_memory(weight.q, mapped)
    same_bits(pc.linear(x, weight), pc.linear(x, pc.Int8Weight(q, scale)))
    assert np.shares_memory(weight.q, mapped)
    same_weight(pickle.loads(pickle.dumps(weight)), pc.Int8Weight(q, scale))


# ---- copies


copies = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    **{f"pickle {p}": lambda w, p=p: pickle.loads(pickle.dumps(w, p)) for p in range(pickle.HIGHEST_PROTOCOL + 1)},
}


@pytest.mark.parametrize("used", [False, True])
@pytest.mark.parametrize("how", copies)
def test_copies_compute_the_same(rng, weight, how, used):
    x = rng.standard_normal((3, 9)).astype(f32)
    if used:
        pc.linear(x, weight)
    other = copies[how](weight)
    assert type(other) is pc.Int8Weight
    same_weight(other, weight)
    assert not other.q.flags.writeable
    same_bits(pc.linear(x, other), pc.linear(x, weight))


def test_deepcopy_has_arrays_of_its_own(weight):
    assert np.shares_memory(copy.copy(weight).q, weight.q)
    assert not np.shares_memory(copy.deepcopy(weight).q, weight.q)


def test_pickle_holds_only_what_is_stored(weight):
    fresh = pickle.dumps(weight)
    pc.linear(np.ones((1, 9), f32), weight)
    assert weight._packed is not None
    assert pickle.dumps(weight) == fresh
    assert pickle.loads(fresh)._packed is None
    large = pc.Int8Weight(np.ones((200, 300), np.int8), np.ones(200, f32))
    pc.linear(np.ones((1, 300), f32), large)
    assert len(pickle.dumps(large)) < large.nbytes + 1000


def test_packing_is_done_once(weight):
    assert weight.packed() is weight.packed()


# ---- QParams


def test_qparams_is_a_pair():
    qparams = pc.QParams(0.1, 3)
    scale, zero_point = qparams
    assert qparams == (scale, zero_point) == (float(f32(0.1)), 3)
    assert (qparams.scale, qparams.zero_point) == (scale, zero_point)
    assert pc.QParams(0.5) == (0.5, 0)
    assert repr(pc.QParams(0.5, 7)) == "QParams(scale=0.5, zero_point=7)"


@pytest.mark.parametrize("scale", [0.1, 1, f32(0.1), np.float64(0.1), np.float16(0.1), np.array(0.1), 1e-45, 3.4e38])
@pytest.mark.parametrize("zero_point", [0, -128, 255, np.int8(-3), np.uint8(200), np.int64(5), True])
def test_qparams_are_python_numbers(scale, zero_point):
    qparams = pc.QParams(scale, zero_point)
    assert type(qparams.scale) is float
    assert qparams.scale == f32(scale)
    assert type(qparams.zero_point) is int
    assert qparams.zero_point == zero_point


@pytest.mark.parametrize("how", [copy.copy, copy.deepcopy, lambda q: pickle.loads(pickle.dumps(q))])
def test_qparams_are_copied(how):
    qparams = how(pc.QParams(0.1, 3))
    assert type(qparams) is pc.QParams
    assert qparams == pc.QParams(0.1, 3)


def test_qparams_are_checked_when_replaced():
    qparams = pc.QParams(0.1, 3)
    assert qparams._replace(zero_point=np.int8(4)) == pc.QParams(0.1, 4)
    for changed, error in (
        ({"scale": -1}, ValueError),
        ({"zero_point": 256}, ValueError),
        ({"zero_point": 3.7}, TypeError),
    ):
        with pytest.raises(error, match=next(iter(changed))):
            qparams._replace(**changed)


def test_qparams_or_a_pair(rng, weight):
    x = random_bytes(rng, np.uint8, 3, 9)
    wanted = pc.linear(x, weight, x_qparams=pc.QParams(0.1, 3), y_qparams=pc.QParams(0.2, 9))
    for kind in (tuple, list):
        same_bits(pc.linear(x, weight, x_qparams=kind((0.1, 3)), y_qparams=kind((f32(0.2), np.uint8(9)))), wanted)


@pytest.mark.parametrize("used", [False, True])
def test_no_result_goes_into_a_weight(used):
    """Before it is packed, and after, when calls take the fast path; strided values span more than they fill."""
    base, scales = np.zeros((4, 32), np.int8), np.ones(8, np.float32)
    weight = pc.Int8Weight(base[::-1, ::2], scales[:4])
    x = np.ones((1, 16), np.float32)
    if used:
        pc.linear(x, weight)
    for name, memory in ("weight.q", base.reshape(-1)[-16:].view(np.float32)), ("weight.scale", scales[:4]):
        with pytest.raises(ValueError, match=f"out shares memory with {name}"):
            pc.linear(x, weight, out=memory.reshape(1, 4))
    assert (weight.scale == 1).all()
    assert not base.any()
