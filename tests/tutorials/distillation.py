"""A small network taught by a large one: soft targets, features, pruned and frozen layers, learning rates by layer."""
# For a test marked `pytest.mark.oracle`, which runs it with this import and with Treadle in its place.
import copy

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from filling import fill
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, SequentialLR
from torch.utils.data import DataLoader, TensorDataset, random_split


class Block(nn.Module):
    expansion = 1

    def __init__(self, inplanes, planes, stride=1):
        super().__init__()
        self.conv1 = nn.Conv2d(inplanes, planes, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride != 1 or inplanes != planes:
            self.downsample = nn.Sequential(nn.Conv2d(inplanes, planes, 1, stride, bias=False), nn.BatchNorm2d(planes))

    def forward(self, x):
        identity = x
        out = self.bn1(self.conv1(x))
        if self.downsample is not None:
            identity = self.downsample(x)
        out += identity
        return self.relu(out)


class Net(nn.Module):
    def __init__(self, width, depth, classes=5):
        super().__init__()
        self.stem = nn.Conv2d(2, width, 3, padding=1)
        self.layers = nn.ModuleList()
        for i in range(depth):
            self.layers.append(Block(width, width, 2 if i == 0 else 1))
        self.head = nn.Linear(width, classes)
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(m, (nn.BatchNorm2d, nn.GroupNorm)):
                nn.init.constant_(m.weight, 1)
                nn.init.constant_(m.bias, 0)

    def forward(self, x):
        x = self.stem(x)
        for layer in self.layers:
            x = layer(x)
        features = x.mean((2, 3))
        return self.head(features), features


def accuracy(output, target, topk=(1,)):
    with torch.no_grad():
        maxk = max(topk)
        _, pred = output.topk(maxk, 1, True, True)
        pred = pred.t()
        correct = pred.eq(target.view(1, -1).expand_as(pred))
        return [correct[:k].reshape(-1).float().sum(0, keepdim=True).mul_(100.0 / target.size(0)).item() for k in topk]


class AverageMeter:
    def __init__(self):
        self.sum = self.count = 0

    def update(self, val, n=1):
        self.sum += val * n
        self.count += n


def main():
    rng = np.random.default_rng(0)
    y = torch.from_numpy(rng.integers(0, 5, 30))
    x = torch.from_numpy(rng.standard_normal((30, 2, 8, 8)).astype("float32")) + y[:, None, None, None] * 0.3
    train, rest = random_split(TensorDataset(x, y), [24, 6], generator=torch.Generator().manual_seed(0))
    train.indices, rest.indices = list(range(24)), list(range(24, 30))  # the split itself is each library's own
    loader = DataLoader(train, batch_size=8)
    teacher = fill(Net(8, 3), 1)
    student = fill(Net(4, 1), 2)
    project = fill(nn.Linear(4, 8, bias=False), 3)
    opt = torch.optim.SGD(teacher.parameters(), lr=0.05, momentum=0.9, dampening=0.1)
    curve, best = [], None
    for _ in range(3):
        losses = AverageMeter()
        teacher.train()
        for images, target in loader:
            loss = F.cross_entropy(teacher(images)[0], target)
            opt.zero_grad()
            loss.backward()
            opt.step()
            losses.update(loss.item(), images.size(0))
        curve.append(losses.sum / losses.count)
        if best is None or curve[-1] < best[0]:
            best = (curve[-1], copy.deepcopy(teacher.state_dict()))
    teacher.load_state_dict(best[1])
    teacher.requires_grad_(False)
    teacher.eval()
    decay, no_decay = [], []
    for name, p in [*student.named_parameters(), *project.named_parameters()]:
        (no_decay if p.ndim <= 1 or name.endswith(".bias") else decay).append(p)
    optimizer = torch.optim.AdamW([{"params": decay, "weight_decay": 0.05}, {"params": no_decay, "weight_decay": 0.0}], lr=1e-2)
    warmup = LambdaLR(optimizer, lambda step: (step + 1) / 4)
    scheduler = SequentialLR(optimizer, [warmup, CosineAnnealingLR(optimizer, 8, eta_min=1e-4)], [3])
    T, alpha = 4.0, 0.7
    kl = nn.KLDivLoss(reduction="batchmean")
    for _ in range(4):
        student.train()
        for images, target in loader:
            with torch.no_grad():
                teacher_logits, teacher_features = teacher(images)
            logits, features = student(images)
            soft = kl(F.log_softmax(logits / T, dim=1), F.softmax(teacher_logits / T, dim=1)) * (T * T)
            hint = F.mse_loss(F.normalize(project(features)), F.normalize(teacher_features, p=2, dim=1))
            loss = alpha * soft + (1 - alpha) * F.cross_entropy(logits, target) + hint
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
            curve += [loss.item(), scheduler.get_last_lr()[0]]
    assert all(p.grad is not None for p in student.parameters()) and not any(p.requires_grad for p in teacher.parameters())
    student.eval()
    with torch.no_grad():
        logits = torch.cat([student(images)[0] for images, _ in DataLoader(rest, batch_size=4)])
    confusion = torch.zeros(5, 5, dtype=torch.int64)
    for t, p in zip(y[24:].view(-1), logits.argmax(1).view(-1)):
        confusion[t.long(), p.long()] += 1
    return [*curve, *accuracy(logits, y[24:], topk=(1, 3)), confusion.diag().sum().item()]
