"""ResNets for 32 x 32 images (He et al. 2016, section 4.2), with shortcuts and without (Li et al. 2018); ResNet-50."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional


class Block(nn.Module):
    """Two 3 x 3 convolutions with BatchNorm; the shortcut pads new channels with zeros (option A)."""

    def __init__(self, before: int, after: int, stride: int, shortcut: bool):
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.stride, self.shortcut, new = stride, shortcut, after - before
        self.pad = (0, 0, 0, 0, new // 2, new - new // 2)

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        if self.shortcut:
            same = x[:, :, :: self.stride, :: self.stride]
            out = out + (functional.pad(same, self.pad) if any(self.pad) else same)  # no pad, no copy
        return functional.relu(out)


class ResNet(nn.Module):
    """Three stages of ``blocks`` blocks with ``width``, 2 ``width``, 4 ``width`` channels."""

    def __init__(self, blocks: int, width: int, classes: int, shortcut: bool):
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(width)
        stages, before = [], width
        for stage in range(3):
            for block in range(blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                stages.append(Block(before, width * 2**stage, stride, shortcut))
                before = width * 2**stage
        self.blocks = nn.Sequential(*stages)
        self.linear = nn.Linear(before, classes)
        _initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        out = self.blocks(functional.relu(self.bn(self.conv(x))))
        return self.linear(torch.mean(out, dim=(2, 3)))


def resnet(depth: int, shortcut: bool = True) -> Callable[..., nn.Module]:
    """Return the builder of ResNet-``depth`` (6 n + 2), of as many parameters with shortcuts as without.

    At width 16 the depths 20, 32, 56 and 110 have 269,722, 464,154, 853,018 and 1,727,962 of them. The widths 32, 64
    and 128 are the two, four and eight times wider networks of Li et al. (2018).
    """

    def build(classes: int = 10, width: int = 16) -> nn.Module:
        return ResNet((depth - 2) // 6, width, classes, shortcut)

    return build


class Bottleneck(nn.Module):
    """A 3 x 3 convolution between two 1 x 1 ones, with BatchNorm; the shortcut is projected (option B)."""

    def __init__(self, before: int, inner: int, stride: int):
        super().__init__()
        after = 4 * inner
        self.conv1, self.bn1 = nn.Conv2d(before, inner, 1, bias=False), nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3, self.bn3 = nn.Conv2d(inner, after, 1, bias=False), nn.BatchNorm2d(after)
        projected = [nn.Conv2d(before, after, 1, stride=stride, bias=False), nn.BatchNorm2d(after)]
        self.shortcut = nn.Sequential(*(projected if before != after else []))

    def forward(self, x: Tensor) -> Tensor:
        out = functional.relu(self.bn1(self.conv1(x)))
        out = functional.relu(self.bn2(self.conv2(out)))
        return functional.relu(self.bn3(self.conv3(out)) + self.shortcut(x))


class ResNet50(nn.Module):
    """He et al.'s network for ImageNet with a stem for 32 x 32: one 3 x 3 convolution, no pooling."""

    def __init__(self, width: int, classes: int):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        stages, before = [], width
        for stage, blocks in enumerate((3, 4, 6, 3)):
            for block in range(blocks):
                stages.append(Bottleneck(before, width * 2**stage, 2 if stage > 0 and block == 0 else 1))
                before = 4 * width * 2**stage
        self.blocks = nn.Sequential(*stages)
        self.linear = nn.Linear(before, classes)
        _initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        out = self.blocks(functional.relu(self.bn(self.conv(x))))
        return self.linear(torch.mean(out, dim=(2, 3)))


def resnet50(classes: int = 10, width: int = 64) -> nn.Module:
    """Return ResNet-50 with 23,520,842 parameters at width 64."""
    return ResNet50(width, classes)


def _initialise(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight)
