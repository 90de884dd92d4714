"""Images to sentences: a convolutional encoder, a recurrent decoder on packed sequences of different lengths, greedy samples."""
# For a test marked `pytest.mark.oracle`, which runs it with this import and with Treadle in its place.
import numpy as np
import torch
import torch.nn as nn
from filling import fill
from torch.nn.utils.rnn import pack_padded_sequence, pad_sequence
from torch.utils.data import DataLoader, Dataset


class CocoToy(Dataset):
    def __init__(self, n=12, transform=None):
        rng = np.random.default_rng(1)
        self.images = rng.integers(0, 256, (n, 12, 12, 3)).astype(np.uint8)
        self.captions = [rng.integers(4, 15, rng.integers(2, 7)).tolist() for _ in range(n)]
        self.transform = transform

    def __getitem__(self, index):
        image = self.images[index]
        if self.transform is not None:
            image = self.transform(image)
        return image, torch.Tensor([1, *self.captions[index], 2])

    def __len__(self):
        return len(self.images)


def to_tensor(pic):
    img = torch.from_numpy(pic.transpose((2, 0, 1))).contiguous()
    mean, std = torch.as_tensor([0.485, 0.456, 0.406]), torch.as_tensor((0.229, 0.224, 0.225))
    return img.to(dtype=torch.get_default_dtype()).div(255).sub_(mean[:, None, None]).div_(std[:, None, None])


def collate_fn(data):
    data.sort(key=lambda x: len(x[1]), reverse=True)
    images, captions = zip(*data)
    images = torch.stack(images, 0)
    lengths = [len(cap) for cap in captions]
    targets = torch.zeros(len(captions), max(lengths)).long()
    for i, cap in enumerate(captions):
        end = lengths[i]
        targets[i, :end] = cap[:end]
    assert torch.equal(pad_sequence(captions, batch_first=True).long(), targets)
    return images, targets, lengths


class EncoderCNN(nn.Module):
    def __init__(self, embed_size):
        super().__init__()
        modules = [nn.Conv2d(3, 6, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU(inplace=True),
                   nn.MaxPool2d(3, 2, 1), nn.Conv2d(6, 8, 3, padding=1), nn.AdaptiveAvgPool2d((1, 1))]
        self.backbone = nn.Sequential(*modules)
        self.linear = nn.Linear(8, embed_size)
        self.bn = nn.BatchNorm1d(embed_size, momentum=0.01)

    def forward(self, images):
        with torch.no_grad():
            self.backbone[:3](images)
        features = self.backbone(images)
        features = features.reshape(features.size(0), -1)
        return self.bn(self.linear(features))


class DecoderRNN(nn.Module):
    def __init__(self, embed_size, hidden_size, vocab_size, num_layers, max_seq_length=6):
        super().__init__()
        self.embed = nn.Embedding(vocab_size, embed_size, padding_idx=0)
        self.lstm = nn.LSTM(embed_size, hidden_size, num_layers, batch_first=True)
        self.linear = nn.Linear(hidden_size, vocab_size)
        self.max_seg_length = max_seq_length

    def forward(self, features, captions, lengths):
        embeddings = self.embed(captions)
        embeddings = torch.cat((features.unsqueeze(1), embeddings), 1)
        packed = pack_padded_sequence(embeddings, lengths, batch_first=True)
        hiddens, _ = self.lstm(packed)
        return self.linear(hiddens[0])

    def sample(self, features, states=None):
        sampled_ids = []
        inputs = features.unsqueeze(1)
        for _ in range(self.max_seg_length):
            hiddens, states = self.lstm(inputs, states)
            outputs = self.linear(hiddens.squeeze(1))
            _, predicted = outputs.max(1)
            sampled_ids.append(predicted)
            inputs = self.embed(predicted).unsqueeze(1)
        return torch.stack(sampled_ids, 1)


def main():
    loader = DataLoader(dataset=CocoToy(transform=to_tensor), batch_size=5, shuffle=False, num_workers=0, collate_fn=collate_fn)
    encoder, decoder = fill(EncoderCNN(8)), fill(DecoderRNN(8, 16, 15, 1), 1)
    criterion = nn.CrossEntropyLoss()
    params = list(decoder.parameters()) + list(encoder.linear.parameters()) + list(encoder.bn.parameters())
    optimizer = torch.optim.Adam(params, lr=0.02)
    curve = []
    for _epoch in range(4):
        for images, captions, lengths in loader:
            targets = pack_padded_sequence(captions, lengths, batch_first=True)[0]
            features = encoder(images)
            outputs = decoder(features, captions, lengths)
            loss = criterion(outputs, targets)
            decoder.zero_grad()
            encoder.zero_grad()
            loss.backward()
            optimizer.step()
            curve.append(loss.item())
    encoder.eval()
    with torch.no_grad():
        ids = decoder.sample(encoder(next(iter(loader))[0]))
    return [*curve, *ids[0].cpu().numpy().astype(float)]
