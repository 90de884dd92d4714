"""Vector loads and stores, contiguous or one address per lane, with or without a mask."""
from __future__ import annotations

from treadle.codegen.llvm_text import Function, Val, const, intrinsic_suffix, lanes_of, scalar_bits, scalar_type, vector_type

STREAM_ALIGNMENT = 64  # a cache line, and the widest vector register
_ONCE = "!0 = !{i32 1}"


def _align(ty: str) -> int:
    return scalar_bits(scalar_type(ty)) // 8


def load_vector(f: Function, pointer: Val, ty: str, mask: Val | None) -> Val:
    """Neighbouring elements; lanes not set in `mask` (None: all are) touch no memory and read 0."""
    if mask is None:
        return f.load(pointer, ty, _align(ty))
    name = f"llvm.masked.load.{intrinsic_suffix(ty)}.p0"
    f.module.declare(name, f"{ty} (ptr, {mask.ty}, {ty})")
    return f.op(f"call {ty} @{name}(ptr align {_align(ty)} {pointer.name}, {mask}, {ty} zeroinitializer)", ty)


def gather(f: Function, places: Val, ty: str, mask: Val | None) -> Val:
    """As `load_vector`, from a vector of pointers."""
    mask = mask or const(vector_type("i1", lanes_of(ty)), 1)
    name = f"llvm.masked.gather.{intrinsic_suffix(ty)}.{intrinsic_suffix(places.ty)}"
    f.module.declare(name, f"{ty} ({places.ty}, {mask.ty}, {ty})")
    return f.op(f"call {ty} @{name}({places.ty} align {_align(ty)} {places.name}, {mask}, {ty} zeroinitializer)", ty)


def shuffled(f: Function, a: Val, b: Val, lanes: list[int]) -> Val:
    """The lanes of two vectors side by side, in this order."""
    places = ", ".join([f"i32 {i}" for i in lanes])
    return f.op(f"shufflevector {a}, {b}, <{len(lanes)} x i32> <{places}>", vector_type(scalar_type(a.ty), len(lanes)))


def zipped(f: Function, a: Val, b: Val) -> tuple[Val, Val]:
    """a0 b0 a1 b1 ... in two vectors."""
    lanes = lanes_of(a.ty)
    order = [i for pair in zip(range(lanes), range(lanes, 2 * lanes), strict=True) for i in pair]
    return shuffled(f, a, b, order[:lanes]), shuffled(f, a, b, order[lanes:])


def unzipped(f: Function, a: Val, b: Val) -> tuple[Val, Val]:
    """The elements with even places in two vectors side by side, and those with odd ones."""
    lanes = lanes_of(a.ty)
    return shuffled(f, a, b, list(range(0, 2 * lanes, 2))), shuffled(f, a, b, list(range(1, 2 * lanes, 2)))


def reverse(f: Function, a: Val) -> Val:
    return shuffled(f, a, a, list(range(lanes_of(a.ty) - 1, -1, -1)))


def transposed(f: Function, rows: list[Val]) -> list[Val]:
    """A square of as many vectors as they have lanes, turned: blocks of 1, 2, 4, ... change places across the diagonal (Eklundh, 1972)."""
    lanes = len(rows)
    block = 1
    while block < lanes:
        found = list(rows)
        for i in range(lanes):
            if not i & block:
                a, b = rows[i], rows[i + block]
                found[i] = shuffled(f, a, b, [lanes + j - block if j & block else j for j in range(lanes)])
                found[i + block] = shuffled(f, a, b, [lanes + j if j & block else j + block for j in range(lanes)])
        rows = found
        block *= 2
    return rows


