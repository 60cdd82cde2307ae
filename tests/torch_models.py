"""What the tests of pycompress.torch share: models, and how far results are from them."""

import pytest
import torch
from torch import nn

import pycompress.torch as pct

STATIC = {"preset": {"name": "int8", "activations": "minmax"}}


@pytest.fixture(autouse=True)
def _reproducible():
    torch.manual_seed(0)
    with torch.no_grad():
        yield


class Mlp(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.act, self.norm, self.down = nn.Linear(24, 40), nn.GELU(), nn.LayerNorm(40), nn.Linear(40, 7)

    def forward(self, x):
        return self.down(self.norm(self.act(self.up(x))))


def convolutions():
    return nn.Sequential(
        nn.Conv2d(4, 8, 3, 2, 1),
        nn.Conv2d(8, 16, (3, 2), padding="same", dilation=(1, 2), groups=8),  # depthwise, two outputs a channel
        nn.Conv2d(16, 12, 1, bias=False),
        nn.Conv2d(12, 6, 1, groups=3),
        nn.Conv2d(6, 4, (2, 3), groups=2),
    )


class Mobile(nn.Module):
    """A stem, an inverted residual, pooling, a head."""

    def __init__(self):
        super().__init__()

        def conv(i, o, k, stride=1, groups=1, act=True):
            layers = [nn.Conv2d(i, o, k, stride, k // 2, groups=groups, bias=False), nn.BatchNorm2d(o)]
            return nn.Sequential(*layers, nn.ReLU6(inplace=True)) if act else nn.Sequential(*layers)

        self.stem = conv(3, 8, 3, 2)
        self.block = nn.Sequential(conv(8, 24, 1), conv(24, 24, 3, groups=24), conv(24, 8, 1, act=False))
        self.tail = nn.Sequential(conv(8, 16, 3), nn.MaxPool2d(2), conv(16, 16, 1, act=False), nn.ReLU())
        self.head = nn.Sequential(nn.Dropout(0.1), nn.Linear(16, 10), nn.ReLU(), nn.Linear(10, 5))

    def forward(self, x):
        x = self.stem(x)
        x = x + self.block(x)
        return self.head(self.tail(x).mean((2, 3)))


def mobile():
    model = Mobile().eval()
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.running_mean.normal_(0, 0.2)
            norm.running_var.uniform_(0.5, 2)
    return model


def error(y, wanted):
    return float((y - wanted).norm() / wanted.norm())


def static_mobile(seed=0):
    torch.manual_seed(seed)
    model, x = mobile(), torch.randn(3, 3, 20, 20)
    return pct.compress_(model, STATIC, calibration=[x[:2], (x[2:],), {"x": x[1:]}]), x


def dtypes(model, x):
    found, hooks = {}, []
    for name, module in model.named_modules():
        if isinstance(module, pct.Linear | pct.Conv2d):
            hooks.append(
                module.register_forward_hook(
                    lambda m, a, y, name=name: found.__setitem__(name, (a[0].dtype, y.dtype, y.stride()))
                )
            )
    model(x)
    for hook in hooks:
        hook.remove()
    return found
