"""Expressions evaluated once with treadle as `m` and once with PyTorch: values, dtypes, shapes and error types must agree.

One that starts with `!` is a statement leaving its result in `r`. Operands are made by `operands(m)`.
"""
from __future__ import annotations

import math
from typing import Any

import numpy as np

_rng = np.random.default_rng(0)
A, B = (_rng.standard_normal((3, 4)).astype(np.float32) for _ in range(2))
NAN = A.copy()
NAN[0, 1], NAN[2, 2] = np.nan, np.inf
I = _rng.integers(0, 5, (3, 4))  # noqa: E741
ARRAYS: dict[str, np.ndarray] = {
    "A": A, "B": B, "C": _rng.standard_normal((4, 5)).astype(np.float32), "V": _rng.standard_normal(6).astype(np.float32),
    "T3": _rng.standard_normal((2, 3, 4)).astype(np.float32), "S": _rng.standard_normal((4, 4)).astype(np.float32), "P": np.abs(A) + 0.5,
    "U": _rng.uniform(-0.9, 0.9, (3, 4)).astype(np.float32), "I": I, "J": I - 2, "IX": _rng.integers(0, 3, (3, 4)),
    "K": np.array([2, 0, 1]), "IDX": np.array([2, 0, 1]), "NAN": NAN, "M": A > 0,
}


def operands(m: Any) -> dict[str, Any]:
    """Names for an expression: the module, its tensors, numpy and math."""
    return {"m": m, "np": np, "math": math, **{name: m.tensor(array) for name, array in ARRAYS.items()}}


def leaves(m: Any) -> dict[str, Any]:
    """The same with float64 leaves that require gradients."""
    env = operands(m)
    for name, array in ARRAYS.items():
        if array.dtype == np.float32 and name != "NAN":
            env[name] = m.tensor(array, dtype=m.float64, requires_grad=True)
    return env


def value_of(expression: str, env: dict[str, Any]) -> Any:
    if expression.startswith("!"):
        exec(expression[1:], env)
        return env["r"]
    return eval(expression, env)


def _split(text: str) -> list[str]:
    return [case for line in text.strip().split("\n") for case in line.split(" ;; ")]


