"""Knowledge distillation in PyTorch: losses from responses, features and relations, and what collects their inputs.

Each loss stands alone and can be used in any training loop. Tensors are float, batches first; a loss is a scalar, and
gradients flow into the student's side only where the caller detaches the teacher's, as `Distiller` does.

Needs the extra `torch`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

try:
    import torch
except ImportError as error:
    raise ImportError("pycompress.distill needs PyTorch: pip install pycompress-kernels[torch]") from error
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

__all__ = [
    "Distilled",
    "Distiller",
    "Hint",
    "Term",
    "attention_transfer",
    "decoupled_kd",
    "fsp",
    "kd",
    "rkd_angle",
    "rkd_distance",
    "similarity_preserving",
]

# ---- from responses


def kd(student: Tensor, teacher: Tensor, temperature: float = 4.0) -> Tensor:
    """Hinton's loss: T^2 KL(softmax(teacher / T) || softmax(student / T)), mean over the batch.

    student, teacher: logits [batch, classes]. Raises ValueError for shapes that differ, or a temperature that is not
    positive. Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", 2015.
    """
    _check_logits(student, teacher, temperature)
    log_p = F.log_softmax(student / temperature, 1)
    log_q = F.log_softmax(teacher / temperature, 1)
    return F.kl_div(log_p, log_q, reduction="batchmean", log_target=True) * temperature**2


def decoupled_kd(
    student: Tensor, teacher: Tensor, target: Tensor, alpha: float = 1.0, beta: float = 8.0, temperature: float = 4.0
) -> Tensor:
    """Hinton's loss in two parts with weights of their own: T^2 (alpha TCKD + beta NCKD), mean over the batch.

    TCKD is the divergence of (target class, all others), NCKD that among the others alone. student, teacher: logits
    [batch, classes], at least 2 classes; target: int64 [batch]. Raises ValueError for shapes or a temperature as `kd`,
    and for a single class.
    Zhao et al., "Decoupled Knowledge Distillation", CVPR 2022, eq. 7.
    """
    _check_logits(student, teacher, temperature)
    if student.shape[1] < 2:
        raise ValueError("student and teacher have 1 class, wanted 2 or more")
    if target.shape != student.shape[:1]:
        raise ValueError(f"target has shape {tuple(target.shape)}, wanted {tuple(student.shape[:1])}")
    is_target = F.one_hot(target, student.shape[1]).bool()

    def parts(logits: Tensor) -> tuple[Tensor, Tensor]:
        log_p = F.log_softmax(logits / temperature, 1)
        of_target = log_p[is_target]
        of_others = torch.logsumexp(log_p.masked_fill(is_target, -torch.inf), 1)
        among_others = F.log_softmax((logits / temperature)[~is_target].view(len(logits), -1), 1)
        return torch.stack((of_target, of_others), 1), among_others

    (s_two, s_others), (t_two, t_others) = parts(student), parts(teacher)
    tckd = F.kl_div(s_two, t_two, reduction="batchmean", log_target=True)
    nckd = F.kl_div(s_others, t_others, reduction="batchmean", log_target=True)
    return (alpha * tckd + beta * nckd) * temperature**2


def _check_logits(student: Tensor, teacher: Tensor, temperature: float) -> None:
    if student.ndim != 2 or student.shape != teacher.shape:
        raise ValueError(
            f"student and teacher have shapes {tuple(student.shape)} and {tuple(teacher.shape)}, "
            "wanted both [batch, classes]"
        )
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature}, wanted above 0")


# ---- from features


class Hint(nn.Module):
    """FitNets' hint: mean squared error between the teacher's features and a regressor of the student's.

    The regressor is a 1x1 convolution for images [batch, channels, height, width], a linear layer for
    [batch, ..., channels]; it is trained with the student, and thrown away with the loss. A teacher's image of another
    size is brought to the student's by adaptive average pooling.

    Romero et al., "FitNets: Hints for Thin Deep Nets", ICLR 2015, eq. 3, with a mean in place of the sum over features.
    """

    def __init__(self, student_channels: int, teacher_channels: int, *, images: bool = True) -> None:
        super().__init__()
        self.regressor: nn.Module = (
            nn.Conv2d(student_channels, teacher_channels, 1)
            if images
            else nn.Linear(student_channels, teacher_channels)
        )

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        regressed = self.regressor(student)
        if regressed.ndim == 4 and regressed.shape[2:] != teacher.shape[2:]:
            teacher = F.adaptive_avg_pool2d(teacher, regressed.shape[2:])
        if regressed.shape != teacher.shape:
            raise ValueError(f"teacher has shape {tuple(teacher.shape)}, wanted {tuple(regressed.shape)}")
        return F.mse_loss(regressed, teacher)


def attention_transfer(student: Tensor, teacher: Tensor, p: float = 2.0) -> Tensor:
    """Where each network looks: || Q_s / ||Q_s|| - Q_t / ||Q_t|| ||, mean over the batch.

    Q is the sum over channels of |A|^p, as a vector.
    student, teacher: images [batch, channels, height, width]; channels may differ, and a teacher of another size is
    brought to the student's by adaptive average pooling of Q. Raises ValueError for other shapes.
    Zagoruyko and Komodakis, "Paying More Attention to Attention", ICLR 2017, eq. 2 (without its beta / 2).
    """
    _check_images(student=student, teacher=teacher)
    q_s, q_t = (a.abs().pow(p).sum(1) for a in (student, teacher))
    if q_s.shape != q_t.shape:
        q_t = F.adaptive_avg_pool2d(q_t, q_s.shape[1:])
    q_s, q_t = (F.normalize(q.flatten(1), dim=1) for q in (q_s, q_t))
    return torch.linalg.vector_norm(q_s - q_t, dim=1).mean()


# ---- from relations


def rkd_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Distances between the examples of a batch: Huber loss of the pairwise distances, each divided by their mean.

    student, teacher: [batch, ...], flattened to vectors, whose lengths may differ; at least 2 examples. The mean over
    all ordered pairs of different examples. Raises ValueError for batches that differ or are too small.
    Park et al., "Relational Knowledge Distillation", CVPR 2019, eq. 5 and 6.
    """
    student, teacher = _check_batches(student, teacher, 2)
    different = ~torch.eye(len(student), dtype=torch.bool, device=student.device)

    def distances(x: Tensor) -> Tensor:
        d = torch.linalg.vector_norm((x[:, None] - x[None])[different], dim=1)
        return d / d.mean().clamp_min(torch.finfo(d.dtype).tiny)

    return F.smooth_l1_loss(distances(student), distances(teacher))


