"""The task of ladder.py, its networks, and how each row is trained."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from sklearn.datasets import load_digits
from torch import Tensor, nn

from pycompress import qat
from pycompress.distill import (
    Distiller,
    Hint,
    Term,
    attention_transfer,
    kd,
    rkd_angle,
    rkd_distance,
    similarity_preserving,
)
from pycompress.prune import prune_channels
from pycompress.torch import DepthwiseSeparableConv2d, GradualPruner, factorized

SIZE = 16  # pixels of an image
LABELLED = 100  # training images that the student has labels of
BATCH = 64

# ---- the task


@dataclass(frozen=True)
class Task:
    """scikit-learn's digits (8 x 8, 1,797 of them) turned, scaled, shifted and blurred onto 16 x 16, in noise.

    1,000 digits to train on, seen anew in each batch; 297 for validation, by which everything was chosen, and 500 for
    the test, each in several fixed views. The split is the same for all seeds; which digits of each class have labels
    for the student is not.
    """

    train: tuple[Tensor, Tensor]
    validation: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    labelled: Tensor

    @staticmethod
    def load(seed: int, views: int = 6) -> Task:
        digits = load_digits()
        x = torch.from_numpy(digits.images.astype(np.float32) / 16)[:, None]
        y = torch.from_numpy(digits.target.astype(np.int64))
        order = torch.from_numpy(np.random.default_rng(0).permutation(len(x)))
        train, validation, test = order[:1000], order[1000:1297], order[1297:]
        fixed = torch.Generator().manual_seed(12345)

        def viewed(part: Tensor) -> tuple[Tensor, Tensor]:
            many = part.repeat(views)
            return view(x[many], fixed), y[many]

        rng = np.random.default_rng(seed)
        labelled = [rng.choice(np.flatnonzero(y[train].numpy() == c), LABELLED // 10, replace=False) for c in range(10)]
        return Task((x[train], y[train]), viewed(validation), viewed(test), torch.from_numpy(np.concatenate(labelled)))

    def batches(self, steps: int, seed: int, labelled: int, unlabelled: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Images and labels: of `labelled` of them; `unlabelled` more have none. labelled = -1: all have."""
        generator = torch.Generator().manual_seed(seed)
        x, y = self.train
        for _ in range(steps):
            if labelled < 0:
                chosen = torch.randint(len(x), (BATCH,), generator=generator)
                yield view(x[chosen], generator), y[chosen]
                continue
            known = self.labelled[torch.randint(len(self.labelled), (labelled,), generator=generator)]
            others = torch.randint(len(x), (unlabelled,), generator=generator)
            yield view(x[torch.cat((known, others))], generator), y[known]


NOISE, TURN, SHIFT = 0.1, 0.2, 0.15


def view(x: Tensor, generator: torch.Generator) -> Tensor:
    """[B, 1, 8, 8] -> [B, 1, 16, 16]."""
    b = len(x)

    def uniform(low: float, high: float) -> Tensor:
        return torch.rand(b, generator=generator) * (high - low) + low

    angle, scale, sheer = uniform(-TURN, TURN), uniform(1.0, 1.5), uniform(-0.2, 0.2)
    c, s = torch.cos(angle) * scale, torch.sin(angle) * scale
    rows = (torch.stack((c, -s + sheer, uniform(-SHIFT, SHIFT)), 1), torch.stack((s, c, uniform(-SHIFT, SHIFT)), 1))
    grid = F.affine_grid(torch.stack(rows, 1), [b, 1, SIZE, SIZE], align_corners=False)
    y = F.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return y * uniform(0.6, 1.0).view(-1, 1, 1, 1) + NOISE * torch.randn(y.shape, generator=generator)


# ---- the networks


def teacher() -> nn.Module:
    """Five dense 3 x 3 convolutions."""

    def conv(i: int, o: int, stride: int = 1) -> nn.Module:
        return nn.Sequential(nn.Conv2d(i, o, 3, stride, 1, bias=False), nn.BatchNorm2d(o), nn.ReLU())

    stages = [conv(1, 32), conv(32, 64, 2), conv(64, 64), conv(64, 128, 2), conv(128, 128)]
    return _network(stages, 128)


