"""Compiles the GPU's kernels for one architecture, without a GPU, and prints what each takes as JSON.

`python compile_programs.py CAPABILITY [KERNEL ...]`. The shapes are gpt-oss-20b's.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from gptoss_cli.engine.kernels import programs
from gptoss_cli.engine.kernels.cuda import tuning_for

_FLOATS = {"eps", "factor", "limit", "alpha"}
_KINDS = {
    "*bf16": "norm weight bias query query_bias key key_bias value value_bias sinks cached_keys cached_values",
    "*i32": "blocks position uses",
    "*i64": "experts block_places scale_places",
    "*u8": "scales",
    "i32": "rows",
}
_KIND_OF = {name: kind for kind, names in _KINDS.items() for name in names.split()}
_TOOLS = Path(triton.__file__).parent / "backends/nvidia/bin"


def constants(capability: tuple[int, int]) -> dict[str, dict[str, Any]]:
    """Of each kernel what it is compiled with."""
    tuning = tuning_for(capability)
    dense = {"ROWS": tuning.rows, "WIDTH": tuning.width, "ROUND": True}
    packed = {"ROWS": tuning.packed_rows, "WORDS": 360}
    attention = {"KV_HEADS": 8, "GROUP": 8, "D": 64, "GROUP_WIDTH": 16, "D_WIDTH": 64, "KEYS": tuning.keys}
    return {
        "qkv_kernel": {"QUERY": 4096, "KEY": 512, "K": 2880, **dense},
        "unembed_kernel": {"K": 2880, **dense},
        "output_kernel": {"C": 2880, "K": 4096, **dense},
        "rotate_kernel": {"HEADS": 64, "KV_HEADS": 8, "HALF": 32, "HALF_WIDTH": 32, "WINDOW": 128},
        "attend_kernel": {**attention, "SPLITS": tuning.splits, "WINDOW": 0},
        "combine_kernel": {"GROUP": 8, "D": 64, "D_WIDTH": 64, "SPLITS": tuning.splits},
        "router_kernel": {"E": 32, "K": 2880, "ROWS": tuning.rows, "WIDTH": tuning.width},
        "spread_kernel": {"K": 2880, "WIDTH": tuning.width, "ROUND": True},
        "choose_kernel": {"E": 128, "A": 4, "E_WIDTH": 128, "A_WIDTH": 4},
        "gate_up_kernel": {"F": 2880, "ROUND": True, "WIDTH": tuning.packed_width, **packed},
        "down_kernel": {"C": 2880, "A": 4, "WIDTH": tuning.down_width, **packed},
    }


def main() -> None:
    number, names = int(sys.argv[1]), sys.argv[2:]
    capability = divmod(number, 10)
    told = {}
    for name, values in constants(capability).items():
        if names and name not in names:
            continue
        warps = 1 if name in ("rotate_kernel", "combine_kernel", "choose_kernel") else tuning_for(capability).warps
        told[name] = _compiled(getattr(programs, name), values, number, warps)
    print(json.dumps(told))


def _compiled(kernel: Any, values: dict[str, Any], capability: int, warps: int) -> dict[str, int]:
    names = kernel.arg_names
    signature = {name: "constexpr" if name in values else _kind(name) for name in names}
    given = {(index,): values[name] for index, name in enumerate(names) if name in values}
    aligned = {(index,): [["tt.divisibility", 16]] for index, name in enumerate(names) if signature[name][0] == "*"}
    target = GPUTarget("cuda", capability, 32)
    source = ASTSource(kernel, signature, given, aligned)
    built = triton.compile(source, target=target, options={"num_warps": warps})
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "kernel.cubin")
        file.write_bytes(built.asm["cubin"])
        usage = subprocess.run([_TOOLS / "cuobjdump", "-res-usage", file], capture_output=True, text=True, check=True)
        code = subprocess.run([_TOOLS / "nvdisasm", "-c", file], capture_output=True, text=True, check=True)
    found = {key: int(value) for key, value in re.findall(r"(REG|STACK|LOCAL|SHARED):(\d+)", usage.stdout)}
    return {
        "registers": found["REG"],
        "spilled": found["STACK"] + found["LOCAL"],
        "shared": max(found["SHARED"], built.metadata.shared),
        "instructions": len(re.findall(r"^\s+/\*[0-9a-f]{4,}\*/", code.stdout, re.M)),
    }


def _kind(name: str) -> str:
    return "fp32" if name in _FLOATS else _KIND_OF.get(name, "*fp32")


if __name__ == "__main__":
    main()
