"""LLVM text to machine code in this process, with an object cache on disk.

The cache can only save time: an entry that is missing, damaged or unreadable is compiled again, and a directory that
cannot be written is ignored, as is one that other users could write to. Its size is bounded.
"""
from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import importlib
import os
import re
import stat
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import llvmlite
import llvmlite.binding as llvm

from treadle.codegen.forking import compiling
from treadle.codegen.target import Target, host

# Bump when the layout of a cache file changes; the LLVM text itself is part of every key.
CACHE_FORMAT = 3
CHECKSUM_BYTES = 32
CACHE_BYTES = 256 << 20        # on disk, looked at now and then
SWEEP_EVERY = 64               # new entries
HALF_WRITTEN_SECONDS = 3600.0  # after which a file that was begun and not finished is rubbish

stats: dict[str, int] = {"llvm_compiles": 0, "object_cache_hits": 0, "object_cache_writes": 0}
# MCJIT registers frames in global tables, and which texts are next, the cache and the counters are for one thread at a time.
_lock = threading.RLock()


class CompiledModule:
    """Machine code of one LLVM module or several. Addresses stay valid as long as this object lives."""

    __slots__ = ("_addresses", "_engine", "_keep")

    def __init__(self, objects: Sequence[bytes], names: frozenset[str]) -> None:
        machine = _create_machine(host(), 2)
        self._engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine, use_lmm=_in_one_piece() or None)
        self._keep = [llvm.ObjectFileRef.from_data(code) for code in objects]
        for code in self._keep:
            self._engine.add_object_file(code)
        self._engine.finalize_object()
        self._addresses = {name: self._engine.get_function_address(name) for name in names}

    def address(self, name: str) -> int:
        """The address of function `name`; KeyError when the module does not define it."""
        if name not in self._addresses:
            raise KeyError(f"the module defines no function {name!r}")
        return self._addresses[name]

    def defines(self, name: str) -> bool:
        """Does the module define function `name`?"""
        return name in self._addresses


def compile_text(text: str, passes: bool = True) -> CompiledModule:
    """Compile LLVM IR text for this CPU, or load it from the object cache.

    `passes` runs the cheap IR pipeline first (stack slots to registers, instruction combining). Raises RuntimeError
    when LLVM rejects the text or when it calls a C function this process does not have.
    """
    return compile_texts([text], 1, passes)


def compile_texts(texts: Iterable[str], workers: int, passes: bool = True) -> CompiledModule:
    """`compile_text` of texts that define functions of different names; `workers` threads share them.

    One text may declare what another defines, if it only takes its address. `texts` is run through as threads become free, so it may
    make a text while others are compiled.
    """
    with compiling():
        return _apart(lambda: _compile_texts(texts, workers, passes))


def _apart(work: Callable[[], CompiledModule]) -> CompiledModule:
    """Run in a thread that an interruption (Ctrl-C) does not reach: within llvmlite it would leave its lock taken, for other threads to
    wait for ever. The main thread stops waiting when it is interrupted."""
    if threading.current_thread() is not threading.main_thread():
        return work()
    found: list[CompiledModule] = []
    faults: list[BaseException] = []

    def run() -> None:
        try:
            with compiling(part=True):  # also when nobody waits for it any more
                found.append(work())
        except BaseException as fault:
            faults.append(fault)
    with contextlib.suppress(RuntimeError, AttributeError):  # until this thread has it no more: an object's end may have been interrupted
        while True:
            importlib.import_module("llvmlite.binding.ffi").lib._lock._lock.release()
    with meanwhile([run]):
        pass
    if faults:
        raise faults[0]
    return found[0] if found else work()


def _compile_texts(texts: Iterable[str], workers: int, passes: bool) -> CompiledModule:
    directory = cache_directory()
    waiting = enumerate(texts)
    made: dict[int, tuple[str, bytes]] = {}
    faults: list[BaseException] = []

    def work() -> None:
        try:
            while not faults:
                with _lock:
                    number, text = next(waiting, (-1, ""))
                    key = _cache_key(text, passes)
                    code = None if number < 0 else _read_object(directory, key)
                    stats["llvm_compiles"] += number >= 0 and code is None
                if number < 0:
                    return
                if code is None:
                    code = _compile(text, passes)
                    with _lock:
                        _write_object(directory, key, code)
                made[number] = text, code
        except BaseException as fault:
            faults.append(fault)

    with _lock:
        _create_machine(host(), 2)  # LLVM is set up by one thread
    with meanwhile([work] * (workers - 1) if _emit_object() is not None else []):
        work()
    if faults:
        raise faults[0]
    found = [made[i] for i in sorted(made)]
    names = frozenset[str]().union(*[_defined_names(text) for text, _ in found])
    with _lock:
        for text, _ in found:
            _check_externals(text, names)
        return CompiledModule([code for _, code in found], names)


