"""Pairs and triplets: one network applied twice, a contrastive loss, neighbours by distance, a learned centre for each class."""
# For a test marked `pytest.mark.oracle`, which runs it with this import and with Treadle in its place.
import numpy as np
import torch
import torch.nn.functional as F
from filling import fill
from torch import nn, optim
from torch.utils.data import DataLoader, Dataset, Sampler


class Pairs(Dataset):
    def __init__(self):
        rng = np.random.RandomState(0)
        self.labels = torch.LongTensor(np.arange(20) % 4)
        self.data = torch.FloatTensor(rng.randn(20, 1, 10, 10) + self.labels.numpy()[:, None, None, None])
        self.partner = rng.permutation(20)

    def __getitem__(self, i):
        j = int(self.partner[i])
        return self.data[i], self.data[j], torch.from_numpy(np.array([int(self.labels[i] != self.labels[j])], dtype=np.float32))

    def __len__(self):
        return self.data.shape[0]


class Backwards(Sampler):
    def __init__(self, data_source):
        self.data_source = data_source

    def __iter__(self):
        return iter(range(len(self.data_source) - 1, -1, -1))

    def __len__(self):
        return len(self.data_source)


class SiameseNetwork(nn.Module):
    def __init__(self):
        super().__init__()
        self.cnn1 = nn.Sequential(nn.ReflectionPad2d(1), nn.Conv2d(1, 4, kernel_size=3), nn.ReLU(inplace=True), nn.InstanceNorm2d(4),
                                  nn.ReplicationPad2d((1, 0, 0, 1)), nn.Conv2d(4, 4, kernel_size=3), nn.PReLU(), nn.AvgPool2d(2))
        self.fc1 = nn.Sequential(nn.Linear(4 * 4 * 4, 16), nn.ReLU(inplace=True), nn.Linear(16, 5))

    def forward_once(self, x):
        output = self.cnn1(x)
        return self.fc1(output.view(output.size()[0], -1))

    def forward(self, input1, input2):
        return self.forward_once(input1), self.forward_once(input2)


class ContrastiveLoss(torch.nn.Module):
    def __init__(self, margin=2.0):
        super(ContrastiveLoss, self).__init__()
        self.margin = margin

    def forward(self, output1, output2, label):
        distance = F.pairwise_distance(output1, output2, keepdim=True)
        return torch.mean((1 - label) * torch.pow(distance, 2) + label * torch.pow(torch.clamp(self.margin - distance, min=0.0), 2))


class CenterLoss(nn.Module):
    def __init__(self, num_classes=4, feat_dim=5):
        super().__init__()
        self.num_classes = num_classes
        self.centers = nn.Parameter(torch.zeros(num_classes, feat_dim))

    def forward(self, x, labels):
        batch_size = x.size(0)
        distmat = (torch.pow(x, 2).sum(dim=1, keepdim=True).expand(batch_size, self.num_classes)
                   + torch.pow(self.centers, 2).sum(dim=1, keepdim=True).expand(self.num_classes, batch_size).t())
        distmat = distmat.addmm(x, self.centers.t(), beta=1, alpha=-2)
        mask = labels.unsqueeze(1).expand(batch_size, self.num_classes).eq(torch.arange(self.num_classes).expand(batch_size, -1))
        return (distmat * mask.float()).clamp(min=1e-12, max=1e12).sum() / batch_size


def main():
    dataset = Pairs()
    loader = DataLoader(dataset, sampler=Backwards(dataset), batch_size=8, drop_last=True)
    net, centers = fill(SiameseNetwork(), 2), fill(CenterLoss(), 3)
    criterion, triplet = ContrastiveLoss(), nn.TripletMarginLoss(margin=1.0, p=2)
    optimizer = optim.SGD([{"params": net.parameters()}, {"params": centers.parameters(), "lr": 0.1}], lr=0.01, momentum=0.9,
                          weight_decay=1e-4, nesterov=True)
    scheduler = optim.lr_scheduler.MultiStepLR(optimizer, milestones=[2, 4], gamma=0.5)
    curve = []
    for _ in range(5):
        for img0, img1, label in loader:
            optimizer.zero_grad()
            output1, output2 = net(img0, img1)
            loss = criterion(output1, output2, label)
            anchor, positive, negative = output1, output2, output1.roll(1, dims=0)
            loss = loss + 0.5 * triplet(anchor, positive, negative) + 0.1 * F.cosine_embedding_loss(
                output1, output2, label.squeeze(1).mul(-2).add(1), margin=0.2)
            loss += 0.01 * centers(output1, dataset.labels[:8])
            loss.backward()
            optimizer.step()
            curve.append(loss.item())
        scheduler.step()
        curve.append(scheduler.get_last_lr()[1])
    net.eval()
    with torch.no_grad():
        e = net.forward_once(dataset.data)
        dist = torch.cdist(e, e) + torch.eye(len(e)) * 1e6
        nearest = dist.topk(3, dim=1, largest=False)
        votes = torch.mode(dataset.labels[nearest.indices], 1)[0]
    return [*curve, (votes == dataset.labels).float().mean().item(), nearest.values.sum().item()]
