"""One sample of PyTorch's OpInfo database run by both libraries, and what differs. For tests marked `pytest.mark.oracle` only."""
from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import opinfo_adapter as adapter
import torch
from opinfo_adapter import Untranslatable, fresh, ours, theirs

import treadle

# The position of `dim` among the arguments of functions whose last result is indices.
TIED = {"sort": 1, "argsort": 1, "topk": 2, "kthvalue": 2, "mode": 1, "median": 1, "nanmedian": 1}
Problem = tuple[str, str]  # category, what differs


def describe(x: Any) -> str:
    """A sample in short."""
    if isinstance(x, torch.Tensor):
        strides = f"/{x.layout}" if x.layout is not torch.strided else "" if x.is_contiguous() else f"/{x.stride()}"
        return f"{str(x.dtype)[6:]}{list(x.shape)}{strides}{'g' if x.requires_grad else ''}"
    if isinstance(x, list | tuple):
        return f"({', '.join(map(describe, x))})"
    return ", ".join(f"{k}={describe(v)}" for k, v in x.items()) if isinstance(x, dict) else str(x)


def tensors(x: Any) -> Iterator[Any]:
    if isinstance(x, torch.Tensor | treadle.Tensor):
        yield x
    elif isinstance(x, list | tuple):
        for y in x:
            yield from tensors(y)
    elif isinstance(x, dict):
        yield from tensors(list(x.values()))


def inexact(dtype: torch.dtype) -> bool:
    return dtype.is_floating_point or dtype.is_complex


def wide_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype.is_floating_point else torch.complex128 if dtype.is_complex else dtype


def widened(x: Any) -> Any:
    """Floating tensors in float64, complex ones in complex128."""
    if isinstance(x, torch.Tensor):
        return x.detach().to(wide_dtype(x.dtype))
    if isinstance(x, list | tuple) and not hasattr(x, "_fields"):
        return type(x)([widened(y) for y in x])
    if isinstance(x, dict):
        return {key: widened(value) for key, value in x.items()}
    return wide_dtype(x) if isinstance(x, torch.dtype) else x


def mismatch(got: Any, want: Any, exact: Callable[[], Any] | None = None) -> Problem | None:
    """What differs between results; `exact` computes them in float64: being as near to those as PyTorch is will do."""
    try:
        torch.testing.assert_close(got, want, equal_nan=True)
        return None
    except (AssertionError, TypeError, ValueError) as error:
        text = " ".join(str(error).split())[:400]
    shapes = [[tuple(t.shape) for t in tensors(x)] for x in (got, want)]
    if shapes[0] != shapes[1]:
        return "shape", f"{shapes[0]} instead of {shapes[1]}"
    kinds = [[t.dtype for t in tensors(x)] for x in (got, want)]
    if kinds[0] != kinds[1]:
        return "dtype", f"{kinds[0]} instead of {kinds[1]}"
    if exact is not None and any(inexact(t.dtype) for t in tensors(want)):
        try:
            truth = list(tensors(exact()))
        except Exception:  # not in float64: the first comparison stands
            return "value", text
        if len(truth) == len(kinds[0]) and all(map(_as_near, tensors(got), tensors(want), truth)):
            return None
    return "value", text


def _as_near(got: torch.Tensor, want: torch.Tensor, truth: torch.Tensor) -> bool:
    if not inexact(want.dtype):
        return torch.equal(got, want)
    if not inexact(truth.dtype) or truth.shape != got.shape:
        return False
    if want.dtype.is_complex:
        return _as_near(*[torch.view_as_real(x.detach().resolve_conj()) for x in (got, want, truth.to(torch.complex128))])
    g, w, t = (x.detach().double() for x in (got, want, truth))
    finite = w.isfinite()
    if not torch.equal(finite, g.isfinite()) or not torch.equal(g[~finite].nan_to_num(), w[~finite].nan_to_num()):
        return False
    g, w, t = g[finite], w[finite], t[finite]
    if not g.numel():
        return True
    unit = torch.finfo(want.dtype).eps
    allowed = 2 * (w - t).abs().max() + 4 * unit * t.abs().max()
    return bool(((g - t).abs() <= allowed).all())


def error_text(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:150]}"