def rkd_angle(student: Tensor, teacher: Tensor) -> Tensor:
    """Angles among the examples of a batch: Huber loss of the cosines of the angle at j of all triplets i, j, k.

    student, teacher: [batch, ...], flattened to vectors; at least 3 examples. The mean over all ordered triplets of
    different examples. Raises ValueError for batches that differ or are too small.
    Park et al., "Relational Knowledge Distillation", CVPR 2019, eq. 7 and 8.
    """
    student, teacher = _check_batches(student, teacher, 3)
    same = torch.eye(len(student), dtype=torch.bool, device=student.device)
    different = ~(same[:, :, None] | same[:, None, :] | same[None])

    def cosines(x: Tensor) -> Tensor:
        unit = F.normalize(x[None] - x[:, None], dim=2)  # [j, i]: from j to i
        return (unit @ unit.transpose(1, 2))[different]

    return F.smooth_l1_loss(cosines(student), cosines(teacher))


def similarity_preserving(student: Tensor, teacher: Tensor) -> Tensor:
    """Which examples excite the network alike: || G_s - G_t ||_F^2 / batch^2, G = A A^T with rows of length 1.

    student, teacher: [batch, ...], flattened to vectors. Raises ValueError for batches that differ.
    Tung and Mori, "Similarity-Preserving Knowledge Distillation", ICCV 2019, eq. 2 to 4.
    """
    student, teacher = _check_batches(student, teacher, 1)
    g_s, g_t = (F.normalize(x @ x.T, dim=1) for x in (student, teacher))
    return (g_s - g_t).square().mean()


def fsp(student: tuple[Tensor, Tensor], teacher: tuple[Tensor, Tensor]) -> Tensor:
    """The flow between two layers: mean squared Frobenius norm of G_s - G_t, G = F1 F2^T / (height * width).

    student, teacher: a pair of images each, [batch, c1, h, w] and [batch, c2, h, w], the same channels for both
    networks. An image that is larger than its partner is brought to its size by adaptive max pooling. Raises ValueError
    for other shapes. Yim et al., "A Gift from Knowledge Distillation", CVPR 2017, eq. 1 and 2.
    """

    def flow(first: Tensor, second: Tensor) -> Tensor:
        _check_images(first=first, second=second)
        size = tuple(min(a, b) for a, b in zip(first.shape[2:], second.shape[2:], strict=True))
        one, two = (
            (x if tuple(x.shape[2:]) == size else F.adaptive_max_pool2d(x, size)).flatten(2) for x in (first, second)
        )
        return one @ two.transpose(1, 2) / one.shape[2]

    g_s, g_t = flow(*student), flow(*teacher)
    if g_s.shape != g_t.shape:
        raise ValueError(f"flows have shapes {tuple(g_s.shape)} and {tuple(g_t.shape)}, wanted the same channels")
    return (g_s - g_t).square().sum((1, 2)).mean()


