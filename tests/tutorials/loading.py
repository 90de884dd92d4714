"""Data from workers: padded batches, iterable shards, samplers by weight and by length, nested samples, a checkpoint to go on from."""
# For a test marked `pytest.mark.oracle`, which runs it with this import and with Treadle in its place.
import os
import tempfile

import numpy as np
import torch
from filling import fill
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    Dataset,
    IterableDataset,
    SequentialSampler,
    Subset,
    TensorDataset,
    WeightedRandomSampler,
    default_collate,
    get_worker_info,
)


class Reviews(Dataset):
    def __init__(self, n, seed):
        rng = np.random.default_rng(seed)
        self.texts = [rng.integers(1, 30, rng.integers(3, 9)).astype(np.int64) for _ in range(n)]
        self.labels = np.array([int(t.sum() % 2) for t in self.texts])

    def __len__(self):
        return len(self.texts)

    def __getitem__(self, idx):
        if torch.is_tensor(idx):
            idx = idx.tolist()
        return {"text": self.texts[idx], "label": self.labels[idx], "meta": {"length": len(self.texts[idx]), "name": f"r{idx}"}}


class Shards(IterableDataset):
    def __init__(self, start, end):
        super().__init__()
        self.start, self.end = start, end

    def __iter__(self):
        info = get_worker_info()
        lo, hi = self.start, self.end
        if info is not None:
            per_worker = -(-(self.end - self.start) // info.num_workers)
            lo = self.start + info.id * per_worker
            hi = min(lo + per_worker, self.end)
        return iter(np.arange(lo, hi, dtype=np.float32))


class ByLength(BatchSampler):
    def __iter__(self):
        order = sorted(self.sampler, key=lambda i: (-len(self.sampler.data_source[i]["text"]), i))
        for i in range(0, len(order), self.batch_size):
            yield order[i:i + self.batch_size]


def collate(batch):
    texts = [torch.as_tensor(b["text"]) for b in batch]
    padded = pad_sequence(texts, batch_first=True, padding_value=0)
    labels = torch.tensor([b["label"] for b in batch], dtype=torch.float32)
    return padded, torch.tensor([len(t) for t in texts]), labels


def collate_bag(batch):
    texts = [torch.from_numpy(b["text"]) for b in batch]
    offsets = torch.tensor([0] + [len(t) for t in texts][:-1]).cumsum(dim=0)
    return torch.cat(texts), offsets, torch.tensor([b["label"] for b in batch], dtype=torch.int64)


def seed_worker(worker_id):
    np.random.seed(torch.initial_seed() % 2 ** 32)


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.EmbeddingBag(30, 8, mode="mean")
        self.fc = nn.Linear(8, 2)

    def forward(self, text, offsets):
        return self.fc(self.embedding(text, offsets))


class Pooled(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(30, 8, padding_idx=0)
        self.conv = nn.Conv1d(8, 8, 3, padding="same")
        self.out = nn.Linear(16, 1)

    def forward(self, tokens, lengths):
        h = torch.relu(self.conv(self.embed(tokens).transpose(1, 2)))
        mask = torch.arange(tokens.size(1))[None, :] < lengths[:, None]
        h = h.masked_fill(~mask.unsqueeze(1), float("-inf"))
        top = h.amax(dim=-1)
        mean = torch.where(mask.unsqueeze(1), h, torch.zeros_like(h)).sum(-1) / lengths.unsqueeze(1)
        return self.out(torch.cat([top, mean], dim=1)).squeeze(-1)


def main():
    data = ConcatDataset([Reviews(14, 0), Reviews(9, 1)])
    subset = Subset(data, range(2, 22))
    curve = []
    model = fill(Pooled())
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    loader = DataLoader(subset, batch_size=6, num_workers=2, collate_fn=collate, worker_init_fn=seed_worker, persistent_workers=True,
                        prefetch_factor=2, pin_memory=False)
    for _ in range(2):
        for tokens, lengths, labels in loader:
            loss = nn.functional.binary_cross_entropy_with_logits(model(tokens, lengths), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            curve.append(loss.item())
    bag = fill(Classifier(), 5)
    optimizer = torch.optim.SGD(bag.parameters(), lr=0.5)
    by_length = DataLoader(data, batch_sampler=ByLength(SequentialSampler(data), 5, False), collate_fn=collate_bag)
    assert len(by_length) == 5
    path = os.path.join(tempfile.mkdtemp(), "checkpoint.pt")
    for epoch in range(2):
        for text, offsets, label in by_length:
            loss = nn.functional.cross_entropy(bag(text, offsets), label)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            curve.append(loss.item())
        torch.save({"epoch": epoch, "model": bag.state_dict(), "optim": optimizer.state_dict(), "rng": torch.get_rng_state()}, path)
    state = torch.load(path, weights_only=True)
    bag = Classifier()
    bag.load_state_dict(state["model"])
    curve += [float(state["epoch"]), bag.fc.weight.abs().sum().item(), float(os.path.getsize(path) > 0)]
    shards = torch.cat(list(DataLoader(Shards(0, 11), batch_size=3, num_workers=2)))
    curve += [float(len(shards)), *torch.sort(shards)[0].tolist()]
    first = next(iter(DataLoader(data, batch_size=1)))
    assert first["meta"]["name"] == ["r0"] and first["text"].dtype is torch.int64 and first["label"].tolist() == [int(data[0]["label"])]
    weights = torch.tensor([0.0] * 10 + [1.0] * 13)
    drawn = list(WeightedRandomSampler(weights, 20, replacement=True))
    assert len(drawn) == 20 and min(drawn) >= 10
    nested = default_collate([(1, {"a": np.float64(2.0)}, "x"), (3, {"a": np.float64(4.0)}, "y")])
    assert nested[0].tolist() == [1, 3] and nested[1]["a"].dtype is torch.float64 and nested[2] == ("x", "y")
    pairs = DataLoader(TensorDataset(torch.arange(7), torch.arange(7.0) ** 2), batch_size=2, drop_last=True, shuffle=True,
                       generator=torch.Generator().manual_seed(1))
    seen = [(a, b) for a, b in pairs]
    assert len(seen) == len(pairs) == 3 and all(torch.equal(a.float() ** 2, b) for a, b in seen)
    return curve