def processors() -> int:
    """How many CPUs this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def meanwhile(tasks: Iterable[Callable[[], None]]) -> Iterator[None]:
    """Run each task in a thread of its own, or not at all where no more threads can be had; they are done at the end.

    Python waits for such threads before it ends: LLVM's state goes when the process does.
    """
    threads = []
    try:
        for task in tasks:
            thread = threading.Thread(target=task)
            try:
                thread.start()
            except RuntimeError:  # too many, or the interpreter is on its way out
                break
            threads.append(thread)
        yield
    finally:
        for thread in threads:
            thread.join()


def assembly(text: str, passes: bool = True, target: Target | None = None) -> str:
    """The assembly that `compile_text` would run, or that of another target (`treadle.codegen.target.describe`)."""
    target = target or host()
    with compiling(), _lock:
        machine = _create_machine(target, 2)
        return machine.emit_assembly(_prepare(text, passes, machine))


def optimized(text: str) -> str:
    """The LLVM text after the IR pipeline."""
    with compiling(), _lock:
        machine = _create_machine(host(), 2)
        return str(_prepare(text, True, machine))


# -- compiling -------------------------------------------------------------------------------------------------------
@functools.cache
def _initialize(all_targets: bool) -> None:
    if all_targets:
        llvm.initialize_all_targets()
        llvm.initialize_all_asmprinters()
    else:
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        llvm.initialize_native_asmparser()  # for inline assembly


def _create_machine(target: Target, opt: int) -> llvm.TargetMachine:
    _initialize(target.triple != host().triple)
    machine = llvm.Target.from_triple(target.triple)
    return machine.create_target_machine(cpu=target.cpu, features=target.features, opt=opt, reloc="pic", codemodel="default", jit=True)


def _prepare(text: str, passes: bool, machine: llvm.TargetMachine, context: llvm.ContextRef | None = None) -> llvm.ModuleRef:
    """`context`: None for the one that the lock guards."""
    module = llvm.parse_assembly(text, context)
    module.triple = machine.triple
    module.data_layout = str(machine.target_data)
    module.verify()
    if passes:
        _run_pipeline(module, machine)
    return module


def _run_pipeline(module: llvm.ModuleRef, machine: llvm.TargetMachine) -> None:
    """Loops are already unrolled and vectorized by the emitters, so only scalar clean-ups run."""
    builder = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(1))
    manager = llvm.create_new_function_pass_manager()
    manager.add_sroa_pass()
    manager.add_instruction_combine_pass()
    manager.add_simplify_cfg_pass()
    for function in module.functions:
        if not function.is_declaration:
            manager.run(function, builder)


def _compile(text: str, passes: bool) -> bytes:
    try:
        context = _idle.pop()
    except IndexError:
        context = llvm.create_context()
        _contexts.append(context)
    machine, emit = _create_machine(host(), 2), _emit_object()
    module = _prepare(_calls_by_table(text), passes, machine, context)
    code = machine.emit_object(module) if emit is None else emit(machine, module)
    module.close()  # before another thread gets the context
    _idle.append(context)
    return code


def _in_one_piece() -> bool:
    """Whether llvmlite's memory manager is asked for, which takes an object's memory in one piece: where the address space is in fragments,
    code may otherwise lie more than 2 GiB from its constants, and LLVM ends the process. It is the default on ARM."""
    return host().arch == "x86_64" and sys.platform.startswith("linux")


def _calls_by_table(text: str) -> str:
    """Calls of functions elsewhere go by the global offset table: that manager counts no stubs."""
    if not _in_one_piece():
        return text
    return _DECLARATION.sub(r"\g<0> nonlazybind", text) + '\n!llvm.module.flags = !{!999999}\n!999999 = !{i32 7, !"RtLibUseGOT", i32 1}\n'


# Contexts, and those that no thread is using. None is ever let go: what an interrupted compilation leaves behind dies after it would have.
_contexts: list[llvm.ContextRef] = []
_idle: list[llvm.ContextRef] = []


@functools.cache
def _emit_object() -> Callable[[llvm.TargetMachine, llvm.ModuleRef], bytes] | None:
    """`TargetMachine.emit_object`, four fifths of a compilation, without the lock by which llvmlite lets in one thread at a time.

    LLVM itself asks for no more than a context and a machine for each thread. None where llvmlite does not look as expected.
    """
    try:
        ffi = importlib.import_module("llvmlite.binding.ffi")
        function = ctypes.CDLL(ffi.lib._name).LLVMPY_TargetMachineEmitToMemory
        function.argtypes = [ffi.LLVMTargetMachineRef, ffi.LLVMModuleRef, ctypes.c_int, ctypes.POINTER(ctypes.c_char_p)]
        function.restype = ffi.LLVMMemoryBufferRef
        start, size, dispose = ffi.lib.LLVMPY_GetBufferStart, ffi.lib.LLVMPY_GetBufferSize, ffi.lib.LLVMPY_DisposeMemoryBuffer
        message = ffi.OutputString
    except (ImportError, AttributeError, OSError):
        return None

    def emit(machine: llvm.TargetMachine, module: llvm.ModuleRef) -> bytes:
        with message() as fault:
            buffer = function(machine, module, 1, fault)
            if not buffer:
                raise RuntimeError(str(fault))
        try:
            return ctypes.string_at(start(buffer), size(buffer))
        finally:
            dispose(buffer)
    return emit


def _after_fork() -> None:
    """A thread that was letting go of some object held llvmlite's lock: it does not exist in the child."""
    with contextlib.suppress(AttributeError):
        lock = importlib.import_module("llvmlite.binding.ffi").lib._lock
        if not lock._lock._is_owned():
            lock._lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)

