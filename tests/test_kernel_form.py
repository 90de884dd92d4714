"""Kernels have a canonical form: programs that are equal but for how they are written share machine code."""
from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from kernel_fuzz import RandomKernel
from test_lower_fuzz import random_program

import treadle
import treadle.nn.functional as F
from treadle.ir.kernel import Kernel
from treadle.passes.kernel_form import canonical, commutative
from treadle.passes.pipeline import compile_to_program

Tensor = treadle.Tensor


def softmax(x: Tensor) -> Tensor:
    e = treadle.exp(x - x.max(1, keepdim=True)[0])
    return e / e.sum(dim=1, keepdim=True)


PAIRS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "operands": (lambda x, y, z: x * 2 + y, lambda x, y, z: y + 2 * x),
    "three terms": (lambda x, y, z: (x + y) + z, lambda x, y, z: z + (y + x)),
    "the same operand twice": (lambda x, y, z: (x + y) * y * z, lambda x, y, z: z * (x * (y + x))),
    "not commutative": (lambda x, y, z: (x - y) * x, lambda x, y, z: y * (y - z)),
    "conditions": (lambda x, y, z: treadle.where((x > 0) & (y != z), x, y), lambda x, y, z: treadle.where((z != y) & (x > 0), x, y)),
    "results": (lambda x, y, z: (x + y, x * y, z.exp()), lambda x, y, z: (z.exp(), y * x, y + x)),
    "softmax": (lambda x, y, z: softmax(x), lambda x, y, z: F.softmax(z, 1)),
    "a loss": (lambda x, y, z: F.mse_loss(x, y), lambda x, y, z: ((z - y) * (z - y)).mean()),
    "layouts": (lambda x, y, z: x.t() + y.t(), lambda x, y, z: (z + y).t().contiguous()),
    "twice the same": (lambda x, y, z: (x * y).exp() + (y * x).exp(), lambda x, y, z: treadle.add(*[(y * z).exp()] * 2)),
}


@pytest.mark.parametrize("name", PAIRS)
def test_differently_written_programs_share_kernels(name: str) -> None:
    inputs = [treadle.randn(5, 7) for _ in range(3)]
    first, second = (treadle.inspect(f, *inputs).kernels for f in PAIRS[name])
    assert {text.replace(f"@{k}(", "@k(") for k, text in first.items()} == {text.replace(f"@{k}(", "@k(") for k, text in second.items()}


def test_equal_programs_compile_once() -> None:
    x, y = treadle.tensor([1.0, 2.0, 3.0]), treadle.tensor([4.0, 5.0, 6.0])

    def run(function: Callable[..., Any]) -> Any:
        compiled = treadle.compile(function)
        return [compiled(x, y).tolist() for _ in range(3)][-1]
    first = run(lambda x, y: (x * 3 + y).tanh() / 7 - x)
    before = treadle.stats()["kernels"]
    assert run(lambda x, y: (y + 3 * x).tanh() / 7 - x) == first
    assert treadle.stats()["kernels"] == before


def test_different_programs_stay_apart() -> None:
    x, y = treadle.randn(5, 7), treadle.randn(5, 7)
    texts = [str(treadle.inspect(f, x, y).kernels) for f in (
        lambda x, y: (x - y) * x, lambda x, y: (x - y) * y, lambda x, y: (x - y) / x, lambda x, y: x / (x - y), lambda x, y: x + y * x,
        lambda x, y: treadle.maximum(x, y * 2), lambda x, y: treadle.maximum(x * 2, y), lambda x, y: (x + y).sum(1) + 0.5)]
    assert len(set(texts)) == len(texts)


def shuffled(r: random.Random, kernel: Kernel) -> Kernel:
    """The same kernel, written by somebody else."""
    def order(count: int) -> dict[int, int]:
        return dict(zip(range(count), r.sample(range(count), count), strict=True))
    access, scalar, slot = order(len(kernel.accesses)), order(len(kernel.scalars)), order(kernel.slots)
    number: dict[int, int] = {}
    body = []
    waiting = list(range(len(kernel.body)))
    while waiting:
        i = r.choice([i for i in waiting if all(o in number for o in kernel.body[i].operands)])
        waiting.remove(i)
        instr = kernel.body[i]
        operands = [number[o] for o in instr.operands]
        if instr.opcode in commutative():
            r.shuffle(operands)
        params = instr.params
        if instr.opcode.startswith("load"):
            params = (access[params[0]], *[slot[s] for s in params[1:]])
        elif instr.opcode in ("scalar", "slot"):
            params = ((scalar if instr.opcode == "scalar" else slot)[params[0]],)
        number[i] = len(body)
        body.append(instr._replace(operands=tuple(operands), params=params))
    stores = [(access[a], number[v]) for a, v in kernel.stores]
    r.shuffle(stores)
    return kernel._replace(accesses=tuple([kernel.accesses[a] for a in sorted(access, key=access.__getitem__)]),
                           scalars=tuple([kernel.scalars[s] for s in sorted(scalar, key=scalar.__getitem__)]),
                           body=tuple(body), stores=tuple(stores))


def kernels() -> list[Kernel]:
    found = [RandomKernel(seed).build() for seed in range(150)]
    return found + [k for seed in range(4000, 4060) for k in compile_to_program(random_program(seed)[0]).kernels()]


def test_the_order_of_writing_does_not_matter() -> None:
    r = random.Random(0)
    for kernel in kernels():
        expected = canonical(kernel).kernel
        for _ in range(3):
            assert canonical(shuffled(r, kernel)).kernel == expected


def test_a_canonical_kernel_stays_as_it_is() -> None:
    for kernel in kernels():
        form = canonical(kernel).kernel
        again = canonical(form)
        assert again.kernel == form and list(again.accesses) == sorted(again.accesses) and list(again.slots) == sorted(again.slots)


def test_a_product_and_its_mirror_image_are_computed_once() -> None:
    x, y = treadle.randn(4, 4), treadle.randn(4, 4)
    text = treadle.inspect(lambda x, y: (x + y) * (y + x), x, y).kernels["k0"]
    assert text.count("= add") == 1