class Case:
    """One sample of one op: PyTorch's function and ours, and PyTorch's arguments."""

    def __init__(self, op: Any, sample: Any, seed: int = 0) -> None:
        self.op, self.sample, self.seed = op, sample, seed
        self.args = (sample.input, *sample.args)
        self.kwargs = sample.kwargs
        self.ours = adapter.function(op.op, op.name)

    def run_theirs(self, f: Callable[..., Any], change: Callable[[Any], Any] = fresh, **more: Any) -> Any:
        return f(*change(self.args), **change(self.kwargs), **more)

    def run_ours(self, f: Callable[..., Any], **more: Any) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
        args, kwargs = ours(self.args), ours(self.kwargs)
        return f(*args, **kwargs, **more), args, kwargs

    # -- the checks -------------------------------------------------------------------------------------------------------------
    def forward(self, f: Any, mine: Any, label: str, sightings: int, values: bool, memory: bool = True) -> Iterator[Problem]:
        """Values, dtypes and shapes, several times over; aliasing, and strides of what is shared."""
        args, kwargs = fresh(self.args), fresh(self.kwargs)
        process = self.sample.output_process_fn_grad  # signs of eigenvectors and the like are nobody's promise
        want = f(*args, **kwargs)
        try:
            shown = process(want)
        except NotImplementedError:  # PyTorch makes it, but cannot look at it
            return
        for turn in range(sightings):
            try:
                got, own_args, own_kwargs = self.run_ours(mine)
                seen = theirs(got)
            except Untranslatable:
                return
            except Exception as error:
                yield label, error_text(error)
                return
            problem = self.differs(process(tuple(seen) if isinstance(want, tuple) else seen), shown, f, values)
            if problem is not None:
                yield label if turn == 0 else "compiled", f"{problem[0]}: {problem[1]}"
                return
            if turn == 0 and memory:
                yield from sharing(want, (args, kwargs), got, (own_args, own_kwargs))

    def differs(self, seen: Any, want: Any, f: Any, values: bool) -> Problem | None:
        if isinstance(want, torch.dtype):
            want = str(want).removeprefix("torch.")
        seen, want = (list(x) if isinstance(x, tuple) else x for x in (seen, want))
        if isinstance(want, torch.Size):
            want, seen = list(want), list(seen)
        seen, want = self.pointed_at(seen), self.pointed_at(want)
        if not values:
            seen, want = ([torch.zeros_like(t) for t in tensors(x)] for x in (seen, want))
        return mismatch(seen, want, lambda: self.run_theirs(f, widened))

    def pointed_at(self, results: Any) -> Any:
        """The results with what indices point at in their place, where PyTorch leaves open which of equal elements they choose."""
        position = TIED.get(self.op.name)
        parts = results if isinstance(results, list) else [results]
        if position is None or self.kwargs.get("stable") or not self.args[0].dim() or (len(parts) < 2 and self.op.name != "argsort"):
            return results
        dim = self.kwargs.get("dim", self.args[position] if len(self.args) > position else -1)
        kept = parts[-1].dim() == self.args[0].dim()
        index = parts[-1] if kept else parts[-1].unsqueeze(dim)
        if (index.sort(dim).values.diff(dim=dim) == 0).any():  # not a choice of different ones
            return results
        taken = self.args[0].detach().gather(dim, index)
        return [*parts[:-1], taken if kept else taken.squeeze(dim)]

    def gradient(self, process: Callable[[Any], Any], mine_process: Callable[[Any], Any], sightings: int = 2) -> Iterator[Problem]:
        """Gradients of a random projection of the results, several times over."""
        try:
            want, wanted = self.their_gradient(self.op.op, process, fresh)
        except RuntimeError:  # PyTorch cannot differentiate it
            return
        if want is None:
            return
        try:
            for turn in range(sightings):
                out, args, kwargs = self.run_ours(self.ours)
                out = mine_process(out)
                leaves = [t for t in tensors((args, kwargs)) if t.requires_grad]
                outs = [t for t, r in zip(tensors(out), wanted, strict=True) if r]
                for t in outs:
                    if not t.requires_grad:
                        yield "grad", "the result does not require grad"
                        return
                weights = [ours(w) for w in self.weights(out, wanted)]
                found = treadle.autograd.grad(outs, leaves, weights, allow_unused=True)
                got = [None if g is None else theirs(g) for g in found]
                problem = self.gradients_differ(got, want, process)
                if problem is not None:
                    yield "grad" if turn == 0 else "compiled", f"{'' if turn == 0 else 'gradient '}{problem[0]}: {problem[1]}"
                    return
        except Untranslatable:
            return
        except Exception as error:
            yield "grad", error_text(error)

    def gradients_differ(self, got: list[Any], want: list[Any], process: Callable[[Any], Any]) -> Problem | None:
        got = [torch.zeros_like(w) if g is None and w is not None and not w.any() else g for g, w in zip(got, want, strict=True)]
        want = [torch.zeros_like(g) if w is None and g is not None and not g.any() else w for g, w in zip(got, want, strict=True)]

        def exact() -> Any:
            def wide(x: Any) -> Any:
                if isinstance(x, torch.Tensor) and x.requires_grad:
                    return x.detach().to(wide_dtype(x.dtype)).requires_grad_()
                return type(x)([wide(y) for y in x]) if isinstance(x, list | tuple) else (
                    {k: wide(v) for k, v in x.items()} if isinstance(x, dict) else widened(x))
            return [g for g in self.their_gradient(self.op.op, process, wide)[0] if g is not None]
        if [g is None for g in got] != [w is None for w in want]:
            return "None", f"{[g is not None for g in got]} instead of {[w is not None for w in want]}"
        return mismatch([g for g in got if g is not None], [w for w in want if w is not None], exact)

    def weights(self, out: Any, wanted: list[bool]) -> list[torch.Tensor]:
        rng = np.random.default_rng(self.seed)
        found = []
        for t, r in zip(tensors(out), wanted, strict=True):
            if r:
                dtype = t.dtype if isinstance(t, torch.Tensor) else getattr(torch, str(t.dtype).split(".")[1])
                found.append(torch.from_numpy(np.asarray(rng.standard_normal(tuple(t.shape)))).to(dtype))
        return found

    def their_gradient(self, f: Any, process: Callable[[Any], Any], change: Callable[[Any], Any]) -> tuple[Any, list[bool]]:
        args, kwargs = change(self.args), change(self.kwargs)
        leaves = [t for t in tensors((args, kwargs)) if t.requires_grad]
        out = process(f(*args, **kwargs))
        wanted = [t.requires_grad for t in tensors(out)]
        if not any(wanted):
            return None, wanted
        outs = [t for t in tensors(out) if t.requires_grad]
        return list(torch.autograd.grad(outs, leaves, self.weights(out, wanted), allow_unused=True)), wanted

    def refusal(self, error: Exception) -> Iterator[Problem]:
        """PyTorch raised `error` for these arguments: so must we, of the same type or one nearby."""
        try:
            theirs(self.run_ours(self.ours)[0])
        except Untranslatable:
            return
        except Exception as raised:
            same_name = type(raised).__name__.strip("_") == type(error).__name__.strip("_")
            if not (isinstance(raised, type(error)) or isinstance(error, type(raised)) or same_name):
                yield "refused", f"{error_text(raised)} instead of {error_text(error)}"
            return
        yield "refused", f"no error instead of {error_text(error)}"

    def in_place(self, f: Any, mine: Any, values: bool) -> Iterator[Problem]:
        """The in-place form: what it leaves in its input, or the exception it raises."""
        def plain(x: Any) -> Any:
            x = fresh(x)
            for t in tensors(x):
                t.requires_grad_(False)
            return x
        args, kwargs = plain(self.args), plain(self.kwargs)
        want = error = None
        try:
            own_args, own_kwargs = ours(args), ours(kwargs)
        except Untranslatable:
            return
        try:
            f(*args, **kwargs)
            want = args[0]
        except Exception as raised:
            error = raised
        try:
            result = mine(*own_args, **own_kwargs)
            seen = theirs(own_args[0])
        except Exception as raised:
            if error is None or not isinstance(raised, type(error)):
                yield "in-place", error_text(raised) + ("" if error is None else f" instead of {error_text(error)}")
            return
        if error is not None:
            yield "in-place", f"no error instead of {error_text(error)}"
            return
        if isinstance(result, treadle.Tensor) and result is not own_args[0]:
            yield "in-place", "does not return its input"
        problem = self.differs(seen, want, self.op.op, values)
        if problem is not None:
            yield "in-place", f"{problem[0]}: {problem[1]}"

    def out(self, values: bool) -> Iterator[Problem]:
        """`out=`: an empty tensor takes shape and values, one of the right shape is written through, another dtype casts or refuses."""
        want = self.run_theirs(self.op.op, lambda x: _untracked(fresh(x)))
        if not isinstance(want, torch.Tensor) and not (isinstance(want, list | tuple) and all(isinstance(w, torch.Tensor) for w in want)):
            return
        process = self.sample.output_process_fn_grad
        for make in (torch.empty_like, lambda t: t.new_empty(0), _holed):
            destination = make(want) if isinstance(want, torch.Tensor) else [make(w) for w in want]
            try:
                target = ours(destination)
                target = tuple(target) if isinstance(target, list) else target
                sample = Case.__new__(Case)
                sample.args, sample.kwargs = _untracked(fresh(self.args)), _untracked(fresh(self.kwargs))
                result = sample.run_ours(self.ours, out=target)[0]
                seen = theirs(target)
            except Untranslatable:
                return
            except Exception as error:
                yield "out", error_text(error)
                return
            if any(a is not b for a, b in itertools.zip_longest(tensors(result), tensors(target))):
                yield "out", "does not return the tensors given"
                return
            problem = self.differs(process(tuple(seen) if isinstance(want, tuple) else seen), process(want), self.op.op, values)
            if problem is not None:
                yield "out", f"{problem[0]}: {problem[1]}"
                return