VALUES = _split(r"""
A+B ;; A*2 ;; 2-A ;; A/B ;; A//B ;; J//2 ;; J%3 ;; A%0.7 ;; J/2 ;; A**2 ;; A**3 ;; A**0.5 ;; 2**A ;; A**-1 ;; I**2 ;; I**-1 ;; I**2.0
A**B ;; A@C ;; C.T@A.T ;; (A>0)&(B>0) ;; (A>0)|(B>0) ;; (A>0)^(B>0) ;; ~(A>0) ;; ~I ;; I&3 ;; I|8 ;; I^5 ;; I<<1 ;; I>>1 ;; 1<<I ;; -A
abs(A) ;; A==B ;; A!=B ;; A<0 ;; A>=B ;; A==None ;; A!=None ;; A+True ;; I+True ;; I+1.5 ;; M+1 ;; M+M ;; M*2.5 ;; M-M ;; -M ;; I/I
m.add(A,B,alpha=2) ;; m.sub(A,B,alpha=0.5) ;; m.sub(I,1,alpha=2) ;; m.rsub(A,2) ;; m.mul(A,3) ;; m.div(A,B,rounding_mode='floor')
m.div(A,B,rounding_mode='trunc') ;; m.div(J,2,rounding_mode='trunc') ;; m.div(J,2,rounding_mode='floor') ;; m.div(A,B,rounding_mode='x')
m.true_divide(J,2) ;; m.floor_divide(A,0.3) ;; m.remainder(A,B) ;; m.fmod(A,B) ;; m.fmod(J,3) ;; m.pow(A,2) ;; m.pow(2,A)
m.float_power(A,2) ;; m.square(A) ;; m.exp(A) ;; m.exp(I) ;; m.log(P) ;; m.log2(P) ;; m.log10(P) ;; m.log1p(P) ;; m.expm1(A) ;; m.exp2(A)
m.sqrt(P) ;; m.rsqrt(P) ;; m.reciprocal(A) ;; m.sin(A) ;; m.cos(A) ;; m.tan(A) ;; m.asin(U) ;; m.acos(U) ;; m.atan(A) ;; m.atan2(A,B)
m.arctan2(A,B) ;; m.sinh(A) ;; m.cosh(A) ;; m.tanh(A) ;; m.asinh(A) ;; m.acosh(P+1) ;; m.atanh(U) ;; m.erf(A) ;; m.erfc(A) ;; m.erfinv(U)
m.lgamma(P) ;; m.digamma(P) ;; m.sigmoid(A) ;; m.relu(A) ;; m.abs(A) ;; m.absolute(A) ;; m.neg(A) ;; m.negative(A) ;; m.positive(A)
m.sign(A) ;; m.sgn(A) ;; m.signbit(m.tensor([0.0,-0.0,1,-1])) ;; m.floor(A) ;; m.ceil(A) ;; m.round(A) ;; m.round(A,decimals=2)
m.trunc(A) ;; m.fix(A) ;; m.frac(A) ;; m.clamp(A,-0.5,0.5) ;; m.clamp(A,min=0) ;; m.clamp(A,max=0.2) ;; m.clip(A,0,1) ;; m.clamp(A,B,P)
m.clamp(I,1,3) ;; m.clamp(I,1.5,3) ;; m.clamp(A) ;; m.clamp_min(A,0.1) ;; m.clamp_max(A,0.1) ;; m.maximum(A,B) ;; m.minimum(A,B)
m.fmax(NAN,A) ;; m.fmin(NAN,A) ;; m.logaddexp(A,B) ;; m.logaddexp2(A,B) ;; m.xlogy(P,P) ;; m.lerp(A,B,0.3) ;; m.lerp(A,B,U)
m.addcmul(A,B,P,value=0.5) ;; m.addcdiv(A,B,P,value=0.5) ;; m.nan_to_num(NAN) ;; m.nan_to_num(NAN,1.0,2.0,-2.0) ;; m.isnan(NAN)
m.isinf(NAN) ;; m.isfinite(NAN) ;; m.isfinite(I) ;; m.isposinf(NAN) ;; m.isneginf(NAN) ;; m.isreal(A) ;; m.isclose(A,A+1e-9)
m.allclose(A,A) ;; m.allclose(A,B) ;; m.equal(A,A) ;; m.equal(A,C) ;; m.logical_and(A>0,B>0) ;; m.logical_and(I,J) ;; m.logical_or(I,J)
m.logical_xor(I,J) ;; m.logical_not(I) ;; m.bitwise_and(I,3) ;; m.bitwise_not(I) ;; m.bitwise_left_shift(I,1) ;; m.hypot(A,B)
m.heaviside(A,B) ;; m.ldexp(A,IDX[0]) ;; m.sinc(A) ;; m.logit(m.sigmoid(A)) ;; m.logit(A,eps=0.1) ;; m.deg2rad(A) ;; m.rad2deg(A)
m.where(A>0,A,B) ;; m.where(A>0,A,0.0) ;; m.where(A>0,1,0) ;; m.where(A>0,1.0,0) ;; m.where(A>0) ;; A.where(A>0,B) ;; m.where(A>0,I,A)
m.gt(A,0) ;; m.greater(A,B) ;; m.less_equal(A,B) ;; m.not_equal(A,B) ;; m.eq(A,B) ;; m.sum(A) ;; m.sum(I) ;; m.sum(M) ;; A.sum(0)
A.sum(dim=1,keepdim=True) ;; A.sum((0,1)) ;; A.sum(axis=1) ;; A.sum(-1,dtype=m.float64) ;; A.sum([]) ;; A.sum(5) ;; A.sum((0,0))
m.tensor(3.0).sum(0) ;; m.tensor(3.0).sum(-1) ;; m.tensor(3.0).sum(1) ;; A.mean() ;; A.mean(1) ;; A.mean((0,1),keepdim=True) ;; I.mean()
I.float().mean(0) ;; I.mean(dtype=m.float32) ;; A.prod() ;; A.prod(1) ;; I.prod(0) ;; A.var() ;; A.var(1) ;; A.var(unbiased=False)
A.var(1,unbiased=False) ;; A.var(dim=1,correction=0,keepdim=True) ;; A.var(0,False) ;; A.var(False) ;; A.std(1) ;; A.std() ;; A.std((0,1))
m.var_mean(A,1) ;; m.std_mean(A,dim=0) ;; I.var() ;; A.max() ;; A.max(1) ;; A.max(dim=1,keepdim=True) ;; A.max(1)[0] ;; A.max(1).values
A.max(1).indices ;; m.max(A,B) ;; A.min() ;; A.min(0) ;; m.min(A,B) ;; m.max(I,1) ;; m.max(M) ;; A.amax(1) ;; A.amin((0,1)) ;; A.amax()
m.aminmax(A) ;; m.aminmax(A,dim=1,keepdim=True) ;; A.argmax() ;; A.argmax(1) ;; A.argmax(dim=0,keepdim=True) ;; A.argmax(keepdim=True)
A.argmin(1) ;; M.argmax() ;; A.any() ;; A.all(1) ;; M.any(0) ;; M.all() ;; I.any() ;; m.any(A,dim=(0,1)) ;; m.count_nonzero(I)
m.count_nonzero(I,dim=1) ;; m.softmax(A,1) ;; m.softmax(A,dim=-1,dtype=m.float64) ;; A.softmax(0) ;; A.log_softmax(-1) ;; m.softmax(I,0)
m.softmax(m.tensor(1.0),0) ;; m.logsumexp(A,1) ;; m.logsumexp(A,(0,1)) ;; A.logsumexp(0,keepdim=True) ;; A.cumsum(1) ;; I.cumsum(0)
M.cumsum(0) ;; A.cumsum(0,dtype=m.float64) ;; A.cumprod(1) ;; m.cummax(A,1) ;; m.cummin(A,0) ;; m.logcumsumexp(A,1) ;; m.diff(A)
m.diff(A,n=2,dim=0) ;; m.diff(M) ;; m.diff(A,prepend=A[:,:1]) ;; m.trapezoid(A) ;; m.trapezoid(V,V) ;; m.trapezoid(A,dx=2.0,dim=0)
m.cumulative_trapezoid(A) ;; m.kthvalue(A,2) ;; m.kthvalue(A,9) ;; m.median(A) ;; m.median(A,1) ;; m.median(NAN,1)
m.median(I,0,keepdim=True) ;; m.nanmedian(NAN) ;; m.nanmedian(NAN,1) ;; m.mode(I,1) ;; m.mode(I,0,keepdim=True) ;; m.quantile(A,0.3)
m.quantile(A,m.tensor([0.1,0.5,0.9])) ;; m.quantile(A,0.5,dim=1,keepdim=True) ;; m.quantile(A,m.tensor([0.1,0.5]),dim=0)
m.quantile(A,m.tensor([0.1,0.5]),dim=0,keepdim=True) ;; m.quantile(A,0.4,interpolation='nearest')
m.quantile(A,0.4,interpolation='lower') ;; m.quantile(A,0.4,dim=1,interpolation='higher') ;; m.quantile(A,0.4,interpolation='midpoint')
m.quantile(NAN,0.4,dim=1) ;; m.nanquantile(NAN,0.4,dim=1) ;; m.quantile(I,0.4) ;; m.nansum(NAN[:2]) ;; m.nanmean(NAN,1) ;; m.histc(A,5)
m.histc(A,4,-1,1) ;; m.cov(A) ;; A.view(4,3) ;; A.view(-1) ;; A.view(2,-1) ;; A.view((2,6)) ;; A.view(5,3) ;; A.view(-1,-1)
A.T.view(12) ;; A.T.reshape(12) ;; A.t() ;; T3.t() ;; A.T ;; T3.mT ;; A.mT ;; V.mT ;; A.transpose(0,1) ;; T3.transpose(-1,0)
T3.permute(2,0,1) ;; T3.permute((1,0,2)) ;; T3.permute(0,1) ;; T3.permute(0,0,1) ;; A.reshape(6,2) ;; A.reshape((6,-1)) ;; A.reshape(7,-1)
A.flatten() ;; T3.flatten(1) ;; T3.flatten(0,1) ;; m.tensor(1.).flatten() ;; T3.unflatten(2,(2,2)) ;; T3.unflatten(-1,(2,-1))
m.flatten(T3,start_dim=1) ;; A.unsqueeze(0) ;; A.unsqueeze(-1) ;; A.unsqueeze(3) ;; A[:1].squeeze() ;; A[:1].squeeze(0) ;; A.squeeze(0)
A[:1,:1].squeeze((0,1)) ;; A.expand(2,3,4) ;; A[:,:1].expand(-1,5) ;; A.expand(2,4) ;; A[:1].expand(-1,3,4) ;; V.expand_as(m.zeros(2,6))
m.broadcast_to(V,(2,6)) ;; m.broadcast_tensors(A,A[:1]) ;; m.broadcast_shapes((2,1),(3,)) ;; A.narrow(1,1,2) ;; A.narrow(1,-2,2)
A.narrow(1,3,2) ;; A.select(1,2) ;; A.select(0,-1) ;; A.select(0,5) ;; m.unbind(A,1) ;; A.unbind() ;; A.split(2) ;; A.split(2,dim=1)
A.split([1,3],1) ;; A.split([1,1],1) ;; A.chunk(2,1) ;; A.chunk(3,dim=1) ;; m.chunk(V,4) ;; m.tensor_split(V,4) ;; m.tensor_split(V,(1,3))
m.hsplit(A,2) ;; m.vsplit(A,3) ;; m.diagonal(A) ;; m.diagonal(A,1) ;; m.diagonal(A,-1) ;; m.diagonal(T3,0,1,2) ;; m.diagonal(T3,0,0,2)
A.unfold(1,2,1) ;; V.unfold(0,3,2) ;; A.unfold(0,5,1) ;; m.movedim(T3,0,-1) ;; T3.movedim((0,1),(2,0)) ;; m.moveaxis(T3,0,1)
m.swapaxes(T3,0,2) ;; A.view_as(m.zeros(4,3)) ;; A.reshape_as(m.zeros(2,6)) ;; m.as_strided(A,(2,2),(1,2))
A.T.as_strided((2,2),(1,2),1) ;; m.ravel(A.T) ;; m.atleast_1d(m.tensor(1.)) ;; m.atleast_2d(V) ;; m.atleast_3d(A) ;; m.cat([A,B])
m.cat((A,B),dim=1) ;; m.cat([A,B],-1) ;; m.cat([A,I]) ;; m.cat([A,C]) ;; m.cat([]) ;; m.cat([m.tensor([]),A]) ;; m.concat([A,B],axis=1)
m.cat([m.tensor(1.),m.tensor(2.)]) ;; m.stack([A,B]) ;; m.stack([A,B],dim=-1) ;; m.stack([A,C]) ;; m.hstack([A,B]) ;; m.hstack([V,V])
m.vstack([V,V]) ;; m.dstack([A,B]) ;; m.column_stack([V,V]) ;; A.repeat(2,1) ;; A.repeat(2,1,3) ;; A.repeat(2) ;; V.repeat(3)
V.repeat((2,2)) ;; A.tile(2) ;; m.tile(A,(2,2)) ;; A.flip(0) ;; A.flip(0,1) ;; m.flip(A,[1]) ;; m.flip(A,dims=(0,)) ;; A.fliplr()
A.flipud() ;; m.rot90(A) ;; m.rot90(A,2) ;; m.rot90(A,3) ;; m.rot90(A,-1,[1,0]) ;; A.roll(1) ;; A.roll(1,0) ;; A.roll((1,-2),(0,1))
m.roll(A,shifts=2,dims=1) ;; m.meshgrid(V,IDX,indexing='ij') ;; m.meshgrid(V,IDX,indexing='xy') ;; m.meshgrid([V,IDX],indexing='ij')
m.cartesian_prod(IDX,IDX) ;; m.combinations(IDX) ;; m.combinations(IDX,r=2,with_replacement=True) ;; m.block_diag(A,C)
m.repeat_interleave(A,2) ;; m.repeat_interleave(A,2,dim=0) ;; A.repeat_interleave(m.tensor([1,2,0]),dim=0) ;; m.repeat_interleave(IDX)
m.repeat_interleave(A,m.tensor([1,2]),dim=0) ;; m.matmul(A,C) ;; m.matmul(V[:4],C) ;; m.matmul(A,V[:4]) ;; m.matmul(V,V) ;; m.matmul(T3,C)
m.matmul(T3,V[:4]) ;; m.matmul(T3,T3.mT) ;; m.matmul(A,T3.mT) ;; m.matmul(V[:3],T3) ;; m.matmul(A,A) ;; m.matmul(A,m.tensor(1.))
m.matmul(T3,A) ;; m.matmul(I,I.T) ;; m.mm(A,C) ;; m.mm(A,A) ;; m.mm(T3,C) ;; m.bmm(T3,T3.mT) ;; m.bmm(T3,T3) ;; m.bmm(A,C)
m.mv(A,V[:4]) ;; m.dot(V,V) ;; m.dot(V,V[:3]) ;; m.dot(A,A) ;; m.inner(A,B) ;; m.outer(V,V) ;; m.ger(V,IDX) ;; m.addmm(A[:,:1],A,C)
m.addmm(m.zeros(3,5),A,C,beta=0.5,alpha=2) ;; m.addmv(A[:,0],A,V[:4]) ;; m.addr(S,V[:4],V[:4])
m.baddbmm(m.ones(2,3,3),T3,T3.mT,beta=2,alpha=.5) ;; m.addbmm(m.ones(3,3),T3,T3.mT) ;; m.matrix_power(S,3) ;; m.matrix_power(S,0)
m.tensordot(A,C,1) ;; m.tensordot(T3,T3,([1,2],[1,2])) ;; m.tensordot(A,A,dims=2) ;; m.einsum('ij,jk->ik',A,C) ;; m.einsum('ij,jk',A,C)
m.einsum('bij,bkj->bik',T3,T3) ;; m.einsum('bij,kj->bik',T3,A) ;; m.einsum('...ij,kj->...ik',T3,A) ;; m.einsum('ii->i',S)
m.einsum('ii',S) ;; m.einsum('ij->ji',A) ;; m.einsum('ij->',A) ;; m.einsum('i,j->ij',V,V) ;; m.einsum('i,i',V,V)
m.einsum('ij,ij->i',A,B) ;; m.einsum('ij,jk,kl->il',A,C,C.T) ;; m.einsum('b i j , b i k -> b j k',T3,T3)
m.einsum('bhd,bd->bh',T3,T3[:,0]) ;; m.einsum('ij,j->i',A,V[:4]) ;; m.einsum('ab,cd->abcd',A,C) ;; m.einsum('ij,jk->ik',A,A)
m.einsum('ij->ijk',A) ;; m.einsum('ij,ij->ij',A,B) ;; m.einsum('ij,jk->ijk',A,C) ;; m.einsum('...,...->...',A,B)
m.einsum('...i->...',T3) ;; m.einsum('ij,kj->ik',A[:,:1],A) ;; m.einsum('n,nij->ij',V[:2],T3) ;; m.kron(A,C) ;; m.kron(V,V)
m.cross(A[:,:3],B[:,:3],dim=1) ;; m.norm(A) ;; m.norm(A,dim=1) ;; m.norm(A,2,1,True) ;; A.norm(p=1) ;; A.norm(p=3,dim=0)
A.norm(float('inf')) ;; A.norm(-math.inf) ;; A.norm(0) ;; A.norm(dim=(0,1)) ;; I.norm() ;; m.dist(A,B) ;; m.dist(A,B,1) ;; m.cdist(A,B)
m.cdist(A,B,p=1) ;; m.cdist(T3,T3) ;; m.cdist(m.cat([A]*10),m.cat([B]*10)) ;; m.tril(S) ;; m.triu(S,1) ;; T3.tril(-1) ;; m.tril(V)
m.tril_indices(3,3) ;; m.triu_indices(3,4,1) ;; m.diag(V) ;; m.diag(V,1) ;; m.diag(A) ;; m.diag(A,-1) ;; m.diag(T3) ;; m.diag_embed(A)
m.diag_embed(A,1,0,2) ;; m.diag_embed(A,-1) ;; m.diagflat(A,1) ;; m.trace(S) ;; m.gather(A,1,I.clamp(max=3)) ;; A.gather(0,IDX[None])
m.take_along_dim(A,A.argsort(1),1) ;; m.take_along_dim(A,IDX) ;; m.scatter(A,1,I[:,:2].clamp(max=3),B) ;; m.scatter(A,1,IDX[:,None],2.5)
m.scatter(A,0,IDX[None],value=1) ;; A.scatter(1,IDX[:,None],B,reduce='add') ;; A.scatter_add(1,I[:,:2].clamp(max=3),B)
A.scatter_reduce(1,I.clamp(max=3),B,'amax') ;; A.scatter_reduce(1,I.clamp(max=3),B,'mean')
A.scatter_reduce(1,I.clamp(max=3),B,'sum',include_self=False) ;; A.scatter_reduce(1,I.clamp(max=3),B,'prod',include_self=False)
A.scatter_reduce(1,I.clamp(max=3),B,'mean',include_self=False) ;; A.index_select(0,IDX[:2]) ;; A.index_select(1,IDX)
A.index_select(0,I) ;; A.index_add(0,IDX,B) ;; A.index_add(0,IDX,B,alpha=2) ;; A.index_copy(0,IDX,B) ;; A.index_fill(1,IDX[:2],-1)
m.index_put(A,(IDX,IDX),m.tensor(5.)) ;; A.index_put((IDX,IDX),m.tensor(5.),accumulate=True)
m.index_reduce(A,0,m.tensor([0,0,2]),B,'prod') ;; m.take(A,I) ;; A.put(IDX,V[:3]) ;; m.select_scatter(A,V[:4],0,1)
m.slice_scatter(A,B[:2],0,1) ;; m.masked_fill(A,M,0.0) ;; A.masked_fill(M,m.tensor(2.)) ;; A.masked_fill(~M,float('-inf'))
A.masked_fill(I,1) ;; m.masked_select(A,M) ;; A.masked_scatter(M,B) ;; m.nonzero(I) ;; m.nonzero(I,as_tuple=True)
m.nonzero(m.tensor(1)) ;; m.argwhere(M) ;; m.sort(A) ;; m.sort(A,0,True) ;; A.sort(dim=1,descending=True) ;; A.sort(stable=True)
A.argsort(1) ;; A.argsort(descending=True) ;; m.msort(A) ;; m.topk(A,2) ;; A.topk(2,0) ;; A.topk(2,largest=False) ;; A.topk(9)
m.unique(I) ;; m.unique(I,return_inverse=True,return_counts=True) ;; m.unique(I%2,dim=0) ;; m.unique(NAN)
m.unique_consecutive(m.tensor([1,1,2,2,1]),return_counts=True,return_inverse=True) ;; m.isin(I,m.tensor([1,2])) ;; m.bincount(IDX)
m.bincount(IDX,minlength=5) ;; m.bincount(IDX,V[:3]) ;; m.bincount(A) ;; m.searchsorted(V.sort()[0],A)
m.searchsorted(m.tensor([1,3,5]),m.tensor([0,3,6]),right=True) ;; m.bucketize(A,V.sort()[0]) ;; m.searchsorted(m.sort(A)[0],B) ;; A.item()
m.tensor(3).item() ;; m.tensor(2.5).item() ;; A.tolist() ;; A.size() ;; A.size(1) ;; A.size(-1) ;; A.size(5) ;; tuple(A.shape)
A.shape.numel() ;; A.dim() ;; A.ndim ;; A.numel() ;; A.nelement() ;; A.element_size() ;; A.is_floating_point() ;; I.is_floating_point()
A.is_contiguous() ;; A.T.is_contiguous() ;; A.stride() ;; A.T.stride() ;; T3.permute(2,0,1).stride() ;; T3[:,1].stride()
T3[:,1].storage_offset() ;; T3[:,1:,::2].stride() ;; T3[1,1:].storage_offset() ;; T3.permute(2,0,1)[1:].storage_offset()
A.expand(2,3,4).stride() ;; T3.diagonal(0,1,2).stride() ;; T3.mT.diagonal(0,1,2).stride() ;; T3.mT.unfold(1,2,1).stride()
T3.view(6,4).stride() ;; T3[:,:1].squeeze(1).stride() ;; A.t().contiguous().stride() ;; len(A) ;; len(m.tensor(1.))
[x.sum() for x in A] ;; list(V) ;; float(m.tensor(2.5)) ;; int(m.tensor(2.5)) ;; bool(m.tensor(0)) ;; bool(A) ;; bool(m.tensor([]))
range(m.tensor(3))[1] ;; [1,2,3][m.tensor(1)] ;; range(m.tensor(3.)) ;; 2.0 in m.tensor([1.,2.]) ;; f'{m.tensor(2.5):.3f}' ;; A.double()
A.half() ;; A.long() ;; A.int() ;; A.bool() ;; A.byte() ;; A.char() ;; A.short() ;; A.to(m.float64) ;; A.to('cpu')
A.to('cpu',m.float64) ;; A.to(I) ;; A.to(dtype=m.int32) ;; A.type_as(I) ;; A.type(m.float64) ;; I.float() ;; A.new_zeros(2,3)
A.new_zeros((2,3)) ;; I.new_ones(2) ;; A.new_full((2,2),3) ;; I.new_tensor([1.5,2]) ;; A.new_tensor([1,2]) ;; A.new_empty(2).shape
A.clone() ;; A.detach() ;; A.contiguous() ;; A.is_leaf ;; A.requires_grad ;; A.grad ;; A.requires_grad_().requires_grad
I.requires_grad_() ;; !A.add_(1); r=A ;; !A.add_(B,alpha=2); r=A ;; !A.sub_(1); r=A ;; !A.mul_(B); r=A ;; !A.div_(2); r=A
!I.div_(2); r=I ;; !I.add_(1.5); r=I ;; !A+=1; r=A ;; !A-=B; r=A ;; !A*=2; r=A ;; !A/=2; r=A ;; !I//=2; r=I ;; !A**=2; r=A ;; !M&=M; r=M
!A.add_(T3); r=A ;; !A.clamp_(0,1); r=A ;; !A.clamp_min_(0); r=A ;; !A.exp_(); r=A ;; !A.sqrt_(); r=A ;; !A.neg_(); r=A ;; !A.zero_(); r=A
!A.fill_(2); r=A ;; !A.fill_(m.tensor(2.)); r=A ;; !A.copy_(B); r=A ;; !A.copy_(I); r=A ;; !A.copy_(V[:4]); r=A
!A.masked_fill_(M,0); r=A ;; !A.relu_(); r=A ;; !A.sigmoid_(); r=A ;; !A.lerp_(B,0.5); r=A ;; !A.addcmul_(B,B,value=2); r=A
!A.addcdiv_(B,P,value=2); r=A ;; !A.pow_(2); r=A ;; !A.abs_(); r=A ;; !A.round_(); r=A ;; !A.t_(); r=A ;; !A.unsqueeze_(0); r=A
!A.unsqueeze_(0).squeeze_(0); r=A ;; !A.transpose_(0,1); r=A ;; !A.scatter_(1,IDX[:,None],1.0); r=A
!A.scatter_add_(0,IDX[None],B[:1]); r=A ;; !A.index_add_(0,IDX,B); r=A ;; !A.index_fill_(0,IDX[:1],3); r=A ;; !A.index_copy_(0,IDX,B); r=A
!A.index_put_((IDX,IDX),m.tensor(1.)); r=A ;; !A.cumsum_(0); r=A ;; !S.tril_(); r=S ;; !A.fill_diagonal_(3); r=A ;; !A.logical_not_(); r=A
!A.eq_(B); r=A ;; !A.floor_divide_(0.3); r=A ;; !A.remainder_(0.3); r=A ;; !A[0]=1; r=A ;; !A[:,1]+=5; r=A ;; !A.view(-1)[3]=9; r=A
!A.T[1]=7; r=A ;; !A.diagonal().fill_(3); r=A ;; !x=A[1]; x.mul_(2); r=A ;; !x=A.view(4,3); A.add_(1); r=x ;; !A.data=B; r=A
!A.data.mul_(2); r=A ;; !A.swapaxes_(0,1); r=A ;; !A.resize_(2,2); r=A ;; !A.set_(B); r=A ;; !m.add(A,B,out=A); r=A
!m.exp(A,out=B); r=B ;; !m.cat([A,B],out=(o:=m.empty(0))); r=o ;; !m.matmul(A,C,out=(o:=m.empty(3,5))); r=o ;; m.is_tensor(A)
m.is_floating_point(A) ;; m.is_complex(A) ;; m.numel(A) ;; m.clone(A) ;; m.detach(A) ;; m.select(A,0,1) ;; m.narrow(A,0,1,1) ;; m.t(A)
m.permute(T3,(2,1,0)) ;; m.squeeze(A[:1]) ;; m.unsqueeze(A,0) ;; m.reshape(A,(4,3)) ;; m.transpose(A,0,1) ;; m.is_same_size(A,B)
m.vdot(V,V) ;; m.cumulative_trapezoid(V) ;; m.rsub(A,B) ;; m.threshold(A,0.5,0) ;; m.selu(A) ;; m.celu(A) ;; m.prelu(A,m.tensor([0.1]))
m.exp('x') ;; m.add(A,'x') ;; A+'x' ;; A+[1] ;; m.sum('x') ;; m.copysign(A,B) ;; m.corrcoef(A) ;; m.unravel_index(m.tensor(5),(3,4))
m.index_select(A,0,IDX) ;; m.scatter_add(A,0,IDX[None],B[:1]) ;; m.bitwise_xor(I,J) ;; m.subtract(A,B) ;; m.multiply(A,B) ;; m.divide(A,B)
m.greater_equal(A,B) ;; m.less(A,B) ;; m.arcsin(U) ;; m.diagonal_scatter(A,V[:3]) ;; A.sum_to_size(3,1) ;; A.ge(0) ;; A.dot(B) ;; V.dot(V)
A.nonzero() ;; A.matmul(C) ;; A.mm(C) ;; T3.bmm(T3.mT) ;; A.isnan() ;; A.square() ;; A.argsort() ;; A.unique().shape ;; A.equal(A)
A.is_signed() ;; A.fmod(2) ;; A.diag() ;; A.logical_and(B) ;; A.std(0) ;; A.new_tensor(1) ;; V.cumsum(0) ;; m.squeeze(A)
m.multinomial(P,2).shape ;; A.ndimension() ;; A.t().is_contiguous() ;; A.get_device() ;; A.is_sparse ;; A.is_meta ;; A.mH ;; A.real
A.itemsize ;; A.nbytes ;; A.view(m.int32) ;; A.view(3,2,2) ;; A.index_fill(0,IDX,1.5) ;; A.expand(3,-1) ;; m.tensor([[1,2],[3,4]]).sum(0)
m.ones(2,3).mean(1) ;; m.softmax(A,-1).sum(-1)
""")

