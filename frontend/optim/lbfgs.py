"""LBFGS: limited-memory BFGS, with steps of fixed length or found by a line search."""
from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import treadle
from treadle.optim.optimizer import Optimizer, check_at_least_zero
from treadle.tensor import Tensor

DECREASE, CURVATURE = 1e-4, 0.9  # the two constants of the strong Wolfe conditions
NARROWEST = 1e-9  # change of a parameter below which a search ends


def _reals(x: Tensor) -> Tensor:
    return treadle.view_as_real(x) if x.is_complex() else x


class Point(NamedTuple):
    """What is known at length `t` along the direction of a line search."""

    t: float
    loss: float
    gradient: Tensor
    slope: float


def cubic_minimum(p: Point, q: Point, lower: float, upper: float) -> float:
    """Where the cubic through the losses and slopes of two points is least, within bounds (Nocedal and Wright, equation 3.59)."""
    p, q = (p, q) if p.t <= q.t else (q, p)
    if p.t == q.t:
        return (lower + upper) / 2
    a = p.slope + q.slope - 3 * (p.loss - q.loss) / (p.t - q.t)
    square = a * a - p.slope * q.slope
    if not square >= 0:
        return (lower + upper) / 2
    root = math.sqrt(square)
    below = q.slope - p.slope + 2 * root
    found = q.t - (q.t - p.t) * ((q.slope + root - a) / below) if below else math.nan
    return min(max(found, lower), upper) if found == found else (lower + upper) / 2


class LineSearch:
    """A length at which the strong Wolfe conditions hold: bracketing, then zooming, both by cubic interpolation.

    Nocedal and Wright, Numerical Optimization, algorithms 3.5 and 3.6; `at(t)` evaluates, `width` is the largest entry of the direction,
    `most` the number of tries after the first.
    """

    def __init__(self, at: Callable[[float], Point], start: Point, width: float, most: int) -> None:
        self.at, self.start, self.width, self.most = at, start, width, most
        self.evaluations = 0

    def run(self, t: float) -> Point:
        """The best point found, the length `t` being tried first."""
        found, bracket = self._bracket(t)
        return found if bracket is None else self._zoom(*bracket)

    def _evaluate(self, t: float) -> Point:
        self.evaluations += 1
        return self.at(t)

    def _too_high(self, p: Point) -> bool:
        return not p.loss <= self.start.loss + DECREASE * p.t * self.start.slope

    def _flat(self, p: Point) -> bool:
        return abs(p.slope) <= -CURVATURE * self.start.slope

    def _bracket(self, t: float) -> tuple[Point, tuple[Point, Point] | None]:
        """A good point, or two with a good one between them."""
        before, new = self.start, self._evaluate(t)
        for count in range(self.most):
            if self._too_high(new) or (count > 1 and new.loss >= before.loss):
                return new, (before, new)
            if self._flat(new):
                return new, None
            if new.slope >= 0:
                return new, (before, new)
            t = cubic_minimum(before, new, new.t + 0.01 * (new.t - before.t), new.t * 10)
            before, new = new, self._evaluate(t)
        return (new if new.loss < self.start.loss else self.start), None

    def _zoom(self, p: Point, q: Point) -> Point:
        """A point between two that fulfils the conditions, or the better end of what is left."""
        low, high = (p, q) if p.loss <= q.loss else (q, p)
        stalled = False
        while self.evaluations <= self.most and abs(high.t - low.t) * self.width >= NARROWEST:
            t, stalled = self._within(low, high, stalled)
            new = self._evaluate(t)
            if self._too_high(new) or new.loss >= low.loss:
                high = new
                low, high = (low, high) if low.loss <= high.loss else (high, low)
                continue
            if self._flat(new):
                return new
            if new.slope * (high.t - low.t) >= 0:
                high = low
            low = new
        return low

    @staticmethod
    def _within(low: Point, high: Point, stalled: bool) -> tuple[float, bool]:
        """The next length, and whether it is close to an end: a second such one in turn is moved a tenth of the way off."""
        least, most = sorted((low.t, high.t))
        t = cubic_minimum(low, high, least, most)
        margin = 0.1 * (most - least)
        if min(most - t, t - least) >= margin:
            return t, False
        if not stalled and least < t < most:
            return t, True
        return (most - margin if abs(t - most) < abs(t - least) else least + margin), False


