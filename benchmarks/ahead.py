"""Compile a launch ahead of time for a GPU that is not there, and read what came out."""

import re
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from npas.errors import NpasError
from npas.kernels.launch import Launch

#: Target -> backend, architecture, threads of a warp.
TARGETS: Mapping[str, tuple[str, int | str, int]] = {
    "sm_80": ("cuda", 80, 32),
    "sm_90": ("cuda", 90, 32),
    "sm_100": ("cuda", 100, 32),
    "gfx942": ("hip", "gfx942", 64),
}

_TYPES = {
    torch.float32: "fp32",
    torch.bfloat16: "bf16",
    torch.float16: "fp16",
    torch.int32: "i32",
    torch.int64: "i64",
}


@dataclass(frozen=True, slots=True)
class Compiled:
    """What a kernel became for one target.

    Attributes:
        kernel: its name.
        target: a key of `TARGETS`.
        shared_bytes: shared memory of a program.
        registers: vector registers of a thread.
        spills: registers that did not fit, in bytes of stack (CUDA) or registers (HIP).
        load_bits: widest load from memory.
        store_bits: widest store to memory.
        loads: argument -> widest load from its tensor, as LLVM's code has it.
        stores: argument -> widest store to its tensor.
    """

    kernel: str
    target: str
    shared_bytes: int
    registers: int
    spills: int
    load_bits: int
    store_bits: int
    loads: Mapping[str, int]
    stores: Mapping[str, int]


def compile_ahead(launch: Launch, target: str) -> Compiled:
    """Compile a launch for a target.

    Pointers and integers that 16 divides are compiled as such, as at run time.

    Args:
        launch: its tensors may be on any device. One on the meta device has no address and counts
            as aligned.
        target: a key of `TARGETS`.

    Raises:
        NpasError: if Triton was imported with its interpreter on, which cannot compile.
    """
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile as triton_compile
    from triton.runtime.jit import JITFunction

    if not isinstance(launch.kernel, JITFunction):
        raise NpasError(
            "kernels cannot be compiled in Triton's interpreter; unset TRITON_INTERPRET"
        )
    signature: dict[str, str] = {}
    attributes: dict[tuple[int], list[list[Any]]] = {}
    constants: dict[str, Any] = {}
    for index, name in enumerate(launch.kernel.arg_names):
        if name in launch.constants:
            signature[name], constants[name] = "constexpr", launch.constants[name]
            continue
        value = launch.arguments[name]
        if isinstance(value, torch.Tensor):
            signature[name] = "*" + _TYPES[value.dtype]
            aligned = value.is_meta or value.data_ptr() % 16 == 0
        elif value == 1:
            signature[name], constants[name] = "constexpr", 1
            continue
        else:
            signature[name] = "i64" if value >= 2**31 else "i32"
            aligned = value % 16 == 0
        if aligned:
            attributes[(index,)] = [["tt.divisibility", 16]]
    source = ASTSource(launch.kernel, signature, constants, attributes)
    backend, architecture, threads = TARGETS[target]
    # Fusion is the default; unless it is asked for, Triton 3.9 warns that this will change.
    options = {"num_warps": launch.warps, "enable_fp_fusion": True}
    found = triton_compile(source, GPUTarget(backend, architecture, threads), options)
    read = _read_cuda if backend == "cuda" else _read_hip
    names = [name for name, kind in signature.items() if kind != "constexpr"]
    return Compiled(
        launch.name,
        target,
        found.metadata.shared,
        *read(found),
        *accesses(found.asm["llir"], names),
    )


def _read_cuda(found: Any) -> tuple[int, int, int, int]:
    text = found.asm["ptx"]
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(found.asm["cubin"])
        file.flush()
        usage = _run_cuobjdump("-res-usage", file.name)
    registers = re.search(r"REG:(\d+)", usage)
    stack = re.search(r"STACK:(\d+)", usage)
    local = re.search(r"LOCAL:(\d+)", usage)
    if not (registers and stack and local):
        raise NpasError(f"cuobjdump says nothing of registers and stack: {usage}")
    return (
        int(registers[1]),
        int(stack[1]) + int(local[1]),
        *_widest_ptx(text),
    )


