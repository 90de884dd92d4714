"""The JIT and its object cache."""
from __future__ import annotations

import ctypes
from pathlib import Path

import pytest

from treadle.codegen import jit
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
