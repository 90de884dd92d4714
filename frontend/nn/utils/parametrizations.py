"""Ready parametrizations: weight normalisation, spectral normalisation, orthogonal weights."""
from __future__ import annotations

import treadle
from treadle.factorizations import geqrf
from treadle.nn import functional as F
from treadle.nn.module import Module
from treadle.nn.utils import parametrize
from treadle.tensor import Tensor


def _norm_except(v: Tensor, dim: int | None) -> Tensor:
    """The norm of each slice along `dim`, shaped to broadcast; of everything when `dim` is None."""
    if dim is None:
        return v.norm()
    axes = tuple(i for i in range(v.dim()) if i != dim % v.dim())
    return (v * v).sum(axes, keepdim=True).sqrt() if axes else v.abs()


class _WeightNorm(Module):
    """weight = g * v / |v| (Salimans and Kingma, 2016); originals (g, v)."""

    def __init__(self, dim: int | None = 0) -> None:
        super().__init__()
        self.dim = None if dim == -1 else dim

    def forward(self, weight_g: Tensor, weight_v: Tensor) -> Tensor:
        return weight_v * (weight_g / _norm_except(weight_v, self.dim))

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        return _norm_except(weight, self.dim), weight


def weight_norm(module: Module, name: str = "weight", dim: int | None = 0) -> Module:
    """Split `module.<name>` into a length for each slice along `dim` and a direction."""
    return parametrize.register_parametrization(module, name, _WeightNorm(dim), unsafe=True)


class _SpectralNorm(Module):
    """weight / (its largest singular value), by power iteration in training mode (Miyato et al., 2018)."""

    def __init__(self, weight: Tensor, n_power_iterations: int = 1, dim: int = 0, eps: float = 1e-12) -> None:
        super().__init__()
        self.dim = dim if dim >= 0 else dim + weight.dim()
        self.eps, self.n_power_iterations = eps, n_power_iterations
        if weight.dim() > 1:
            matrix = self._matrix(weight.detach())
            self.register_buffer("_u", F.normalize(treadle.randn(matrix.size(0)), dim=0, eps=eps))
            self.register_buffer("_v", F.normalize(treadle.randn(matrix.size(1)), dim=0, eps=eps))
            self._iterate(matrix, 15)

    def _matrix(self, weight: Tensor) -> Tensor:
        if self.dim:
            weight = weight.movedim(self.dim, 0)
        return weight.reshape(weight.size(0), -1)

    def _iterate(self, matrix: Tensor, times: int) -> None:
        with treadle.no_grad():
            for _ in range(times):
                self._u.copy_(F.normalize(treadle.mv(matrix, self._v), dim=0, eps=self.eps))
                self._v.copy_(F.normalize(treadle.mv(matrix.t(), self._u), dim=0, eps=self.eps))

    def forward(self, weight: Tensor) -> Tensor:
        if weight.dim() == 1:
            return F.normalize(weight, dim=0, eps=self.eps)
        matrix = self._matrix(weight)
        if self.training:
            self._iterate(matrix.detach(), self.n_power_iterations)
        sigma = self._u.clone().dot(treadle.mv(matrix, self._v.clone()))  # not `@`, which autocast would round
        return weight / sigma

    def right_inverse(self, value: Tensor) -> Tensor:
        return value


def spectral_norm(module: Module, name: str = "weight", n_power_iterations: int = 1, eps: float = 1e-12, dim: int | None = None) -> Module:
    """Divide `module.<name>` by its largest singular value at every use."""
    weight = getattr(module, name)
    axis = 0 if dim is None else dim
    return parametrize.register_parametrization(module, name, _SpectralNorm(weight, n_power_iterations, axis, eps))


__all__ = ["spectral_norm", "weight_norm"]


MAPS = ("matrix_exp", "cayley", "householder")


def _orthonormal(a: Tensor) -> Tensor:
    """The columns of `a` made orthonormal; orthonormal ones stay as they are."""
    q, r = treadle.linalg.qr(a)
    return q * r.diagonal(dim1=-2, dim2=-1).sgn().unsqueeze(-2)


