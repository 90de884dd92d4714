"""What threads of a GPU do together, as LLVM IR: who am I, barriers, shuffles, merging of accumulators."""
from __future__ import annotations

from collections.abc import Callable

from treadle.codegen import reductions
from treadle.codegen.llvm_text import Function, Val, const, scalar_bits
from treadle.codegen.reductions import Fold

FULL_WARP = const("i32", -1)
SHARED = "ptr addrspace(3)"


def register(f: Function, name: str) -> Val:
    """A special register (`tid.x`, `nctaid.y`, ...) as i64."""
    return f.cast("zext", f.call(f"llvm.nvvm.read.ptx.sreg.{name}", "i32"), "i64")


def global_pointer(f: Function, pointer: Val) -> Val:
    """The same address, known to lie in global memory."""
    there = f.op(f"addrspacecast {pointer} to ptr addrspace(1)", "ptr addrspace(1)")
    return f.op(f"addrspacecast {there} to ptr", "ptr")


def barrier(f: Function) -> None:
    """All threads of the block meet; what each wrote before is seen by all."""
    f.module.declare("llvm.nvvm.barrier.cta.sync.aligned.all", "void (i32)")
    f.line("call void @llvm.nvvm.barrier.cta.sync.aligned.all(i32 0)")


def warp_barrier(f: Function) -> None:
    """As `barrier`, for the 32 threads of a warp."""
    f.call_void("llvm.nvvm.bar.warp.sync", FULL_WARP)


def shuffle(f: Function, value: Val, kind: str, distance: Val, clamp: int = 31) -> Val:
    """`value` of another lane of the warp: `bfly` (lane xor distance), `up` (lane - distance), `idx` (lane number)."""
    bits = scalar_bits(value.ty)
    if bits == 64:
        raw = value if value.ty == "i64" else f.cast("bitcast", value, "i64")
        low, high = f.cast("trunc", raw, "i32"), f.cast("trunc", f.binary("lshr", raw, const("i64", 32)), "i32")
        low, high = (f.cast("zext", _shuffle32(f, part, kind, distance, clamp), "i64") for part in (low, high))
        raw = f.binary("or", f.binary("shl", high, const("i64", 32)), low)
        return raw if value.ty == "i64" else f.cast("bitcast", raw, value.ty)
    if bits == 32:
        raw = value if value.ty == "i32" else f.cast("bitcast", value, "i32")
        raw = _shuffle32(f, raw, kind, distance, clamp)
        return raw if value.ty == "i32" else f.cast("bitcast", raw, value.ty)
    return f.cast("trunc", _shuffle32(f, f.cast("zext", value, "i32"), kind, distance, clamp), value.ty)


def _shuffle32(f: Function, value: Val, kind: str, distance: Val, clamp: int) -> Val:
    return f.call(f"llvm.nvvm.shfl.sync.{kind}.i32", "i32", FULL_WARP, value, distance, const("i32", clamp))


def shared_array(f: Function, name: str, ty: str, count: int, align: int = 16) -> Val:
    """Shared memory of the block for `count` elements: a pointer to it."""
    f.module.globals.append(f"@{name} = internal addrspace(3) global [{count} x {ty}] poison, align {align}")
    return Val(SHARED, f"@{name}")


def merge_warp(f: Function, fold: Fold, state: list[Val]) -> list[Val]:
    """The accumulators of all lanes merged, the same in every lane."""
    for distance in (16, 8, 4, 2, 1):
        other = [shuffle(f, v, "bfly", const("i32", distance)) for v in state]
        state = reductions.merge(f, fold, state, other)
    return state


def merge_block(f: Function, fold: Fold, state: list[Val], thread: Val, warps: int, shared: Val) -> list[Val]:
    """The accumulators of all threads of the block merged, the same in every thread. `shared`: room for warps x values words."""
    state = merge_warp(f, fold, state)
    first = f.compare("eq", f.binary("and", thread, const("i64", 31)), const("i64", 0))
    warp = f.binary("lshr", thread, const("i64", 5))
    barrier(f)  # what an earlier merge left has been read
    with f.if_(first):
        for i, value in enumerate(state):
            f.store(to_word(f, value), word_at(f, shared, f.add(warp, i * warps)))
    barrier(f)

    def load(number: int) -> list[Val]:
        return [from_word(f, f.load(word_at(f, shared, const("i64", i * warps + number)), "i64"), v.ty) for i, v in enumerate(state)]
    return tree(lambda a, b: reductions.merge(f, fold, a, b), [load(w) for w in range(warps)])


def tree(merge: Callable[[list[Val], list[Val]], list[Val]], states: list[list[Val]]) -> list[Val]:
    """Merge neighbours, then neighbours of those, ..."""
    while len(states) > 1:
        states = [merge(states[i], states[i + 1]) if i + 1 < len(states) else states[i] for i in range(0, len(states), 2)]
    return states[0]


def word_at(f: Function, shared: Val, index: Val) -> Val:
    return f.op(f"getelementptr inbounds i64, {shared}, {index}", SHARED)


def to_word(f: Function, value: Val) -> Val:
    """Any scalar in the low bits of an i64."""
    if value.ty == "i64":
        return value
    bits = scalar_bits(value.ty)
    raw = f.cast("bitcast", value, f"i{bits}") if value.ty in ("float", "double", "half") else value
    return raw if raw.ty == "i64" else f.cast("zext", raw, "i64")


def from_word(f: Function, word: Val, ty: str) -> Val:
    """The inverse of `to_word`."""
    if ty == "i64":
        return word
    bits = scalar_bits(ty)
    raw = word if bits == 64 else f.cast("trunc", word, f"i{bits}")
    return f.cast("bitcast", raw, ty) if ty in ("float", "double", "half") else raw
