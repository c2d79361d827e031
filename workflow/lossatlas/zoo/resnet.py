"""ResNets for 32 x 32 images (He et al. 2016, section 4.2), with shortcuts and without (Li et al. 2018)."""

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
        self.stride, self.shortcut = stride, shortcut
        self.pad = (after - before) // 2

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        if self.shortcut:
            same = x[:, :, :: self.stride, :: self.stride]
            out = out + functional.pad(same, (0, 0, 0, 0, self.pad, self.pad))
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
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: Tensor) -> Tensor:
        out = self.blocks(functional.relu(self.bn(self.conv(x))))
        return self.linear(torch.mean(out, dim=(2, 3)))


def resnet20(classes: int = 10, width: int = 16) -> nn.Module:
    """Return ResNet-20 with 269,722 parameters at width 16."""
    return ResNet(3, width, classes, shortcut=True)


def resnet20_noshort(classes: int = 10, width: int = 16) -> nn.Module:
    """Return ResNet-20 without shortcuts, with as many parameters."""
    return ResNet(3, width, classes, shortcut=False)