GRADIENTS = _split(r"""
A+B ;; A*B ;; A/P ;; A-B ;; A**2 ;; A**3 ;; P**0.5 ;; P**B ;; 2**A ;; A**-1 ;; A@C ;; m.exp(A) ;; m.log(P) ;; m.sqrt(P) ;; m.tanh(A)
m.sigmoid(A) ;; m.relu(A) ;; m.erf(A) ;; m.atan2(A,B) ;; m.hypot(A,B) ;; m.abs(A) ;; m.lerp(A,B,0.3) ;; m.lerp(A,B,U)
m.addcmul(A,B,P,value=.5) ;; m.addcdiv(A,B,P,value=.5) ;; m.clamp(A,-.5,.5) ;; m.clamp(A,B,P) ;; m.maximum(A,B) ;; m.minimum(A,B)
m.fmax(A,B) ;; m.where(A>0,A,B) ;; m.logaddexp(A,B) ;; m.logaddexp2(A,B) ;; m.xlogy(P,P) ;; m.nan_to_num(A) ;; m.logit(m.sigmoid(A))
m.sinc(A) ;; m.square(A) ;; m.copysign(A,B) ;; m.frac(A) ;; m.float_power(P,2) ;; m.remainder(A,P) ;; m.prelu(A,V[:4]) ;; m.selu(A)
m.celu(A,0.5) ;; m.threshold(A,.1,0.) ;; m.signbit(A)*A ;; A.sum() ;; A.sum(0) ;; A.mean((0,1)) ;; A.prod() ;; A.prod(1) ;; A.var()
A.std(1) ;; A.var(0,unbiased=False) ;; A.max() ;; A.max(1)[0] ;; A.min(0).values ;; A.amax(1) ;; A.amin() ;; A.softmax(1)
A.log_softmax(0) ;; A.logsumexp(1) ;; A.cumsum(1) ;; A.cumprod(0) ;; m.cummax(A,1)[0] ;; m.logcumsumexp(A,1) ;; m.diff(A)
m.trapezoid(A) ;; m.kthvalue(A,2)[0] ;; A.median() ;; A.median(1)[0] ;; m.quantile(A,0.3) ;; m.quantile(A,.3,dim=1) ;; m.nansum(A)
m.std_mean(A,1)[0] ;; m.cov(A) ;; m.corrcoef(A) ;; A.sum_to_size(3,1) ;; A.view(4,3) ;; A.T.reshape(12) ;; A.t()*C[:,:3]
T3.permute(2,0,1) ;; T3.flatten(1) ;; A[:1].squeeze()*V[:4] ;; A.expand(2,3,4) ;; A.narrow(1,1,2) ;; A.select(1,2) ;; A.split(2,1)[1]
A.chunk(2)[0] ;; A.diagonal() ;; T3.diagonal(1,1,2) ;; A.unfold(1,2,1) ;; T3.movedim(0,-1) ;; A.as_strided((2,2),(1,2)) ;; m.cat([A,B],1)
m.stack([A,B]) ;; m.hstack([A,B]) ;; A.repeat(2,3) ;; A.flip(1) ;; A.roll(1,1) ;; m.rot90(A) ;; m.meshgrid(V,V,indexing='ij')[0]
m.repeat_interleave(A,2,dim=1) ;; m.repeat_interleave(A,m.tensor([1,0,2]),dim=0) ;; m.block_diag(A,C) ;; m.tile(A,(2,)) ;; m.matmul(T3,C)
m.matmul(A,V[:4]) ;; m.matmul(T3,T3.mT) ;; m.bmm(T3,T3.mT) ;; m.dot(V,V) ;; m.outer(V,V) ;; m.addmm(m.ones(5).double(),A,C)
m.addmm(m.ones(5).double(),A,C,beta=0.5,alpha=2.) ;; m.baddbmm(m.ones(1,3,3).double(),T3,T3.mT) ;; m.einsum('bij,kj->bik',T3,A)
m.einsum('ii->i',S) ;; m.einsum('ij,jk,kl->il',A,C,C.T) ;; m.einsum('ij,ij->',A,B) ;; m.tensordot(A,C,1) ;; m.norm(A) ;; A.norm(dim=1)
A.norm(p=3) ;; A.norm(p=1) ;; A.norm(float('inf')) ;; m.cdist(A,B) ;; m.cdist(A,B,p=1) ;; m.cdist(m.cat([A]*9),m.cat([B]*9))
m.dist(A,B) ;; m.tril(S) ;; m.triu(A,1) ;; m.diag(V) ;; m.diag(A) ;; m.diag_embed(A) ;; m.trace(S) ;; m.kron(A,C)
m.cross(A[:,:3],B[:,:3],dim=1) ;; m.matrix_power(S,3) ;; m.norm(A-A) ;; m.gather(A,1,IX) ;; A.scatter_add(1,IX,B)
A.scatter_reduce(1,IX,B,'amax') ;; A.scatter_reduce(1,IX,B,'mean') ;; A.scatter_reduce(1,IX,B,'prod') ;; A.index_select(0,K)
A.index_add(0,K,B) ;; A.index_copy(0,K,B) ;; A.index_fill(1,K,2.) ;; A.index_put((K,K),V[:3]) ;; A.index_put((K,K),V[:3],accumulate=True)
m.take(A,IX) ;; A.put(K,V[:3]) ;; A.masked_fill(IX>1,0.) ;; A.masked_select(IX>1) ;; A.masked_scatter(IX>1,B) ;; A.sort(1)[0]
A.topk(2)[0] ;; m.take_along_dim(A,IX,1) ;; m.select_scatter(A,V[:4],0,1) ;; m.slice_scatter(A,B[:2],0,1) ;; m.diagonal_scatter(A,V[:3])
A[K] ;; A[1] ;; A[:,1:3] ;; A[IX>1] ;; A[K,K] ;; A[None,...,0] ;; A.double().float()*2 ;; A.clone() ;; A.to(m.float32)
A.contiguous().t().contiguous() ;; !X=A*1;X.add_(1);X.mul_(B);r=X ;; !X=A*1;X[1]=B[0];r=X ;; !X=A*1;X[:,1].mul_(2);r=X*X
!X=A*1;X.view(-1)[3:7]=V[:4];r=X.exp() ;; !X=A*1;Y=X.T;Y[1]*=3;r=X*B ;; !X=A*1;Y=X[1:];X.mul_(2);r=Y.sum()+X.sum()
!X=A*1;X.diagonal().copy_(V[:3]);r=X*X ;; !X=A*1;X.masked_fill_(IX>1,2.);r=X*X ;; !X=A*1;X.transpose_(0,1);X.mul_(2);r=X*X
!X=A*1;X.unsqueeze_(0);r=X*X ;; !X=A*1;X.fill_(2.);r=X*A ;; !X=A*1;X.clamp_(-.1,.1);r=X ;; !X=A*1;Y=X.expand(2,3,4);X.add_(1);r=Y*Y
!X=A*1;X[K]=B;r=X ;; !X=A*1;X.index_add_(0,K,B);r=X*X ;; !X=A*1;X.detach().add_(5);r=X*2
""")