def load_every(f: Function, pointer: Val, ty: str, step: int, mask: Val | None) -> Val:
    """Every second element from `pointer` on (`step` 2), or neighbours in reverse, back from it (-1). Without a mask nothing else is
    touched than what lies between them; lanes not set in `mask` touch nothing and read 0."""
    lanes, scalar = lanes_of(ty), scalar_type(ty)
    if step == -1:
        return reverse(f, load_vector(f, f.gep(pointer, 1 - lanes, scalar), ty, None if mask is None else reverse(f, mask)))
    assert step == 2 and lanes % 2 == 0
    halves = []
    for at in (0, lanes - 1):  # both vectors hold the element in the middle
        chosen = None
        if mask is not None:  # element `at + i` is the lane `(at + i) / 2`, or none
            none = const(mask.ty, 0)
            chosen = shuffled(f, mask, none, [lanes if (at + i) % 2 else (at + i) // 2 for i in range(lanes)])
        halves.append(load_vector(f, f.gep(pointer, at, scalar), ty, chosen))
    low, high = halves
    return shuffled(f, low, high, [*range(0, lanes, 2), *range(lanes + 1, 2 * lanes, 2)])


def load_pairs(f: Function, pointer: Val, ty: str) -> tuple[Val, Val]:
    """x and y of x0 y0 x1 y1 ... from `pointer` on."""
    a, b = (load_vector(f, f.gep(pointer, at, scalar_type(ty)), ty, None) for at in (0, lanes_of(ty)))
    return unzipped(f, a, b)


def store_pairs(f: Function, x: Val, y: Val, pointer: Val, mask: Val | None = None) -> None:
    """x0 y0 x1 y1 ... from `pointer` on, for the lanes set in `mask`."""
    masks = (None, None) if mask is None else zipped(f, mask, mask)
    for at, (value, chosen) in enumerate(zip(zipped(f, x, y), masks, strict=True)):
        store_vector(f, value, f.gep(pointer, at * lanes_of(x.ty), scalar_type(x.ty)), chosen)


def store_reversed(f: Function, value: Val, pointer: Val) -> None:
    """Neighbouring elements, the first lane's last, which is at `pointer`."""
    f.store(reverse(f, value), f.gep(pointer, 1 - lanes_of(value.ty), scalar_type(value.ty)), _align(value.ty))


def store_vector(f: Function, value: Val, pointer: Val, mask: Val | None) -> None:
    """Neighbouring elements, for the lanes set in `mask`."""
    if mask is None:
        f.store(value, pointer, _align(value.ty))
        return
    name = f"llvm.masked.store.{intrinsic_suffix(value.ty)}.p0"
    f.module.declare(name, f"void ({value.ty}, ptr, {mask.ty})")
    f.line(f"call void @{name}({value}, ptr align {_align(value.ty)} {pointer.name}, {mask})")


def stream_vector(f: Function, value: Val, pointer: Val) -> None:
    """As `store_vector` of all lanes, past the caches; `pointer` is aligned to the vector, or to a cache line if that is less."""
    f.module.globals = f.module.globals if _ONCE in f.module.globals else [*f.module.globals, _ONCE]
    size = scalar_bits(scalar_type(value.ty)) // 8 * lanes_of(value.ty)
    f.line(f"store {value}, {pointer}, align {min(size, STREAM_ALIGNMENT)}, !nontemporal !0")


def scatter(f: Function, value: Val, places: Val, mask: Val | None) -> None:
    """As `store_vector`, to a vector of pointers."""
    mask = mask or const(vector_type("i1", lanes_of(value.ty)), 1)
    name = f"llvm.masked.scatter.{intrinsic_suffix(value.ty)}.{intrinsic_suffix(places.ty)}"
    f.module.declare(name, f"void ({value.ty}, {places.ty}, {mask.ty})")
    f.line(f"call void @{name}({value}, {places.ty} align {_align(value.ty)} {places.name}, {mask})")


def first_lanes(f: Function, count: Val, width: int) -> Val:
    """The mask of the lanes below `count`."""
    narrow = {64: "i8", 32: "i16"}.get(width, "i32")
    few = f.splat(f.cast("trunc", f.smin(count, const("i64", width)), narrow), width)
    return f.compare("sgt", few, lane_numbers(narrow, width))


def lane_numbers(scalar: str, width: int) -> Val:
    """The constant 0, 1, 2, ... of an integer type."""
    return Val(vector_type(scalar, width), f"<{', '.join(f'{scalar} {i}' for i in range(width))}>")
