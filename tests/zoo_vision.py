"""ResNet-18 (He et al., 2015) and MobileNetV2 (Sandler et al., 2018) in full, as users write them: `m` is the library."""
from __future__ import annotations

from typing import Any

# MobileNetV2's stages: expansion, channels, blocks, stride of the first.
STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


def make_resnet18(m: Any, classes: int = 10) -> Any:
    nn = m.nn

    class BasicBlock(nn.Module):
        def __init__(self, channels: int, out: int, stride: int) -> None:
            super().__init__()
            self.conv1 = nn.Conv2d(channels, out, 3, stride, 1, bias=False)
            self.bn1 = nn.BatchNorm2d(out)
            self.relu = nn.ReLU(inplace=True)
            self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
            self.bn2 = nn.BatchNorm2d(out)
            self.downsample = None
            if stride != 1 or channels != out:
                self.downsample = nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))

        def forward(self, x: Any) -> Any:
            shortcut = x if self.downsample is None else self.downsample(x)
            y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
            y += shortcut
            return self.relu(y)

    class ResNet18(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1 = nn.Conv2d(3, 64, kernel_size=7, stride=2, padding=3, bias=False)
            self.bn1 = nn.BatchNorm2d(64)
            self.relu = nn.ReLU(inplace=True)
            self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
            channels, layers = 64, []
            for out, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
                layers.append(nn.Sequential(BasicBlock(channels, out, stride), BasicBlock(out, out, 1)))
                channels = out
            self.layer1, self.layer2, self.layer3, self.layer4 = layers
            self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
            self.fc = nn.Linear(512, classes)
            for module in self.modules():
                if isinstance(module, nn.Conv2d):
                    nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

        def forward(self, x: Any) -> Any:
            x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
            x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
            return self.fc(m.flatten(self.avgpool(x), 1))
    return ResNet18()


def make_mobilenet_v2(m: Any, classes: int = 10) -> Any:
    nn = m.nn

    def convolution(channels: int, out: int, kernel: int, stride: int, groups: int = 1) -> list[Any]:
        return [nn.Conv2d(channels, out, kernel, stride, (kernel - 1) // 2, groups=groups, bias=False), nn.BatchNorm2d(out),
                nn.ReLU6(inplace=True)]

    class InvertedResidual(nn.Module):
        def __init__(self, channels: int, out: int, stride: int, expand: int) -> None:
            super().__init__()
            hidden = channels * expand
            layers = convolution(channels, hidden, 1, 1) if expand != 1 else []
            layers += [*convolution(hidden, hidden, 3, stride, hidden), nn.Conv2d(hidden, out, 1, bias=False), nn.BatchNorm2d(out)]
            self.conv = nn.Sequential(*layers)
            self.adds = stride == 1 and channels == out

        def forward(self, x: Any) -> Any:
            return x + self.conv(x) if self.adds else self.conv(x)

    class MobileNetV2(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            layers, channels = convolution(3, 32, 3, 2), 32
            for expand, out, count, stride in STAGES:
                for i in range(count):
                    layers.append(InvertedResidual(channels, out, stride if i == 0 else 1, expand))
                    channels = out
            self.features = nn.Sequential(*layers, *convolution(channels, 1280, 1, 1))
            self.classifier = nn.Sequential(nn.Dropout(0.0), nn.Linear(1280, classes))

        def forward(self, x: Any) -> Any:
            return self.classifier(self.features(x).mean([2, 3]))
    return MobileNetV2()
