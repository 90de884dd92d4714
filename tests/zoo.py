"""Small versions of well-known networks, each for either library: `name -> (make(m), data(rng), loss(m, net, data))`.

`m` is treadle or torch. The loss uses no random numbers, so that curves can be compared.
"""
from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np


class Program(NamedTuple):
    make: Callable[[Any], Any]
    data: Callable[[np.random.Generator], tuple[np.ndarray, ...]]
    loss: Callable[..., Any]
    optimizer: Callable[[Any, Any], Any] = lambda m, p: m.optim.Adam(p, lr=1e-2)


def floats(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


# -- MLP and VAE -------------------------------------------------------------------------------------------------------------------------
def make_mlp(m: Any) -> Any:
    n = m.nn
    return n.Sequential(n.Linear(10, 32), n.GELU(), n.LayerNorm(32), n.Linear(32, 32), n.SiLU(), n.Linear(32, 4))


def make_vae(m: Any) -> Any:
    n = m.nn

    class VAE(n.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = n.Sequential(n.Linear(20, 16), n.ReLU())
            self.mu, self.logvar = n.Linear(16, 4), n.Linear(16, 4)
            self.decoder = n.Sequential(n.Linear(4, 16), n.ReLU(), n.Linear(16, 20))

        def forward(self, x: Any, noise: Any) -> Any:
            h = self.encoder(x)
            mu, logvar = self.mu(h), self.logvar(h)
            z = mu + m.exp(0.5 * logvar) * noise
            return m.sigmoid(self.decoder(z)), mu, logvar
    return VAE()


def vae_loss(m: Any, net: Any, x: Any, noise: Any) -> Any:
    y, mu, logvar = net(x, noise)
    rebuilt = m.nn.functional.binary_cross_entropy(y, x, reduction="sum")
    return (rebuilt - 0.5 * m.sum(1 + logvar - mu.pow(2) - logvar.exp())) / x.size(0)


# -- sequences ---------------------------------------------------------------------------------------------------------------------------
def make_language_model(m: Any) -> Any:
    n = m.nn

    class Model(n.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.rnn, self.out = n.Embedding(17, 12), n.LSTM(12, 16, num_layers=2, batch_first=True), n.Linear(16, 17)

        def forward(self, tokens: Any) -> Any:
            h, _ = self.rnn(self.embed(tokens))
            return self.out(h)
    return Model()


def next_token_loss(m: Any, net: Any, tokens: Any) -> Any:
    logits = net(tokens[:, :-1])
    return m.nn.functional.cross_entropy(logits.reshape(-1, logits.size(-1)), tokens[:, 1:].reshape(-1))


def make_seq2seq(m: Any) -> Any:
    n, f = m.nn, m.nn.functional

    class Seq2Seq(n.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = n.Embedding(13, 8)
            self.encoder = n.GRU(8, 6, bidirectional=True, batch_first=True)
            self.decoder = n.GRUCell(8 + 12, 12)
            self.query, self.out = n.Linear(12, 12, bias=False), n.Linear(24, 13)

        def forward(self, source: Any, target: Any) -> Any:
            memory, h = self.encoder(self.embed(source))
            state = m.cat([h[0], h[1]], dim=-1)
            context, scores = m.zeros_like(state), []
            for t in range(target.size(1)):
                state = self.decoder(m.cat([self.embed(target[:, t]), context], -1), state)
                weights = f.softmax(m.bmm(memory, self.query(state).unsqueeze(2)).squeeze(2), dim=1)
                context = m.bmm(weights.unsqueeze(1), memory).squeeze(1)
                scores.append(self.out(m.cat([state, context], -1)))
            return m.stack(scores, 1)
    return Seq2Seq()


def seq2seq_loss(m: Any, net: Any, source: Any, target: Any) -> Any:
    scores = net(source, target[:, :-1])
    return m.nn.functional.cross_entropy(scores.transpose(1, 2), target[:, 1:], label_smoothing=0.1, ignore_index=0)


def make_transformer(m: Any) -> Any:
    n = m.nn

    class Translator(n.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = n.Embedding(13, 16, padding_idx=0)
            self.transformer = n.Transformer(16, 4, 2, 2, 32, dropout=0.0, batch_first=True)
            self.out = n.Linear(16, 13)
            place = m.arange(12).unsqueeze(1) * m.exp(m.arange(0, 16, 2) * (-math.log(1e4) / 16))
            table = m.zeros(12, 16)
            table[:, 0::2], table[:, 1::2] = m.sin(place), m.cos(place)
            self.register_buffer("places", table)

        def forward(self, source: Any, target: Any) -> Any:
            mask = n.Transformer.generate_square_subsequent_mask(target.size(1))
            a = self.embed(source) * 4 + self.places[:source.size(1)]
            b = self.embed(target) * 4 + self.places[:target.size(1)]
            return self.out(self.transformer(a, b, tgt_mask=mask, src_key_padding_mask=source == 0))
    return Translator()


def make_gpt(m: Any) -> Any:
    n, f = m.nn, m.nn.functional

    class Block(n.Module):
        def __init__(self) -> None:
            super().__init__()
            self.ln1, self.ln2 = n.LayerNorm(16), n.LayerNorm(16)
            self.qkv, self.proj = n.Linear(16, 48), n.Linear(16, 16)
            self.mlp = n.Sequential(n.Linear(16, 64), n.GELU(), n.Linear(64, 16))

        def forward(self, x: Any) -> Any:
            b, t, c = x.size()
            q, k, v = (y.view(b, t, 4, c // 4).transpose(1, 2) for y in self.qkv(self.ln1(x)).split(c, dim=2))
            y = f.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.proj(y.transpose(1, 2).contiguous().view(b, t, c))
            return x + self.mlp(self.ln2(x))

    class GPT(n.Module):
        def __init__(self) -> None:
            super().__init__()
            self.wte, self.wpe = n.Embedding(17, 16), n.Embedding(12, 16)
            self.blocks, self.ln = n.ModuleList([Block() for _ in range(2)]), n.LayerNorm(16)
            self.head = n.Linear(16, 17, bias=False)
            self.wte.weight = self.head.weight

        def forward(self, tokens: Any) -> Any:
            x = self.wte(tokens) + self.wpe(m.arange(0, tokens.size(1), dtype=m.long))
            for block in self.blocks:
                x = block(x)
            return self.head(self.ln(x))
    return GPT()


# -- convolutional networks ---------------------------------------------------------------------------------------------------------------
def make_lenet(m: Any) -> Any:
    n = m.nn
    return n.Sequential(n.Conv2d(3, 6, 5, padding=2), n.Tanh(), n.Conv2d(6, 6, 2, stride=2), n.Conv2d(6, 16, 5), n.ReLU(),
                        n.Conv2d(16, 16, 2, stride=2, groups=16), n.Flatten(), n.Linear(64, 32), n.ReLU(), n.Linear(32, 5))


def _residual_block(m: Any, c: int, o: int, stride: int) -> Any:
    n = m.nn

    class Block(n.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = n.Sequential(n.Conv2d(c, o, 3, stride, 1, bias=False), n.BatchNorm2d(o), n.ReLU(),
                                     n.Conv2d(o, o, 3, 1, 1, bias=False), n.BatchNorm2d(o))
            self.short = n.Sequential(n.Conv2d(c, o, 1, stride, bias=False), n.BatchNorm2d(o)) if stride > 1 or c != o else n.Identity()

        def forward(self, x: Any) -> Any:
            return n.functional.relu(self.body(x) + self.short(x))
    return Block()


def make_resnet(m: Any) -> Any:
    n = m.nn
    return n.Sequential(n.Conv2d(3, 8, 3, 1, 1, bias=False), n.BatchNorm2d(8), n.ReLU(), n.MaxPool2d(3, 2, 1), _residual_block(m, 8, 8, 1),
                        _residual_block(m, 8, 16, 2), n.AdaptiveAvgPool2d(1), n.Flatten(), n.Linear(16, 5))


def make_mobilenet(m: Any) -> Any:
    n = m.nn
    return n.Sequential(n.Conv2d(3, 8, 3, 2, 1, bias=False), n.BatchNorm2d(8), n.ReLU6(), n.Conv2d(8, 24, 1, bias=False), n.BatchNorm2d(24),
                        n.ReLU6(), n.Conv2d(24, 24, 3, 2, 1, groups=24, bias=False), n.BatchNorm2d(24), n.ReLU6(),
                        n.Conv2d(24, 12, 1, bias=False), n.BatchNorm2d(12), n.AdaptiveAvgPool2d((1, 1)), n.Flatten(), n.Dropout(0.0),
                        n.Linear(12, 5))


def make_unet(m: Any) -> Any:
    n = m.nn

    class UNet(n.Module):
        def __init__(self) -> None:
            super().__init__()
            self.down, self.pool = n.Sequential(n.Conv2d(3, 6, 3, padding=1), n.BatchNorm2d(6), n.ReLU()), n.MaxPool2d(2)
            self.middle = n.Sequential(n.Conv2d(6, 12, 3, padding=1), n.ReLU())
            self.up, self.last = n.ConvTranspose2d(12, 6, 2, stride=2), n.Conv2d(12, 5, 1)

        def forward(self, x: Any) -> Any:
            skip = self.down(x)
            deep = self.up(self.middle(self.pool(skip)))
            return self.last(m.cat([skip, deep], 1)).mean((2, 3))
    return UNet()


# -- other networks of images ------------------------------------------------------------------------------------------------------------
def make_vit(m: Any) -> Any:
    n = m.nn

    class ViT(n.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patches = n.Conv2d(3, 16, kernel_size=4, stride=4)
            self.token = n.Parameter(m.zeros(1, 1, 16))
            self.places = n.Parameter(m.zeros(1, 17, 16))
            layer = n.TransformerEncoderLayer(16, 4, 32, dropout=0.0, activation="gelu", batch_first=True, norm_first=True)
            self.encoder = n.TransformerEncoder(layer, 2, enable_nested_tensor=False)
            self.head = n.Linear(16, 5)

        def forward(self, x: Any) -> Any:
            x = self.patches(x).flatten(2).transpose(1, 2)
            x = m.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1) + self.places
            return self.head(self.encoder(x)[:, 0])
    return ViT()


def classification_loss(m: Any, net: Any, x: Any, y: Any) -> Any:
    return m.nn.functional.cross_entropy(net(x), y)


def make_dcgan(m: Any) -> Any:
    n = m.nn
    generator = n.Sequential(n.ConvTranspose2d(8, 12, 4, 1, 0, bias=False), n.BatchNorm2d(12), n.ReLU(True),
                             n.ConvTranspose2d(12, 6, 4, 2, 1, bias=False), n.BatchNorm2d(6), n.ReLU(True),
                             n.ConvTranspose2d(6, 1, 4, 2, 1, bias=False), n.Tanh())
    critic = n.Sequential(n.Conv2d(1, 6, 4, 2, 1, bias=False), n.LeakyReLU(0.2, inplace=True), n.Conv2d(6, 12, 4, 2, 1, bias=False),
                          n.BatchNorm2d(12), n.LeakyReLU(0.2, inplace=True), n.Conv2d(12, 1, 4, 1, 0, bias=False), n.Flatten())
    return n.ModuleDict({"generator": generator, "critic": critic})


def dcgan_loss(m: Any, net: Any, real: Any, noise: Any) -> Any:
    f = m.nn.functional
    fake = net["generator"](noise)
    good, bad = net["critic"](real), net["critic"](fake.detach())
    critic = f.binary_cross_entropy_with_logits(good, m.ones_like(good)) + f.binary_cross_entropy_with_logits(bad, m.zeros_like(bad))
    for p in net["critic"].parameters():
        p.requires_grad_(False)
    fooled = net["critic"](fake)
    generator = f.softplus(-fooled).mean()
    for p in net["critic"].parameters():
        p.requires_grad_(True)
    return critic + generator


def make_detr(m: Any) -> Any:
    n = m.nn

    class Detector(n.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = n.Sequential(n.Conv2d(3, 16, 4, 4), n.ReLU())
            self.queries = n.Parameter(m.zeros(6, 16))
            self.decoder = n.TransformerDecoder(n.TransformerDecoderLayer(16, 2, 32, dropout=0.0, batch_first=True), 1)
            self.classes, self.boxes = n.Linear(16, 4), n.Sequential(n.Linear(16, 16), n.ReLU(), n.Linear(16, 4))

        def forward(self, x: Any) -> Any:
            memory = self.backbone(x).flatten(2).permute(0, 2, 1)
            h = self.decoder(self.queries.unsqueeze(0).expand(x.shape[0], -1, -1), memory)
            return self.classes(h), self.boxes(h).sigmoid()
    return Detector()


def detr_loss(m: Any, net: Any, x: Any, labels: Any, boxes: Any) -> Any:
    from scipy.optimize import linear_sum_assignment
    f = m.nn.functional
    logits, found = net(x)
    total = 0.0
    for i in range(x.shape[0]):
        with m.no_grad():
            cost = m.cdist(found[i], boxes[i], p=1) - logits[i].softmax(-1)[:, labels[i]]
        rows, columns = linear_sum_assignment(cost.numpy())
        rows, columns = m.as_tensor(rows), m.as_tensor(columns)
        target = m.full((logits.shape[1],), 3, dtype=m.int64)
        target[rows] = labels[i][columns]
        total = total + f.cross_entropy(logits[i], target, weight=m.tensor([1.0, 1.0, 1.0, 0.1]))
        total = total + 5 * f.l1_loss(found[i][rows], boxes[i][columns])
    return total / x.shape[0]


def make_yolo(m: Any) -> Any:
    n = m.nn
    return n.Sequential(n.Conv2d(3, 8, 3, 2, 1), n.BatchNorm2d(8), n.LeakyReLU(0.1), n.Conv2d(8, 16, 3, 2, 1), n.BatchNorm2d(16),
                        n.LeakyReLU(0.1), n.MaxPool2d(5, 1, 2), n.Conv2d(16, 2 * 8, 1))


def yolo_loss(m: Any, net: Any, x: Any, where: Any, boxes: Any, labels: Any) -> Any:
    f = m.nn.functional
    b = x.shape[0]
    y = net(x).view(b, 2, 8, 4, 4).permute(0, 1, 3, 4, 2)
    objects = where > 0
    xy, wh = y[..., 0:2].sigmoid(), y[..., 2:4].exp()
    size = m.sum((m.cat([xy, wh], -1) - boxes)[objects] ** 2)
    score = f.binary_cross_entropy_with_logits(y[..., 4], where.float(), reduction="none")
    score = m.where(objects, score, 0.5 * score).sum()
    kind = f.cross_entropy(y[objects][:, 5:], labels[objects], reduction="sum")
    return (5 * size + score + kind) / b


# -- others ------------------------------------------------------------------------------------------------------------------------------
def make_actor_critic(m: Any) -> Any:
    n = m.nn

    class ActorCritic(n.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.policy, self.value = n.Linear(4, 16), n.Linear(16, 3), n.Linear(16, 1)

        def forward(self, x: Any) -> Any:
            h = m.tanh(self.body(x))
            return m.distributions.Categorical(logits=self.policy(h)), self.value(h).squeeze(-1)
    return ActorCritic()


def actor_critic_loss(m: Any, net: Any, states: Any, actions: Any, rewards: Any) -> Any:
    returns, running = [], 0.0
    for r in reversed(rewards.tolist()):
        running = r + 0.9 * running
        returns.insert(0, running)
    target = m.tensor(returns)
    target = (target - target.mean()) / (target.std() + 1e-6)
    policy, value = net(states)
    advantage = target - value.detach()
    return (-(policy.log_prob(actions) * advantage).mean() + m.nn.functional.smooth_l1_loss(value, target)
            - 0.01 * policy.entropy().mean())


def make_graph(m: Any) -> Any:
    n = m.nn

    class GCN(n.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = n.Linear(6, 16, bias=False), n.Linear(16, 3)

        def spread(self, x: Any, edges: Any) -> Any:
            source, target = edges
            degree = m.zeros(x.shape[0]).index_add(0, target, m.ones(target.shape[0])).clamp(min=1)
            out = m.zeros_like(x)
            out.index_add_(0, target, x[source] / degree[source].sqrt().unsqueeze(1))
            return out / degree.sqrt()[:, None]

        def forward(self, x: Any, edges: Any) -> Any:
            return self.two(self.spread(m.relu(self.spread(self.one(x), edges)), edges))
    return GCN()


def graph_loss(m: Any, net: Any, x: Any, edges: Any, y: Any) -> Any:
    mask = m.arange(len(y)) < 8
    return m.nn.functional.nll_loss(net(x, edges).log_softmax(dim=-1)[mask], y[mask])


def make_ode(m: Any) -> Any:
    n = m.nn
    return n.Sequential(n.Linear(2, 16), n.Tanh(), n.Linear(16, 2))


def ode_loss(m: Any, net: Any, start: Any, target: Any) -> Any:
    y, h, path = start, 0.1, []
    for _ in range(5):  # Runge-Kutta of order 4
        k1 = net(y ** 3)
        k2 = net((y + h / 2 * k1) ** 3)
        k3 = net((y + h / 2 * k2) ** 3)
        k4 = net((y + h * k3) ** 3)
        y = y + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        path.append(y)
    return m.mean(m.abs(m.stack(path) - target))


def _images(rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    return floats(rng, 8, 3, 16, 16), rng.integers(0, 5, 8)


def _momentum(m: Any, parameters: Any) -> Any:
    return m.optim.SGD(parameters, lr=0.05, momentum=0.9)


def _edges(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 12, (2, 40))


ZOO: dict[str, Program] = {
    "mlp": Program(make_mlp, lambda r: (floats(r, 16, 10), r.integers(0, 4, 16)), classification_loss),
    "vae": Program(make_vae, lambda r: (r.random((8, 20)).astype("f"), floats(r, 8, 4)), vae_loss),
    "lstm": Program(make_language_model, lambda r: (r.integers(0, 17, (4, 10)),), next_token_loss),
    "seq2seq": Program(make_seq2seq, lambda r: (r.integers(1, 13, (4, 6)), r.integers(1, 13, (4, 5))), seq2seq_loss),
    "transformer": Program(make_transformer, lambda r: (np.pad(r.integers(1, 13, (4, 6)), ((0, 0), (0, 2))), r.integers(1, 13, (4, 5))),
                           lambda m, net, a, b: m.nn.functional.cross_entropy(net(a, b[:, :-1]).flatten(0, 1), b[:, 1:].flatten()),
                           lambda m, p: m.optim.AdamW(p, lr=3e-3, betas=(0.9, 0.98))),
    "gpt": Program(make_gpt, lambda r: (r.integers(0, 17, (4, 12)),), next_token_loss),
    "lenet": Program(make_lenet, _images, classification_loss, _momentum),
    "resnet": Program(make_resnet, _images, classification_loss, _momentum),
    "mobilenet": Program(make_mobilenet, _images, classification_loss, _momentum),
    "unet": Program(make_unet, _images, classification_loss, _momentum),
    "vit": Program(make_vit, lambda r: (floats(r, 4, 3, 16, 16), r.integers(0, 5, 4)), classification_loss),
    "dcgan": Program(make_dcgan, lambda r: (floats(r, 4, 1, 16, 16), floats(r, 4, 8, 1, 1)), dcgan_loss,
                     lambda m, p: m.optim.Adam(p, lr=2e-3, betas=(0.5, 0.999))),
    "detr": Program(make_detr, lambda r: (floats(r, 2, 3, 16, 16), r.integers(0, 3, (2, 3)), r.random((2, 3, 4)).astype("f")), detr_loss),
    "yolo": Program(make_yolo, lambda r: (floats(r, 3, 3, 16, 16), (r.random((3, 2, 4, 4)) < 0.3).astype(np.int64),
                                          r.random((3, 2, 4, 4, 4)).astype("f"), r.integers(0, 3, (3, 2, 4, 4))), yolo_loss),
    "actor_critic": Program(make_actor_critic, lambda r: (floats(r, 12, 4), r.integers(0, 3, 12), floats(r, 12)), actor_critic_loss),
    "graph": Program(make_graph, lambda r: (floats(r, 12, 6), _edges(r), r.integers(0, 3, 12)), graph_loss),
    "ode": Program(make_ode, lambda r: (floats(r, 6, 2), floats(r, 5, 6, 2)), ode_loss, lambda m, p: m.optim.RMSprop(p, lr=1e-2)),
}