class _Orthogonal(Module):
    """An orthogonal matrix, or the first columns or rows of one, from any matrix (Lezcano-Casado and Martinez-Rubio, 2019).

    With `use_trivialization` the map starts at the matrix assigned last, `base`, which is where it is best conditioned.
    """

    def __init__(self, weight: Tensor, orthogonal_map: str, *, use_trivialization: bool = True) -> None:
        super().__init__()
        if weight.is_complex() and orthogonal_map == "householder":
            raise ValueError("The householder parametrization does not support complex tensors.")
        self.shape, self.orthogonal_map, self.use_trivialization = weight.shape, orthogonal_map, use_trivialization
        if use_trivialization:
            self.register_buffer("base", None)

    def _reflections(self, x: Tensor) -> Tensor:
        """The product of the reflections along the columns below the diagonal of `x`, whose diagonal holds signs."""
        a = x.tril(-1)
        q = treadle.linalg.householder_product(a, 2.0 / (1.0 + (a * a).sum(-2)))
        return q * x.diagonal(dim1=-2, dim2=-1).int().unsqueeze(-2)

    def _exponential(self, x: Tensor) -> Tensor:
        """exp, or the Cayley transform, of the skew matrix whose part below the diagonal is that of `x`."""
        n, k = x.shape[-2:]
        low = x.tril()
        if n != k:
            low = treadle.cat([low, low.new_zeros(*low.shape[:-2], n, n - k)], -1)
        skew = low - low.mH
        if self.orthogonal_map == "matrix_exp":
            return treadle.matrix_exp(skew)[..., :k]
        one = treadle.eye(n, dtype=x.dtype, device=x.device)
        return treadle.linalg.solve(one - 0.5 * skew, one + 0.5 * skew)[..., :k]

    def forward(self, x: Tensor) -> Tensor:
        wide = x.size(-2) < x.size(-1)
        x = x.mT if wide else x
        q = self._reflections(x) if self.orthogonal_map == "householder" else self._exponential(x)
        if self.use_trivialization:
            q = self.base @ q
        return q.mT if wide else q

    def right_inverse(self, q: Tensor) -> Tensor:
        """ValueError for another shape; NotImplementedError where the map has no inverse and no base to start at."""
        if q.shape != self.shape:
            raise ValueError(f"Expected a matrix or batch of matrices of shape {self.shape}. Got a tensor of shape {q.shape}.")
        if not self.use_trivialization and self.orthogonal_map != "householder":
            raise NotImplementedError("It is not possible to assign to the matrix exponential or the Cayley parametrizations when "
                                      "use_trivialization=False.")
        with treadle.no_grad():
            wide = q.size(-2) < q.size(-1)
            tall = q.mT if wide else q
            if not self.use_trivialization:
                a, tau = geqrf(tall)
                signs = a.diagonal(dim1=-2, dim2=-1).sgn() * treadle.where(tau == 0, -1.0, 1.0)
                a = a.tril(-1) + treadle.zeros_like(a).diagonal_scatter(signs, dim1=-2, dim2=-1)
                return a.mT if wide else a
            n, k = tall.shape[-2:]
            if n != k:
                tall = treadle.cat([tall, treadle.randn(*tall.shape[:-2], n, n - k, dtype=q.dtype, device=q.device)], -1)
            self.base = _orthonormal(tall)
            return -treadle.eye(*q.shape[-2:], dtype=q.dtype, device=q.device).expand(q.shape).clone()


def orthogonal(module: Module, name: str = "weight", orthogonal_map: str | None = None, *, use_trivialization: bool = True) -> Module:
    """Keep `module.<name>` orthogonal; of a matrix that is not square, its rows or columns, whichever are fewer, orthonormal.

    orthogonal_map: "matrix_exp", "cayley" or "householder"; by default the first for square and complex weights, else the last.
    """
    weight = getattr(module, name, None)
    if not isinstance(weight, Tensor):
        raise ValueError(f"Module '{module}' has no parameter or buffer with name '{name}'")
    if weight.ndim < 2:
        raise ValueError(f"Expected a matrix or batch of matrices. Got a tensor of {weight.ndim} dimensions.")
    if orthogonal_map is None:
        orthogonal_map = "matrix_exp" if weight.shape[-2] == weight.shape[-1] or weight.is_complex() else "householder"
    if orthogonal_map not in MAPS:
        raise ValueError(f'orthogonal_map has to be one of "matrix_exp", "cayley", "householder". Got: {orthogonal_map}')
    made = _Orthogonal(weight, orthogonal_map, use_trivialization=use_trivialization)
    return parametrize.register_parametrization(module, name, made, unsafe=True)
