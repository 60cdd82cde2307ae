"""Distillation losses against the papers' formulas, written out in float64 NumPy; gradients; the collector."""

import itertools

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

from pycompress import distill as d  # noqa: E402


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


def kl(p, q):
    return float(np.sum(p * np.log(p / q)))


def huber(x):
    return 0.5 * x * x if abs(x) < 1 else abs(x) - 0.5


@pytest.fixture
def logits(rng):
    return rng.standard_normal((6, 5)) * 3, rng.standard_normal((6, 5)) * 3


@pytest.fixture
def images(rng):
    return rng.standard_normal((4, 3, 5, 6)), rng.standard_normal((4, 7, 5, 6))


@pytest.fixture
def embeddings(rng):
    return rng.standard_normal((5, 8)), rng.standard_normal((5, 11)) * 4


def value(loss, *arrays, **options):
    return float(loss(*(torch.from_numpy(a) for a in arrays), **options).detach())


# ---- the formulas


@pytest.mark.parametrize("t", [1.0, 4.0, 0.5])
def test_kd(logits, t):
    student, teacher = logits
    wanted = t * t * np.mean([kl(softmax(b / t), softmax(a / t)) for a, b in zip(student, teacher, strict=True)])
    assert value(d.kd, *logits, temperature=t) == pytest.approx(wanted)
    assert value(d.kd, student, student, temperature=t) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(("alpha", "beta"), [(1, 8), (1, 0), (0, 1)])
def test_decoupled_kd(logits, alpha, beta):
    target, t, total = np.array([0, 1, 2, 3, 4, 0]), 2.0, 0.0
    for a, b, y in zip(*logits, target, strict=True):
        p, q = softmax(b / t), softmax(a / t)
        tckd = kl(np.array([p[y], 1 - p[y]]), np.array([q[y], 1 - q[y]]))
        nckd = kl(np.delete(p, y) / (1 - p[y]), np.delete(q, y) / (1 - q[y]))
        total += (alpha * tckd + beta * nckd) * t * t / len(target)
    got = value(d.decoupled_kd, *logits, target, alpha=alpha, beta=beta, temperature=t)
    assert got == pytest.approx(total)


def test_decoupled_kd_is_kd_taken_apart(logits):
    """Eq. 6: KD = TCKD + (1 - p_target) NCKD; with one example the weight is a number."""
    student, teacher = (x[:1] for x in logits)
    others = 1 - softmax(teacher[0] / 4)[2]
    got = value(d.decoupled_kd, student, teacher, np.array([2]), alpha=1, beta=others)
    assert got == pytest.approx(value(d.kd, student, teacher))


@pytest.mark.parametrize("images_", [True, False])
def test_hint(rng, images_):
    loss = d.Hint(3, 7, images=images_).double()
    student = rng.standard_normal((2, 3, 4, 5) if images_ else (2, 4, 5, 3))
    w, b = loss.regressor.weight.detach().numpy().reshape(7, 3), loss.regressor.bias.detach().numpy()
    regressed = np.einsum("oc,bchw->bohw", w, student) + b[:, None, None] if images_ else student @ w.T + b
    teacher = rng.standard_normal(regressed.shape)
    assert value(loss, student, teacher) == pytest.approx(np.mean((regressed - teacher) ** 2))


def test_hint_of_a_larger_image(rng):
    loss = d.Hint(3, 7).double()
    student, teacher = rng.standard_normal((2, 3, 4, 5)), rng.standard_normal((2, 7, 8, 10))
    pooled = teacher.reshape(2, 7, 4, 2, 5, 2).mean((3, 5))
    assert value(loss, student, teacher) == pytest.approx(value(loss, student, pooled))


@pytest.mark.parametrize("p", [1, 2, 4])
def test_attention_transfer(images, p):
    total = 0.0
    for a, b in zip(*images, strict=True):
        q_s, q_t = (np.sum(np.abs(x) ** p, 0).ravel() for x in (a, b))
        total += np.linalg.norm(q_s / np.linalg.norm(q_s) - q_t / np.linalg.norm(q_t)) / len(images[0])
    assert value(d.attention_transfer, *images, p=p) == pytest.approx(total)