def _untracked(x: Any) -> Any:
    for t in tensors(x):
        t.requires_grad_(False)
    return x


def _holed(t: torch.Tensor) -> torch.Tensor:
    """Every second element of a longer storage."""
    if not t.dim():
        return torch.zeros(2, dtype=t.dtype)[1]
    return torch.zeros(*t.shape[:-1], t.shape[-1] * 2, dtype=t.dtype)[..., ::2]


def sharing(want: Any, given: Any, got: Any, own: Any) -> Iterator[Problem]:
    """Whether results share memory with arguments, and the strides of those that do."""
    places = {t.untyped_storage().data_ptr() for t in tensors(given) if t.numel()}
    storages = {id(t._storage) for t in tensors(own) if t._storage is not None}
    inputs = {id(t) for t in tensors(own)}
    for w, g in zip(tensors(want), tensors(got), strict=False):
        if not w.numel() or w.layout is not torch.strided:
            continue
        theirs_shares = w.untyped_storage().data_ptr() in places
        ours_shares = id(g) in inputs or (g._storage is not None and id(g._storage) in storages)
        if theirs_shares != ours_shares:
            yield "alias", f"{'shares' if ours_shares else 'does not share'} memory with an argument"
            return
        if theirs_shares and any(n > 1 and a != b for n, a, b in zip(w.shape, g.stride(), w.stride(), strict=True)):
            yield "strides", f"{g.stride()} instead of {w.stride()}"
            return