def _run_cuobjdump(*arguments: str) -> str:
    import triton

    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    done = subprocess.run([str(tool), *arguments], capture_output=True, text=True, check=True)
    return done.stdout + done.stderr


def _widest_ptx(text: str) -> tuple[int, int]:
    """Return the bits of the widest load and of the widest store."""
    widest = {"l": 0, "s": 0}
    for kind, bits in filter(None, map(_access, text.splitlines())):
        widest[kind] = max(bits, widest[kind])
    return widest["l"], widest["s"]


def _read_hip(found: Any) -> tuple[int, int, int, int]:
    text = found.asm["amdgcn"]

    def count(key: str) -> int:
        return max(int(value) for value in re.findall(rf"\.{key}:\s+(\d+)", text))

    def widest(what: str) -> int:
        pattern = rf"(?:global|buffer)_{what}_(?:dword(?:x(\d))?|b(\d+)|[us]?byte|[us]?short)"
        found = re.findall(pattern, text)
        return max((int(b) if b else 32 * int(n or 1) for n, b in found), default=0)

    spills = count("vgpr_spill_count") + count("sgpr_spill_count")
    return count("vgpr_count"), spills, widest("load"), widest("store")


_VALUE = re.compile(r"%[\w.]+")
_POINTER = re.compile(
    r"\s*%[\w.]+ = (?:getelementptr|phi ptr|select .*ptr|.*@llvm\.amdgcn\.make\.buffer)"
)
# Inline PTX (\09 is a tab in it), which the CUDA back end writes; a copy to shared memory names its
# bytes at the end.
_PTX = re.compile(r"(?:\b|\\09)(ld|st)\.global(?:\.[\w:]+?)*?(?:\.v(\d))?\.[buf](\d+)\b")
_PTX_COPY = re.compile(r"(?:\b|\\09)cp\.async\.c[ag]\.shared\.global.*?, 0x([0-9a-f]+)")
_LLVM = re.compile(
    r"\b(load|store) (?:volatile )?(?:<(\d+) x )?(i|float|half|bfloat)(\d*)\b.*ptr addrspace\(1\)"
)
_BUFFER = re.compile(r"raw\.ptr\.buffer\.(load|store)\.(?:v(\d+))?(?:bf|f|i)(\d+)\(")
_FLOAT_BITS = {"float": 32, "half": 16, "bfloat": 16}


def accesses(llir: str, names: Sequence[str]) -> tuple[dict[str, int], dict[str, int]]:
    """Follow a kernel's pointers, in LLVM's code, from its arguments to its loads and stores.

    Args:
        llir: text of one kernel.
        names: its arguments in order.

    Returns:
        Argument -> bits of the widest load, and of the widest store.
    """
    roots = {f"%{index}": {name} for index, name in enumerate(names)}
    pointers = [_VALUE.findall(line) for line in llir.splitlines() if _POINTER.match(line)]
    before, known = -1, 0
    # A loop's pointer is defined by one that stands further down.
    while before < known:
        for pointer, *values in pointers:
            for value in values:
                roots.setdefault(pointer, set()).update(roots.get(value, ()))
        before, known = known, sum(map(len, roots.values()))
    found: dict[str, dict[str, int]] = {"l": {}, "s": {}}
    for line in llir.splitlines():
        access = _access(line)
        if access is not None:
            kind, bits = access
            for value in _VALUE.findall(line):
                for name in roots.get(value, ()):
                    found[kind][name] = max(bits, found[kind].get(name, 0))
    return found["l"], found["s"]


def _access(line: str) -> tuple[str, int] | None:
    """Return whether a line loads ("l") or stores ("s") global memory, and how many bits."""
    if match := _PTX.search(line):
        return match[1][0], int(match[2] or 1) * int(match[3])
    if match := _PTX_COPY.search(line):
        return "l", 8 * int(match[1], 16)
    if match := _LLVM.search(line):
        bits = _FLOAT_BITS.get(match[3]) or int(match[4])
        return match[1][0], int(match[2] or 1) * bits
    if match := _BUFFER.search(line):
        return match[1][0], int(match[2] or 1) * int(match[3])
    return None