def test_rkd_distance(embeddings):
    def distances(x):
        pairs = [np.linalg.norm(x[i] - x[j]) for i, j in itertools.permutations(range(len(x)), 2)]
        return np.array(pairs) / np.mean(pairs)

    difference = distances(embeddings[0]) - distances(embeddings[1])
    assert value(d.rkd_distance, *embeddings) == pytest.approx(np.mean([huber(x) for x in difference]))


def test_rkd_angle(embeddings):
    def cosines(x):
        def cosine(i, j, k):
            a, b = x[i] - x[j], x[k] - x[j]
            return a @ b / np.linalg.norm(a) / np.linalg.norm(b)

        return np.array([cosine(*t) for t in itertools.permutations(range(len(x)), 3)])

    difference = cosines(embeddings[0]) - cosines(embeddings[1])
    assert value(d.rkd_angle, *embeddings) == pytest.approx(np.mean([huber(x) for x in difference]))


@pytest.mark.parametrize("loss", [d.rkd_distance, d.rkd_angle])
def test_rkd_does_not_see_scale_nor_place(embeddings, loss):
    x = embeddings[0]
    assert value(loss, x, x * 3 + 5) == pytest.approx(0, abs=1e-12)


def test_similarity_preserving(images):
    def similarity(x):
        g = x.reshape(len(x), -1) @ x.reshape(len(x), -1).T
        return g / np.linalg.norm(g, axis=1, keepdims=True)

    wanted = np.sum((similarity(images[0]) - similarity(images[1])) ** 2) / len(images[0]) ** 2
    assert value(d.similarity_preserving, *images) == pytest.approx(wanted)


def test_fsp(rng):
    def flow(a, b):
        return np.einsum("bihw,bjhw->bij", a, b) / (a.shape[2] * a.shape[3])

    shapes = [(3, 4, 5, 6), (3, 2, 5, 6)]
    student, teacher = ([rng.standard_normal(s) for s in shapes] for _ in range(2))
    wanted = np.mean([np.sum(g**2) for g in flow(*student) - flow(*teacher)])
    tensors = [tuple(torch.from_numpy(x) for x in pair) for pair in (student, teacher)]
    assert float(d.fsp(*tensors)) == pytest.approx(wanted)
    larger = torch.from_numpy(np.kron(teacher[0], np.ones((1, 1, 2, 2))))  # max pooling of it is teacher[0]
    assert float(d.fsp(tensors[0], (larger, tensors[1][1]))) == pytest.approx(wanted)


# ---- gradients


@pytest.mark.parametrize(
    ("loss", "shapes"),
    [
        (d.kd, [(4, 5), (4, 5)]),
        (lambda s, t: d.decoupled_kd(s, t, torch.arange(4)), [(4, 5), (4, 5)]),
        (d.Hint(3, 2).double(), [(2, 3, 3, 2), (2, 2, 3, 2)]),
        (d.attention_transfer, [(2, 3, 3, 2), (2, 4, 3, 2)]),
        (d.rkd_distance, [(4, 3), (4, 5)]),
        (d.rkd_angle, [(4, 3), (4, 5)]),
        (d.similarity_preserving, [(4, 3), (4, 5)]),
        (lambda a, b, c, e: d.fsp((a, b), (c, e)), [(2, 3, 2, 2), (2, 2, 2, 2)] * 2),
    ],
)
def test_gradients(rng, loss, shapes):
    inputs = [torch.from_numpy(rng.standard_normal(s)).requires_grad_() for s in shapes]
    assert torch.autograd.gradcheck(loss, inputs)


@pytest.mark.parametrize("loss", [d.rkd_distance, d.rkd_angle, d.similarity_preserving, d.kd])
def test_no_nan_where_nothing_differs(loss):
    """A collapsed batch, and a student that is the teacher."""
    for x in (torch.zeros(4, 3), torch.ones(4, 3)):
        student = x.clone().requires_grad_()
        loss(student, torch.randn(4, 3)).backward()
        assert torch.isfinite(student.grad).all()
        student.grad = None
        loss(student, x).backward()
        assert torch.isfinite(student.grad).all()


# ---- the collector


