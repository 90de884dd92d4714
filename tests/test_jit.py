"""The JIT and its object cache."""
from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from treadle.codegen import gemm, jit
from treadle.codegen.llvm_text import Function, Module, Val
from treadle.codegen.target import describe, host

ADD = "define i64 @add_{n}(i64 %a, i64 %b) {{\n  %c = add i64 %a, %b\n  %d = add i64 %c, {n}\n  ret i64 %d\n}}\n"
SIGNATURE = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64, ctypes.c_int64)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TREADLE_CACHE_DIR", str(tmp_path))
    return tmp_path


def run_add(n: int) -> int:
    module = jit.compile_text(ADD.format(n=n))
    return SIGNATURE(module.address(f"add_{n}"))(40, 2)


def test_second_load_comes_from_the_cache(cache: Path) -> None:
    before = dict(jit.stats)
    assert run_add(1) == 43
    assert run_add(1) == 43
    assert jit.stats["llvm_compiles"] == before["llvm_compiles"] + 1
    assert jit.stats["object_cache_hits"] == before["object_cache_hits"] + 1


@pytest.mark.parametrize("damage", [b"", b"short", None])
def test_damaged_entry_is_compiled_again(cache: Path, damage: bytes | None) -> None:
    run_add(2)
    (entry,) = [p for p in cache.rglob("*") if p.is_file()]
    content = entry.read_bytes()
    entry.write_bytes(content[:-1] + bytes([content[-1] ^ 1]) if damage is None else damage)
    before = jit.stats["llvm_compiles"]
    assert run_add(2) == 44
    assert jit.stats["llvm_compiles"] == before + 1


def test_unusable_directory_is_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("TREADLE_CACHE_DIR", str(tmp_path / "file"))
    assert run_add(3) == 45


def entries(cache: Path) -> list[Path]:
    return [p for p in cache.rglob("*") if p.is_file()]


def test_only_the_user_may_write(cache: Path) -> None:
    run_add(10)
    directory = jit.cache_directory()
    assert directory is not None and directory.stat().st_mode & 0o777 == 0o700
    assert all(p.stat().st_mode & 0o077 == 0 for p in entries(cache))
    directory.chmod(0o777)
    before = dict(jit.stats)
    with pytest.warns(UserWarning, match="may be written by"):
        assert run_add(10) == 52
    assert run_add(11) == 53 and len(entries(cache)) == 1  # neither read nor written; said once
    assert jit.stats["llvm_compiles"] == before["llvm_compiles"] + 2
    directory.chmod(0o700)
    assert run_add(10) == 52 and jit.stats["object_cache_hits"] == before["object_cache_hits"] + 1


@pytest.mark.parametrize("fault", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT])
def test_a_disk_that_takes_nothing_costs_only_time(cache: Path, monkeypatch: pytest.MonkeyPatch, fault: int) -> None:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise OSError(fault, os.strerror(fault))
    for where in ("mkstemp", "fdopen", "replace"):
        with monkeypatch.context() as m:
            m.setattr(jit.tempfile if where == "mkstemp" else jit.os, where, refuse)
            assert run_add(20) == 62
        assert entries(cache) == []


def test_what_was_used_longest_ago_goes_first(cache: Path) -> None:
    for n in (30, 31, 32, 33):
        run_add(n)
        for p in entries(cache):
            os.utime(p, (p.stat().st_atime, p.stat().st_mtime - 100))
    run_add(30)  # used again
    directory = jit.cache_directory()
    assert directory is not None
    begun = directory / ".new-begun"
    begun.write_bytes(b"half")
    os.utime(begun, (0, 0))
    jit.sweep(directory, 2 * max(p.stat().st_size for p in entries(cache)))
    assert len(entries(cache)) == 2
    hits = jit.stats["object_cache_hits"]
    run_add(30), run_add(33)
    assert jit.stats["object_cache_hits"] == hits + 2
    jit.sweep(directory / "missing", 0)
    jit.sweep(directory, 0)
    assert entries(cache) == []


def test_processes_share_the_cache(cache: Path) -> None:
    """Several at once, one of them emptying it: all get right answers, and the entries left are whole."""
    program = """
import sys
import threading
from collections.abc import Iterator
from treadle.codegen import gemm, jit
from treadle.codegen.llvm_text import Function, Module, Val
sys.path.insert(0, sys.argv[1])
from test_jit import run_add
for n in range(40, 60):
    assert run_add(n) == 42 + n
    if sys.argv[2] == "0":
        jit.sweep(jit.cache_directory(), 2000)
"""
    here = str(Path(__file__).parent)
    running = [subprocess.Popen([sys.executable, "-c", program, here, str(i)]) for i in range(3)]
    assert [p.wait() for p in running] == [0, 0, 0]
    for p in entries(cache):
        content = p.read_bytes()
        assert hashlib.sha256(content[jit.CHECKSUM_BYTES:]).digest() == content[:jit.CHECKSUM_BYTES]


def test_cache_can_be_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TREADLE_CACHE_DIR", "off")
    before = jit.stats["llvm_compiles"]
    assert run_add(4) == run_add(4) == 46
    assert jit.stats["llvm_compiles"] == before + 2


def test_mistakes_are_errors(cache: Path) -> None:
    with pytest.raises(RuntimeError):
        jit.compile_text("define nonsense")
    with pytest.raises(RuntimeError, match="no_such_function"):
        jit.compile_text("declare void @no_such_function()\ndefine void @f() {\n call void @no_such_function()\n ret void\n}\n")
    with pytest.raises(KeyError, match="other"):
        jit.compile_text(ADD.format(n=5)).address("other")