def student() -> nn.Module:
    """A small dense convolution, then depthwise-separable ones."""
    stem = nn.Sequential(nn.Conv2d(1, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU())

    def block(i: int, o: int, stride: int) -> nn.Module:
        return DepthwiseSeparableConv2d(i, o, 3, stride, 1, norm=True, activation=nn.ReLU)

    return _network([stem, block(16, 64, 2), block(64, 64, 1), block(64, 128, 2), block(128, 128, 1)], 128)


def _network(stages: list[nn.Module], channels: int) -> nn.Module:
    names = ["stem", *(f"stage{i}" for i in range(1, len(stages)))]
    tail = [("pool", nn.AdaptiveAvgPool2d(1)), ("features", nn.Flatten()), ("head", nn.Linear(channels, 10))]
    return nn.Sequential(OrderedDict([*zip(names, stages, strict=True), *tail]))


# ---- training

After = Callable[[], object]


def train(
    model: nn.Module,
    losses: Iterator[Tensor],
    rate: float,
    steps: int,
    parameters: list[Tensor],
    after: After | None = None,
) -> nn.Module:
    """AdamW, the rate along a half cosine with a short warm-up."""
    optimizer = torch.optim.AdamW(parameters, rate, weight_decay=1e-3)
    warm = max(steps // 20, 1)
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda t: min((t + 1) / warm, 0.5 * (1 + np.cos(np.pi * min(t / steps, 1))))
    )
    model.train()
    for loss in losses:
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        if after is not None:
            after()
    return model.eval()


def with_labels(task: Task, model: nn.Module, steps: int, seed: int, labelled: int) -> nn.Module:
    losses = (F.cross_entropy(model(x), y) for x, y in task.batches(steps, seed, labelled))
    return train(model, losses, 3e-3, steps, list(model.parameters()))


RESPONSE = [Term(kd, 3.0)]


def angle(s: Tensor, t: Tensor) -> Tensor:
    """Of a part of the batch: triplets are many."""
    return rkd_angle(s[: BATCH // 2], t[: BATCH // 2])


RELATION = [
    Term(rkd_distance, 10.0, "features", "features"),
    Term(angle, 20.0, "features", "features"),
    Term(similarity_preserving, 1000.0, "features", "features"),
]


def feature() -> list[Term]:
    """Anew for each student: the hint has a regressor, which is trained."""
    return [Term(Hint(128, 128), 20.0, "stage4", "stage4"), Term(attention_transfer, 5.0, "stage2", "stage2")]


def distilled(
    task: Task, model: nn.Module, of: nn.Module, terms: list[Term], steps: int, seed: int, rate: float = 3e-3,
    after: After | None = None,
) -> nn.Module:  # fmt: skip
    """Cross entropy of what is labelled, and the losses of `terms` on all images of the batch."""
    distiller = Distiller(of, model, terms).train()
    known = BATCH // 4

    def losses() -> Iterator[Tensor]:
        for x, y in task.batches(steps, seed, known, BATCH - known):
            output, loss, _ = distiller(x)
            yield F.cross_entropy(output[:known], y) + loss

    train(distiller, losses(), rate, steps, list(distiller.parameters()), after)
    return model.eval()


@torch.no_grad()
def accuracy(model: nn.Module, data: tuple[Tensor, Tensor]) -> float:
    """In percent, in PyTorch."""
    return float(100 * (model(data[0]).argmax(1) == data[1]).float().mean())


# ---- what is done to a trained network; each returns a new one


def separable(model: nn.Module) -> nn.Module:
    """The teacher's 3 x 3 convolutions but the first, each as the best sum of two depthwise-separable ones."""
    model = copy.deepcopy(model)
    for name in [n for n, m in model.named_modules() if isinstance(m, nn.Conv2d) and m.in_channels > 1]:
        model.set_submodule(name, DepthwiseSeparableConv2d.from_dense(model.get_submodule(name), 2))
    return model


def low_rank(model: nn.Module) -> nn.Module:
    """The student's 1 x 1 convolutions from 64 channels on, as two with a quarter of the channels between them."""
    model = copy.deepcopy(model)
    for name in [n for n, m in model.named_modules() if _is_pointwise(m) and m.in_channels >= 64]:
        conv = model.get_submodule(name)
        model.set_submodule(name, factorized(conv, "svd", conv.in_channels // 4, form="channel"))
    return model


def narrower(model: nn.Module, sparsity: float) -> nn.Module:
    """The student with fewer channels: outputs of a 1 x 1 convolution, the depthwise one that reads them, and inputs
    of the next 1 x 1 one are cut together.
    """
    model = copy.deepcopy(model)
    blocks = [m for m in model if isinstance(m, DepthwiseSeparableConv2d)]
    for block, after in zip(blocks, [*blocks[1:], None], strict=True):
        producer, consumer = block.pointwise[0], model.head if after is None else after.pointwise[0]
        along = [producer, block.pointwise[1], *([] if after is None else [after.depthwise[0], after.depthwise[1]])]
        cut = prune_channels(_array(producer), _array(consumer), sparsity, multiple_of=16)
        kept = torch.from_numpy(cut.kept)
        for module in along:
            for value in [*module.parameters(), *module.buffers()]:
                if value.ndim:
                    with torch.no_grad():
                        value.data = value.data[kept].clone()
            if isinstance(module, nn.BatchNorm2d):
                module.num_features = len(kept)
            else:
                module.out_channels = len(kept)
        if after is not None:
            after.depthwise[0].in_channels = after.depthwise[0].groups = len(kept)
            consumer.in_channels = len(kept)
        else:
            consumer.in_features = len(kept)
        consumer.weight.data = torch.from_numpy(cut.consumers[0])
    return model


def _array(module: nn.Module) -> Any:
    return module.weight.detach().numpy()


def _is_pointwise(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1)


def pruner(model: nn.Module, sparsity: float, pattern: str, steps: int, least: int = 48) -> GradualPruner:
    """Of the 1 x 1 convolutions with `least` inputs or more; zeros grow over the first two thirds of the steps."""
    layers = [n for n, m in model.named_modules() if _is_pointwise(m) and m.in_channels >= least]
    end = max(steps * 2 // 3, 1)
    return GradualPruner(
        model, sparsity, pattern, block=(16, 1), end=end, every=max(end // 20, 1), scope="global", layers=layers
    )


def prepared(task: Task, model: nn.Module, bits: int, seed: int) -> nn.Module:
    """For quantization, with ranges of 20 batches of training images: of static quantization all there is."""
    ready = qat.prepare(model, torch.zeros(1, 1, SIZE, SIZE), weight_bits=bits).eval()
    for module in ready.modules():
        module.train(isinstance(module, qat.Quantizer))
    with torch.no_grad():
        for x, _ in task.batches(20, seed, BATCH // 4, BATCH - BATCH // 4):
            ready(x)
    return ready.eval()