def error_problem(op: Any, sample: Any) -> str | None:
    """What differs when a sample must raise, as it does in this PyTorch: nothing raised, or another type of exception."""
    f = adapter.function(op.op, op.name)
    s = sample.sample_input
    try:
        args, kwargs = ours((s.input, *s.args)), ours(s.kwargs)
    except Untranslatable:
        return None
    if "out" in kwargs:  # which may be in the memory of other arguments
        storages: dict[int, Any] = {}

        def shared(given: Any, own: Any) -> Any:
            if isinstance(given, tuple | list) and all(isinstance(t, torch.Tensor) for t in given):
                return tuple([adapter.sharing(t, storages) for t in given])
            return adapter.sharing(given, storages) if isinstance(given, torch.Tensor) else own
        args = tuple([shared(given, own) for given, own in zip((s.input, *s.args), args, strict=True)])
        kwargs["out"] = shared(s.kwargs["out"], None)
    try:
        result = f(*args, **kwargs)
        for t in tensors(result):
            theirs(t)
    except sample.error_type:
        return None
    except Exception as error:
        return f"{error_text(error)} instead of {sample.error_type.__name__}: {sample.error_regex[:80]}"
    try:
        args, kwargs = copy.deepcopy(((s.input, *s.args), s.kwargs))
        op.op(*args, **kwargs)
    except Exception:
        return f"no error instead of {sample.error_type.__name__}: {sample.error_regex[:80]}"
    return None