def test_targets() -> None:
    assert host().lanes("float") == 2 * host().lanes("double") >= 4
    neon = describe("aarch64-unknown-linux-gnu", "generic", "+neon")
    assert (neon.arch, neon.vector_bits, neon.registers) == ("aarch64", 128, 32)
    assert describe("x86_64-pc-linux-gnu", "haswell", "+avx2,+fma").lanes("float") == 8
    assert "add_6" in jit.assembly(ADD.format(n=6), target=neon)
    assert "@add_7" in jit.optimized(ADD.format(n=7))


def compiled_by(directory: Path, workers: int, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """The objects that some texts become."""
    monkeypatch.setenv("TREADLE_CACHE_DIR", str(directory))
    module = jit.compile_texts((ADD.format(n=n) for n in range(100, 112)), workers)
    assert [SIGNATURE(module.address(f"add_{n}"))(40, 2) for n in range(100, 112)] == [42 + n for n in range(100, 112)]
    return {p.name: p.read_bytes() for p in entries(directory)}


def test_several_threads_make_the_same_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = compiled_by(tmp_path / "a", 1, monkeypatch)
    assert len(alone) == 12 and compiled_by(tmp_path / "b", 4, monkeypatch) == alone

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")
    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert compiled_by(tmp_path / "c", 4, monkeypatch) == alone
    monkeypatch.setattr(jit, "_emit_object", lambda: None)  # another llvmlite
    assert compiled_by(tmp_path / "d", 4, monkeypatch) == alone


@pytest.mark.parametrize("workers", [1, 3])
def test_a_mistake_in_one_of_several_texts(cache: Path, workers: int) -> None:
    texts = [ADD.format(n=n) for n in range(5)]
    with pytest.raises(RuntimeError, match="parsing"):
        jit.compile_texts([*texts, "define nonsense", *texts], workers)

    def broken() -> Iterator[str]:
        yield texts[0]
        raise ValueError("no text")
    with pytest.raises(ValueError, match="no text"):
        jit.compile_texts(broken(), workers)


@pytest.mark.parametrize("parts", [1, 2, 5])
def test_a_module_in_pieces(cache: Path, parts: int) -> None:
    """Functions in a table lie in several texts, and are called through the table from the first."""
    module = Module()
    x, which = Val("i64", "%x"), Val("i64", "%which")
    for n in range(4):
        f = Function(module, f"step_{n}", [x], ret="i64", linkage="internal")
        f.line(f"ret {f.add(x, 10 ** n)}")
        f.finish()
    module.globals.append(f"@steps = internal constant [4 x ptr] [{', '.join(f'ptr @step_{n}' for n in range(4))}]")
    f = Function(module, "step", [x, which], ret="i64")
    place = f.load(f.gep(Val("ptr", "@steps"), which, "ptr"), "ptr")
    result = f.op(f"call i64 {place.name}({x})", "i64")
    f.line(f"ret {result}")
    f.finish()
    texts = module.texts(parts)
    assert len(texts) == parts and sum(text.count("define ") for text in texts) == 5
    code = jit.compile_texts(texts, 2)
    step = SIGNATURE(code.address("step"))
    assert [step(5, n) for n in range(4)] == [6, 15, 105, 1005]


def test_matrix_kernels_load_meanwhile(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gemm, "_MODULES", {})
    with gemm.loading(["gemm_dot_float32", "gemm_stream_float32", "gemm_dot_nonsense"]):
        pass
    assert list(gemm._MODULES) == ["float32"] and len(entries(cache)) == gemm.PIECES
    with pytest.raises(KeyError):
        gemm.gemm_address("gemm_dot_nonsense")


FRAGMENTS = """
    import ctypes
    from treadle.codegen import jit

    text = '''
    @c{n} = private constant [4 x double] [double 1.5, double 2.5, double 3.5, double 4.5]
    declare double @tgamma(double)
    define double @f{n}(i64 %i) nounwind {{
      %p = getelementptr double, ptr @c{n}, i64 %i
      %v = load double, ptr %p
      %w = call double @tgamma(double %v)
      %x = fadd double %w, 0.125
      ret double %x
    }}
    '''
    libc = ctypes.CDLL(None)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    jit.compile_text(text.format(n=0))  # LLVM is loaded

    def reserve(size):
        return libc.mmap(None, size, 0, 0x4022, -1, 0)
    far, size, pages = reserve(16 << 30), 1 << 30, []
    while size >= 4096:  # fill all gaps above
        place = reserve(size)
        if place is not None and place > far:
            pages += [place] if size == 4096 else []
            continue
        libc.munmap(place, size)
        size //= 2
    function = ctypes.CFUNCTYPE(ctypes.c_double, ctypes.c_int64)
    for n in range(1, 20):
        if pages:
            libc.munmap(pages.pop(), 4096)  # room for code, but not for its constants
        module = jit.compile_text(text.format(n=n))
        assert abs(function(module.address(f"f{n}"))(2) - 3.4483509) < 1e-6
    print("near")
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the test fills the address space as Linux does")
def test_code_and_constants_are_near_in_a_fragmented_address_space(tmp_path: Path) -> None:
    script = tmp_path / "fragments.py"
    script.write_text(textwrap.dedent(FRAGMENTS))
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120)
    assert "near" in done.stdout, done.stderr[-2000:]