class LBFGS(Optimizer):
    """Limited-memory BFGS with the two-loop recursion (Nocedal and Wright, algorithm 7.4); fixed steps or a strong Wolfe search.

    One group of parameters; `step(closure)` calls the closure several times. It looks at values.
    """

    def __init__(self, params: Any, lr: float | Tensor = 1, max_iter: int = 20, max_eval: int | None = None, tolerance_grad: float = 1e-7,
                 tolerance_change: float = 1e-9, history_size: int = 100, line_search_fn: str | None = None) -> None:
        check_at_least_zero(lr=("learning rate", lr))
        if line_search_fn not in (None, "strong_wolfe"):
            raise RuntimeError("only 'strong_wolfe' is supported")
        super().__init__(params, {
            "lr": lr, "max_iter": max_iter, "max_eval": max_iter * 5 // 4 if max_eval is None else max_eval,
            "tolerance_grad": tolerance_grad, "tolerance_change": tolerance_change, "history_size": history_size,
            "line_search_fn": line_search_fn})
        if len(self.param_groups) != 1:
            raise ValueError("LBFGS doesn't support per-parameter options (parameter groups)")
        self._params: list[Tensor] = self.param_groups[0]["params"]

    def _gradient(self) -> Tensor:
        found = [treadle.zeros_like(p) if p.grad is None else p.grad for p in self._params]
        return treadle.cat([_reals(g.to_dense() if g.is_sparse else g).reshape(-1) for g in found])

    def _move(self, direction: Tensor, t: float) -> None:
        offset = 0
        for p in map(_reals, self._params):
            p.copy_(p + direction[offset:offset + p.numel()].reshape(p.shape) * t)
            offset += p.numel()

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Up to `max_iter` iterations; returns the loss at the start."""
        if closure is None:
            raise RuntimeError("LBFGS needs a closure that computes the loss and its gradients")

        def evaluate() -> float:
            with treadle.enable_grad():
                return float(closure())
        with treadle.enable_grad():
            first = closure()
        with treadle.no_grad():
            self._iterate(evaluate, float(first))
        return first

    def _iterate(self, evaluate: Callable[[], float], loss: float) -> None:
        group, state = self.param_groups[0], self.state[self._params[0]]
        state.setdefault("func_evals", 0)
        state.setdefault("n_iter", 0)
        state["func_evals"] += 1
        evaluations, rate = 1, float(group["lr"])
        gradient = self._gradient()
        if gradient.abs().max().item() <= group["tolerance_grad"]:
            return
        for count in range(1, group["max_iter"] + 1):
            state["n_iter"] += 1
            direction = self._direction(state, gradient, group)
            slope = gradient.dot(direction).item()
            state["prev_flat_grad"] = gradient
            t = min(1.0, 1.0 / gradient.abs().sum().item()) * rate if state["n_iter"] == 1 else rate
            state.update(d=direction, t=t)
            if slope > -group["tolerance_change"]:
                break
            before, used = loss, 0
            if group["line_search_fn"]:
                found, used = self._search(evaluate, direction, t, Point(0.0, loss, gradient, slope), group["max_eval"] - evaluations)
                loss, gradient, t = found.loss, found.gradient, found.t
            self._move(direction, t)
            if not group["line_search_fn"] and count != group["max_iter"]:
                loss, used = evaluate(), 1
                gradient = self._gradient()
            state["t"] = t
            evaluations += used
            state["func_evals"] += used
            if (evaluations >= group["max_eval"] or gradient.abs().max().item() <= group["tolerance_grad"]
                    or (direction * t).abs().max().item() <= group["tolerance_change"] or abs(loss - before) < group["tolerance_change"]):
                break

    def _direction(self, state: dict[str, Any], gradient: Tensor, group: dict[str, Any]) -> Tensor:
        """-H @ gradient, H the inverse Hessian known from the last steps."""
        if state["n_iter"] == 1:
            state.update(old_dirs=[], old_stps=[], ro=[], H_diag=1.0)
            return -gradient
        y, s = gradient - state["prev_flat_grad"], state["d"] * state["t"]
        curvature = y.dot(s).item()
        if curvature > 1e-10:
            if len(state["old_dirs"]) == group["history_size"]:
                for name in ("old_dirs", "old_stps", "ro"):
                    state[name].pop(0)
            state["old_dirs"].append(y)
            state["old_stps"].append(s)
            state["ro"].append(1.0 / curvature)
            state["H_diag"] = curvature / y.dot(y).item()
        q, weights = -gradient, []
        for y, s, ro in zip(reversed(state["old_dirs"]), reversed(state["old_stps"]), reversed(state["ro"]), strict=True):
            weights.append(s.dot(q) * ro)
            q = q - y * weights[-1]
        r = q * state["H_diag"]
        for y, s, ro in zip(state["old_dirs"], state["old_stps"], state["ro"], strict=True):
            r = r + s * (weights.pop() - y.dot(r) * ro)
        return r

    def _search(self, evaluate: Callable[[], float], d: Tensor, t: float, start: Point, most: int) -> tuple[Point, int]:
        """(point found, evaluations); the parameters are where they were."""
        saved = [p.clone() for p in self._params]

        def at(t: float) -> Point:
            self._move(d, t)
            loss, gradient = evaluate(), self._gradient()
            for p, x in zip(self._params, saved, strict=True):
                p.copy_(x)
            return Point(t, loss, gradient, gradient.dot(d).item())

        search = LineSearch(at, start, d.abs().max().item(), most)
        return search.run(t), search.evaluations
