"""Adaptive softmax (Grave et al., "Efficient softmax approximation for GPUs", 2017)."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import treadle
from treadle.nn import functional as F
from treadle.nn.container import ModuleList, Sequential
from treadle.nn.linear import Linear
from treadle.nn.module import Module
from treadle.tensor import Tensor


class _ASMoutput(NamedTuple):
    output: Tensor
    loss: Tensor


class AdaptiveLogSoftmaxWithLoss(Module):
    """Classes sorted by frequency, in a head and clusters that begin at `cutoffs`; clusters have ever smaller projections.

    input (N, in_features) and target (N) -> (log probability of each target (N), their mean, negated).
    """

    def __init__(self, in_features: int, n_classes: int, cutoffs: Sequence[int], div_value: float = 4.0, head_bias: bool = False,
                 device: Any = None, dtype: Any = None) -> None:
        super().__init__()
        ends = list(cutoffs)
        if not ends:
            raise ValueError("cutoffs should be a sequence of length larger than 0")
        if ends != sorted(set(ends)) or min(ends) <= 0 or max(ends) > n_classes - 1:
            raise ValueError("cutoffs should be a sequence of unique, positive integers sorted in an increasing order, "
                             "where each value is between 1 and n_classes-1")
        self.in_features, self.n_classes, self.div_value, self.head_bias = in_features, n_classes, div_value, head_bias
        self.cutoffs = [*ends, n_classes]
        self.shortlist_size, self.n_clusters = ends[0], len(ends)
        self.head_size = self.shortlist_size + self.n_clusters
        self.head = Linear(in_features, self.head_size, bias=head_bias, device=device, dtype=dtype)
        self.tail = ModuleList()
        for i in range(self.n_clusters):
            hidden = int(in_features // (div_value ** (i + 1)))
            size = self.cutoffs[i + 1] - self.cutoffs[i]
            self.tail.append(Sequential(Linear(in_features, hidden, bias=False, device=device, dtype=dtype),
                                        Linear(hidden, size, bias=False, device=device, dtype=dtype)))

    def reset_parameters(self) -> None:
        self.head.reset_parameters()
        for inner, outer in self.tail:
            inner.reset_parameters()
            outer.reset_parameters()

    def forward(self, input_: Tensor, target_: Tensor) -> _ASMoutput:
        if input_.dim() not in (1, 2) or target_.dim() != input_.dim() - 1:
            raise RuntimeError(f"AdaptiveLogSoftmaxWithLoss: expected input (N, in_features) and target (N), or one of them, "
                               f"got {list(input_.shape)} and {list(target_.shape)}")
        x, y = (input_, target_) if input_.dim() == 2 else (input_.unsqueeze(0), target_.unsqueeze(0))
        if x.size(0) != y.size(0):
            raise RuntimeError("Input and target should have the same size in the batch dimension.")
        if int(y.min()) < 0 or int(y.max()) >= self.n_classes:
            raise RuntimeError(f"Target values should be in [0, {self.n_classes - 1}], but values in range "
                               f"[{int(y.min())}, {int(y.max())}] were found.")
        found = self._full(x, self.head(x)).gather(1, y.unsqueeze(1)).squeeze(1)
        output = found if input_.dim() == 2 else found.squeeze(0)
        return _ASMoutput(output, -found.mean())

    def _full(self, x: Tensor, head: Tensor) -> Tensor:
        shares = F.log_softmax(head, dim=1)
        parts = [shares[:, :self.shortlist_size]]
        for i, cluster in enumerate(self.tail):
            parts.append(F.log_softmax(cluster(x), dim=1) + shares[:, self.shortlist_size + i].unsqueeze(1))
        return treadle.cat(parts, 1)

    def log_prob(self, input: Tensor) -> Tensor:
        """Log probabilities of all classes (N, n_classes)."""
        return self._full(input, self.head(input))

    def predict(self, input: Tensor) -> Tensor:
        """The most probable class of each row (N)."""
        return self.log_prob(input).argmax(1)