def net(width):
    torch.manual_seed(width)
    return nn.Sequential(nn.Conv2d(1, width, 3), nn.ReLU(), nn.Conv2d(width, width, 3), nn.Flatten(), nn.LazyLinear(4))


def test_distiller():
    teacher, student = net(6), net(3)
    x, y = torch.randn(5, 1, 8, 8), torch.tensor([0, 1, 2, 3, 0])
    teacher(x), student(x)
    hint = d.Hint(3, 6)
    distiller = d.Distiller(
        teacher,
        student,
        [
            d.Term(d.kd, 0.5),
            d.Term(hint, 2.0, "0", "0"),
            d.Term(d.attention_transfer, 1.0, "2", "2"),
            d.Term(d.decoupled_kd, 0.25, with_target=True),
        ],
    )
    distiller.train()
    output, loss, terms = distiller(x, y)
    assert torch.equal(output, student(x))
    with torch.no_grad():
        t, s = teacher(x), student(x)
        wanted = [
            d.kd(s, t),
            hint(student[0](x), teacher[0](x)),
            d.attention_transfer(student[:3](x), teacher[:3](x)),
            d.decoupled_kd(s, t, y),
        ]
    for got, value_ in zip(terms, wanted, strict=True):
        assert float(got.detach()) == pytest.approx(float(value_))
    total = sum(weight * float(v) for weight, v in zip((0.5, 2, 1, 0.25), wanted, strict=True))
    assert float(loss.detach()) == pytest.approx(total)
    loss.backward()
    assert all(p.grad is None for p in teacher.parameters())
    assert hint.regressor.weight.grad is not None
    assert not teacher.training
    trained = {id(p) for p in distiller.parameters()}
    assert trained == {id(p) for p in (*student.parameters(), *hint.parameters())}
    assert not any(module._forward_hooks for model in (teacher, student) for module in model.modules())


def test_distiller_errors():
    teacher, student = net(6), net(3)
    with pytest.raises(ValueError, match="teacher has no module 'layer9'"):
        d.Distiller(teacher, student, [d.Term(d.rkd_distance, student="0", teacher="layer9")])
    with pytest.raises(ValueError, match="target is None"):
        d.Distiller(teacher, student, [d.Term(d.decoupled_kd, with_target=True)])(torch.randn(2, 1, 8, 8))
    teacher[0].unused = nn.Identity()
    with pytest.raises(ValueError, match=r"module '0\.unused' was not called"):
        d.Distiller(teacher, student, [d.Term(d.rkd_distance, 1.0, "0", "0.unused")])(torch.randn(2, 1, 8, 8))


@pytest.mark.parametrize(
    ("match", "call"),
    [
        (r"shapes \(2, 3\) and \(2, 4\)", lambda: d.kd(torch.ones(2, 3), torch.ones(2, 4))),
        ("temperature is 0", lambda: d.kd(torch.ones(2, 3), torch.ones(2, 3), 0)),
        ("1 class", lambda: d.decoupled_kd(torch.ones(2, 1), torch.ones(2, 1), torch.zeros(2).long())),
        ("target has shape", lambda: d.decoupled_kd(torch.ones(2, 3), torch.ones(2, 3), torch.zeros(3).long())),
        ("teacher has shape", lambda: d.Hint(3, 4)(torch.ones(1, 3, 2, 2), torch.ones(1, 5, 2, 2))),
        ("student has shape", lambda: d.attention_transfer(torch.ones(2, 3), torch.ones(2, 3, 2, 2))),
        ("batches of 2 and 3", lambda: d.attention_transfer(torch.ones(2, 3, 2, 2), torch.ones(3, 3, 2, 2))),
        ("at least 3", lambda: d.rkd_angle(torch.ones(2, 3), torch.ones(2, 3))),
        ("at least 2", lambda: d.rkd_distance(torch.ones(2, 3), torch.ones(3, 3))),
        ("the same channels", lambda: d.fsp((torch.ones(1, 2, 3, 3),) * 2, (torch.ones(1, 4, 3, 3),) * 2)),
    ],
)
def test_errors(match, call):
    with pytest.raises(ValueError, match=match):
        call()