def _check_images(**images: Tensor) -> None:
    for name, image in images.items():
        if image.ndim != 4:
            raise ValueError(f"{name} has shape {tuple(image.shape)}, wanted [batch, channels, height, width]")
    if len({len(image) for image in images.values()}) > 1:
        raise ValueError(f"batches of {' and '.join(str(len(i)) for i in images.values())}, wanted one size")


def _check_batches(student: Tensor, teacher: Tensor, least: int) -> tuple[Tensor, Tensor]:
    if student.ndim < 2 or teacher.ndim < 2 or len(student) != len(teacher) or len(student) < least:
        raise ValueError(
            f"student and teacher have shapes {tuple(student.shape)} and {tuple(teacher.shape)}, "
            f"wanted [batch, ...] with one batch of at least {least}"
        )
    return student.flatten(1), teacher.flatten(1)


# ---- the collector

Names: TypeAlias = str | Sequence[str] | None


@dataclass(frozen=True)
class Term:
    """One loss, its weight, and the modules whose outputs it compares.

    student, teacher: names of modules as in `named_modules()`; None for the output of the whole network; a pair of
    names for a loss that takes pairs (`fsp`). with_target: the loss also takes the target (`decoupled_kd`).
    """

    loss: Callable[..., Tensor]
    weight: float = 1.0
    student: Names = None
    teacher: Names = None
    with_target: bool = False


class Distilled(NamedTuple):
    """What a `Distiller` returns: the student's output, the weighted sum of the losses, and each of them unweighted."""

    output: Any
    loss: Tensor
    terms: list[Tensor]


class Distiller(nn.Module):
    """Runs teacher and student on the same batch and sums the losses of their intermediate activations.

        distiller = Distiller(teacher, student, [Term(kd), Term(Hint(32, 64), 10.0, "layer2", "layer3")])
        output, loss, _ = distiller(x)
        (loss + F.cross_entropy(output, y)).backward()

    The teacher is put in eval mode, whatever mode the distiller is in, and runs without gradients. `parameters()` are
    those of the student and of the losses that have some. Raises ValueError for a name that is no module, and in a call
    for a module that was not called.
    """

    def __init__(self, teacher: nn.Module, student: nn.Module, losses: Sequence[Term]) -> None:
        super().__init__()
        self.student = student
        self.losses = nn.ModuleList(t.loss for t in losses if isinstance(t.loss, nn.Module))
        self.terms = list(losses)
        self._teacher = [teacher.eval()]  # in a list, so that it is no submodule: not trained, saved or moved with it
        for which, model in (("student", student), ("teacher", teacher)):
            known = dict(model.named_modules())
            for term in losses:
                for name in _names(getattr(term, which)):
                    if name not in known:
                        raise ValueError(f"{which} has no module {name!r}")

    @property
    def teacher(self) -> nn.Module:
        return self._teacher[0]

    def forward(self, x: Any, target: Tensor | None = None) -> Distilled:
        self.teacher.eval()
        with torch.no_grad():
            teacher_out, teacher_seen = _run(self.teacher, x, [t.teacher for t in self.terms])
        student_out, student_seen = _run(self.student, x, [t.student for t in self.terms])
        terms = []
        for term in self.terms:
            arguments = [_pick(term.student, student_out, student_seen), _pick(term.teacher, teacher_out, teacher_seen)]
            if term.with_target:
                if target is None:
                    raise ValueError("target is None, which a loss wants")
                arguments.append(target)
            terms.append(term.loss(*arguments))
        total = sum((t.weight * value for t, value in zip(self.terms, terms, strict=True)), torch.zeros(()))
        return Distilled(student_out, total, terms)


def _names(names: Names) -> tuple[str, ...]:
    return () if names is None else (names,) if isinstance(names, str) else tuple(names)


def _run(model: nn.Module, x: Any, wanted: list[Names]) -> tuple[Any, dict[str, Any]]:
    """The model's output, and those of the named modules, which hooks keep for this one call."""
    seen: dict[str, Any] = {}
    modules = dict(model.named_modules())

    def keep(name: str) -> Callable[..., None]:
        return lambda module, inputs, output: seen.__setitem__(name, output)

    handles = [modules[n].register_forward_hook(keep(n)) for n in {n for names in wanted for n in _names(names)}]
    try:
        output = model(x)
        for name in (n for names in wanted for n in _names(names)):
            if name not in seen:
                raise ValueError(f"module {name!r} was not called, so a loss lacks its output")
        return output, seen
    finally:
        for handle in handles:
            handle.remove()


def _pick(names: Names, output: Any, seen: dict[str, Any]) -> Any:
    if names is None:
        return output
    return seen[names] if isinstance(names, str) else tuple(seen[n] for n in names)
