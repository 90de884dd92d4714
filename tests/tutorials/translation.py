"""Sequence to sequence with additive attention, teacher forcing, masks for padding, beam search."""
# For a test marked `pytest.mark.oracle`, which runs it with this import and with Treadle in its place.
import random

import torch
import torch.nn as nn
import torch.nn.functional as F
from filling import fill
from torch import optim
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

SOS_token, EOS_token, PAD = 1, 2, 0
PAIRS = [("i am cold", "j ai froid"), ("i am tired now", "je suis fatigue maintenant"), ("he is cold", "il a froid"),
         ("she is here", "elle est ici"), ("we are here now", "nous sommes ici maintenant"), ("you are tired", "tu es fatigue")]


class Lang:
    def __init__(self, sentences):
        words = sorted({w for s in sentences for w in s.split()})
        self.word2index = {w: i + 3 for i, w in enumerate(words)}
        self.n_words = len(words) + 3

    def tensor(self, sentence):
        return torch.tensor([self.word2index[w] for w in sentence.split(" ")] + [EOS_token], dtype=torch.long)


class Encoder(nn.Module):
    def __init__(self, vocab, emb, enc_hid, dec_hid):
        super().__init__()
        self.embedding = nn.Embedding(vocab, emb)
        self.rnn = nn.GRU(emb, enc_hid, bidirectional=True)
        self.fc = nn.Linear(enc_hid * 2, dec_hid)

    def forward(self, src, src_len):
        packed = pack_padded_sequence(self.embedding(src), src_len.to("cpu"), enforce_sorted=False)
        outputs, hidden = self.rnn(packed)
        outputs, _ = pad_packed_sequence(outputs)
        return outputs, torch.tanh(self.fc(torch.cat((hidden[-2, :, :], hidden[-1, :, :]), dim=1)))


class Attention(nn.Module):
    def __init__(self, enc_hid, dec_hid):
        super().__init__()
        self.attn = nn.Linear((enc_hid * 2) + dec_hid, dec_hid)
        self.v = nn.Linear(dec_hid, 1, bias=False)

    def forward(self, hidden, encoder_outputs, mask):
        src_len = encoder_outputs.shape[0]
        hidden = hidden.unsqueeze(1).repeat(1, src_len, 1)
        encoder_outputs = encoder_outputs.permute(1, 0, 2)
        energy = torch.tanh(self.attn(torch.cat((hidden, encoder_outputs), dim=2)))
        attention = self.v(energy).squeeze(2)
        attention = attention.masked_fill(mask == 0, -1e10)
        return F.softmax(attention, dim=1)


class Decoder(nn.Module):
    def __init__(self, vocab, emb, enc_hid, dec_hid):
        super().__init__()
        self.vocab = vocab
        self.attention = Attention(enc_hid, dec_hid)
        self.embedding = nn.Embedding(vocab, emb)
        self.rnn = nn.GRU((enc_hid * 2) + emb, dec_hid)
        self.fc_out = nn.Linear((enc_hid * 2) + dec_hid + emb, vocab)

    def forward(self, input, hidden, encoder_outputs, mask):
        embedded = self.embedding(input.unsqueeze(0))
        a = self.attention(hidden, encoder_outputs, mask).unsqueeze(1)
        weighted = torch.bmm(a, encoder_outputs.permute(1, 0, 2)).permute(1, 0, 2)
        output, hidden = self.rnn(torch.cat((embedded, weighted), dim=2), hidden.unsqueeze(0))
        assert (output == hidden).all()
        prediction = self.fc_out(torch.cat((output.squeeze(0), weighted.squeeze(0), embedded.squeeze(0)), dim=1))
        return prediction, hidden.squeeze(0), a.squeeze(1)


class Seq2Seq(nn.Module):
    def __init__(self, encoder, decoder):
        super().__init__()
        self.encoder, self.decoder = encoder, decoder

    def forward(self, src, src_len, trg, teacher_forcing_ratio=0.5):
        outputs = torch.zeros(trg.shape[0], src.shape[1], self.decoder.vocab, device=src.device)
        encoder_outputs, hidden = self.encoder(src, src_len)
        input = trg[0, :]
        mask = (src != PAD).permute(1, 0)
        for t in range(1, trg.shape[0]):
            output, hidden, _ = self.decoder(input, hidden, encoder_outputs, mask)
            outputs[t] = output
            input = trg[t] if random.random() < teacher_forcing_ratio else output.argmax(1)
        return outputs


def beam_search(model, src, src_len, width=3, limit=6):
    encoder_outputs, hidden = model.encoder(src, src_len)
    mask = (src != PAD).permute(1, 0)
    beams = [(0.0, [SOS_token], hidden)]
    for _ in range(limit):
        candidates = []
        for score, tokens, hidden in beams:
            if tokens[-1] == EOS_token:
                candidates.append((score, tokens, hidden))
                continue
            output, hidden, _ = model.decoder(torch.tensor([tokens[-1]]), hidden, encoder_outputs, mask)
            topv, topi = F.log_softmax(output, dim=1).topk(width)
            candidates += [(score + v.item(), [*tokens, i.item()], hidden) for v, i in zip(topv[0], topi[0])]
        beams = sorted(candidates, key=lambda c: -c[0])[:width]
    return beams[0]


def main():
    random.seed(5)
    source, target = Lang([p[0] for p in PAIRS]), Lang([p[1] for p in PAIRS])
    src = nn.utils.rnn.pad_sequence([source.tensor(a) for a, _ in PAIRS])
    trg = nn.utils.rnn.pad_sequence([torch.cat([torch.tensor([SOS_token]), target.tensor(b)]) for _, b in PAIRS], padding_value=PAD)
    src_len = (src != PAD).sum(0)
    model = fill(Seq2Seq(Encoder(source.n_words, 8, 8, 8), Decoder(target.n_words, 8, 8, 8)))
    optimizer = optim.Adam(model.parameters(), lr=1e-2)
    scheduler = optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.97)
    criterion = nn.CrossEntropyLoss(ignore_index=PAD, label_smoothing=0.1)
    curve = []
    for _ in range(10):
        model.train()
        optimizer.zero_grad(set_to_none=True)
        output = model(src, src_len, trg)
        loss = criterion(output[1:].view(-1, output.shape[-1]), trg[1:].reshape(-1))
        loss.backward()
        curve.append(torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0).item())
        optimizer.step()
        scheduler.step()
        curve.append(loss.item())
    model.eval()
    with torch.no_grad():
        score, tokens, _ = beam_search(model, src[:int(src_len[0]), :1], src_len[:1])
    return [*curve, score, *map(float, tokens)]
