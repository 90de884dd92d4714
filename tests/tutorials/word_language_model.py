"""A recurrent word model: a corpus cut into columns, hidden states carried over batches, tied weights, SGD by hand, annealed."""
# For a test marked `pytest.mark.oracle`, which runs it with this import and with Treadle in its place.
import math
from collections import Counter

import torch
import torch.nn as nn
import torch.nn.functional as F
from filling import fill

TEXT = ("the cat sat on the mat . the dog sat on the log . a cat and a dog met on the mat . they sat and ate . "
        "the mat was red and the log was wet . a red dog ate the wet mat . ") * 3


class Dictionary:
    def __init__(self):
        self.word2idx, self.idx2word, self.counter = {}, [], Counter()

    def add_word(self, word):
        if word not in self.word2idx:
            self.idx2word.append(word)
            self.word2idx[word] = len(self.idx2word) - 1
        self.counter[self.word2idx[word]] += 1
        return self.word2idx[word]

    def __len__(self):
        return len(self.idx2word)


def tokenize(text):
    dictionary = Dictionary()
    ids = []
    for line in text.split(" . "):
        words = line.split() + ["<eos>"]
        ids.append(torch.tensor([dictionary.add_word(w) for w in words]).type(torch.int64))
    return dictionary, torch.cat(ids)


class RNNModel(nn.Module):
    """Container module with an encoder, a recurrent module, and a decoder."""

    def __init__(self, rnn_type, ntoken, ninp, nhid, nlayers, dropout=0.0, tie_weights=False):
        super(RNNModel, self).__init__()
        self.drop = nn.Dropout(dropout)
        self.encoder = nn.Embedding(ntoken, ninp)
        self.rnn = getattr(nn, rnn_type)(ninp, nhid, nlayers, dropout=dropout)
        self.decoder = nn.Linear(nhid, ntoken)
        if tie_weights:
            if nhid != ninp:
                raise ValueError("When using the tied flag, nhid must be equal to emsize")
            self.decoder.weight = self.encoder.weight
        self.init_weights()
        self.rnn_type, self.nhid, self.nlayers, self.ntoken = rnn_type, nhid, nlayers, ntoken

    def init_weights(self):
        initrange = 0.1
        nn.init.uniform_(self.encoder.weight, -initrange, initrange)
        nn.init.zeros_(self.decoder.bias)
        self.decoder.weight.data.uniform_(-initrange, initrange)

    def forward(self, input, hidden):
        emb = self.drop(self.encoder(input))
        output, hidden = self.rnn(emb, hidden)
        output = self.drop(output)
        decoded = self.decoder(output)
        decoded = decoded.view(-1, self.ntoken)
        return F.log_softmax(decoded, dim=1), hidden

    def init_hidden(self, bsz):
        weight = next(self.parameters())
        if self.rnn_type == "LSTM":
            return (weight.new_zeros(self.nlayers, bsz, self.nhid), weight.new_zeros(self.nlayers, bsz, self.nhid))
        return weight.new_zeros(self.nlayers, bsz, self.nhid)


def batchify(data, bsz, device):
    nbatch = data.size(0) // bsz
    data = data.narrow(0, 0, nbatch * bsz)
    return data.view(bsz, -1).t().contiguous().to(device)


def get_batch(source, i, bptt=7):
    seq_len = min(bptt, len(source) - 1 - i)
    return source[i:i + seq_len], source[i + 1:i + 1 + seq_len].view(-1)


def repackage_hidden(h):
    if isinstance(h, torch.Tensor):
        return h.detach()
    return tuple(repackage_hidden(v) for v in h)


def evaluate(model, criterion, source, bsz):
    model.eval()
    total_loss = 0.0
    hidden = model.init_hidden(bsz)
    with torch.no_grad():
        for i in range(0, source.size(0) - 1, 7):
            data, targets = get_batch(source, i)
            output, hidden = model(data, hidden)
            hidden = repackage_hidden(hidden)
            total_loss += len(data) * criterion(output, targets).item()
    return total_loss / (len(source) - 1)


def main():
    torch.manual_seed(1111)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dictionary, ids = tokenize(TEXT)
    train_data, val_data = batchify(ids, 4, device), batchify(ids[:60], 2, device)
    criterion = nn.NLLLoss()
    curve = []
    for kind, tied in (("LSTM", True), ("GRU", False)):
        model = fill(RNNModel(kind, len(dictionary), 12, 12, 2, tie_weights=tied).to(device))
        lr, best = 5.0, None
        for _ in range(3):
            model.train()
            total_loss, hidden = 0.0, model.init_hidden(4)
            for batch, i in enumerate(range(0, train_data.size(0) - 1, 7)):
                data, targets = get_batch(train_data, i)
                model.zero_grad()
                hidden = repackage_hidden(hidden)
                output, hidden = model(data, hidden)
                loss = criterion(output, targets)
                loss.backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 0.25)
                for p in model.parameters():
                    p.data.add_(p.grad, alpha=-lr)
                total_loss += loss.item()
                curve.append(loss.item())
            val_loss = evaluate(model, criterion, val_data, 2)
            curve.append(math.exp(val_loss))
            if best is None or val_loss < best:
                best = val_loss
            else:
                lr /= 4.0
        model.eval()
        hidden, word, words = model.init_hidden(1), torch.tensor([[dictionary.word2idx["the"]]]), []
        with torch.no_grad():
            for _ in range(8):
                output, hidden = model(word, hidden)
                word_idx = output.squeeze().div(0.8).exp().cpu().argmax()
                word.fill_(word_idx)
                words.append(dictionary.idx2word[word_idx])
        curve.append(float(len(" ".join(words))))
    return curve