_DEFINE = re.compile(r"^define (?!internal|private)[^@\n]*@([\w.$]+)\(", re.MULTILINE)
_DECLARATION = re.compile(r"^declare [^@\n]*@(?!llvm\.)[^\n]*", re.MULTILINE)
_DECLARE = re.compile(r"^declare [^@\n]*@(?!llvm\.)([\w.$]+)\(", re.MULTILINE)


def _defined_names(text: str) -> frozenset[str]:
    return frozenset(_DEFINE.findall(text))


@functools.cache
def _load_maths_library() -> None:
    """Make C's double-precision functions visible to LLVM: Python need not export them. Without such a file (musl, macOS)
    they live in the C library itself."""
    with contextlib.suppress(RuntimeError):
        llvm.load_library_permanently("libm.so.6")


def _check_externals(text: str, defined: frozenset[str]) -> None:
    """A symbol that LLVM cannot find would end the process, so look first."""
    _load_maths_library()
    for name in _DECLARE.findall(text):
        if name not in defined and llvm.address_of_symbol(name) is None:
            raise RuntimeError(f"generated code calls {name!r}, which this process does not provide")


# -- object cache ----------------------------------------------------------------------------------------------------
def cache_directory() -> Path | None:
    """Where compiled objects are kept: `TREADLE_CACHE_DIR`, by default `~/.cache/treadle`; None when it is `off`."""
    setting = os.environ.get("TREADLE_CACHE_DIR", "")
    if setting == "off":
        return None
    if setting:
        return Path(setting) / f"v{CACHE_FORMAT}"
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(base) / "treadle" / f"v{CACHE_FORMAT}"


def _cache_key(text: str, passes: bool) -> str:
    target = host()
    parts = [text, target.triple, target.cpu, target.features, llvmlite.__version__, str(passes)]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _read_object(directory: Path | None, key: str) -> bytes | None:
    """The cached object, or None when it is missing, unreadable or damaged."""
    if directory is None:
        return None
    path = directory / key
    try:
        if not _is_private(directory):
            return None
        content = path.read_bytes()
    except OSError:
        return None
    checksum, code = content[:CHECKSUM_BYTES], content[CHECKSUM_BYTES:]
    if hashlib.sha256(code).digest() != checksum:
        return None
    stats["object_cache_hits"] += 1
    with contextlib.suppress(OSError):
        os.utime(path)  # what is used stays longest
    return code


def _is_private(directory: Path) -> bool:
    """Whether the directory is this user's and nobody else can write there: code in it is run. OSError when there is none."""
    if not hasattr(os, "getuid"):
        return True
    found = directory.stat()
    private = found.st_uid == os.getuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    if not private and directory not in _refused:
        _refused.add(directory)
        warnings.warn(f"the cache of compiled kernels in {directory} is not used: it belongs to, or may be written by, somebody else; "
                      "chmod 700 it, or set TREADLE_CACHE_DIR", stacklevel=2)
    return private


_refused: set[Path] = set()


def _write_object(directory: Path | None, key: str, code: bytes) -> None:
    """Store atomically: readers see the whole file or none. A read-only or full disk is not an error."""
    if directory is None:
        return
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not _is_private(directory):
            return
        handle, temporary = tempfile.mkstemp(dir=directory, prefix=".new-")
    except OSError:
        return
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(hashlib.sha256(code).digest() + code)
        os.replace(temporary, directory / key)
        stats["object_cache_writes"] += 1
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
    if stats["object_cache_writes"] % SWEEP_EVERY == 1:
        sweep(directory, CACHE_BYTES)


def sweep(directory: Path, limit: int) -> None:
    """Delete what was used longest ago until the directory has at most `limit` bytes, and files that a process left half written.

    Other processes may do the same at the same time: what is gone is gone.
    """
    entries = []
    with contextlib.suppress(OSError):
        for path in directory.iterdir():
            with contextlib.suppress(OSError):
                found = path.stat()
                if path.name.startswith(".new-") and time.time() - found.st_mtime > HALF_WRITTEN_SECONDS:
                    path.unlink()
                elif not path.name.startswith(".new-"):
                    entries.append((found.st_mtime, found.st_size, path))
    total = sum(size for _, size, _ in entries)
    for _, size, path in sorted(entries):
        if total <= limit:
            break
        with contextlib.suppress(OSError):
            path.unlink()
        total -= size
