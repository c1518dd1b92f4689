"""Compile the GPU kernels for one architecture, without a GPU, and print their registers and instructions as JSON.

`python compile_kernels.py CAPABILITY|GFX [KERNEL ...]`, for example 90 or gfx942. The shapes are those of gpt-oss-20b.
Counts are given for the whole kernel and for each loop over weights; for GPUs of AMD only registers and spills.
"""

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from gptoss_cli.engine.kernels import triton_decode, triton_experts, triton_offload, triton_prefill, triton_sampling
from gptoss_cli.engine.kernels.tuning import UPCAST, PrefillTuning, Tuning, tuning_for, tuning_for_amd

_FLOATS = {"eps", "factor", "limit", "alpha", "hidden_factor", "temperature"}
_KINDS = {
    "*bf16": "norm weight bias query query_bias key key_bias value value_bias sinks cached_keys cached_values base",
    "*i32": "blocks position held row_ends tile_ends inputs arrived",
    "*i64": "experts block_offsets scale_offsets order used_at counts chosen_slots host_offsets ids",
    "i64": "offset",
    "*u8": "scales excluded",
    "i32": "rows tokens first cached slots replaceable",
}
_KIND_OF = {name: kind for kind, names in _KINDS.items() for name in names.split()}
# Arguments with another type in one kernel.
_KIND_IN = {
    "router_kernel": {"inputs": "*fp16"},
    "pack_kernel": {"inputs": "*fp16"},
    "gate_up_kernel": {"hidden": "*fp16"},
    "down_kernel": {"hidden": "*i32", "sum_factor": "fp32"},
    "reduce_logits_kernel": {"sums": "*fp64", "first": "*i32"},
    "draw_kernel": {"sums": "*fp64", "first": "*i32", "uniform": "*fp64", "drawn": "*i64", "blocks": "i32"},
}
# Arguments with another type in the kernels for several tokens.
_KIND_OF_PREFILL = {"blocks": "*u8", "position": "i32", "keys": "*bf16", "values": "*bf16"}
_SINGLE_WARP = ("gate_up_kernel", "down_kernel")
_OPTIONS = {"enable_fp_fusion": True}
_OF_ONE = (triton_decode, triton_experts, triton_offload, triton_sampling)
_TOOLS = Path(triton.__file__).parent / "backends/nvidia/bin"


def constants(tuning: Tuning, *, offloaded: bool = False) -> dict[str, dict[str, Any]]:
    """Return the compile-time constants of each kernel for one token, or of those that find `offloaded` experts."""
    dense = {"ROWS": tuning.rows, "WIDTH": 1024}
    choice = {"E": 128, "A": 4, "E_WIDTH": 128, "A_WIDTH": 4}
    places = {"OFFLOADED": offloaded}
    packed = {"WORDS": 360, "WIDTH": 128, "PAIRS": True, "PTX": True, **places}
    upcast = tuning.prefill.upcast
    attention = {
        "KV_HEADS": 8, "GROUP": 8, "D": 64, "GROUP_WIDTH": 8, "D_WIDTH": 64, "UPCAST": upcast,
        "KEYS": 32 if upcast else tuning.keys, "SPLITS": tuning.splits, "CHUNK": 16,
    }  # fmt: skip
    overlapped = {
        "qkv_kernel": {"QUERY": 4096, "KEY": 512, "K": 2880, **dense},
        "unembed_kernel": {"K": 2880, **dense},
        "output_kernel": {"C": 2880, "K": 4096, **dense},
        "attend_kernel": {**attention, "WINDOW": 0},
        "router_kernel": {"K": 2880, "ROWS": tuning.router_rows, "WIDTH": 1024, "PAIRS": True, **choice, **places},
        "reduce_logits_kernel": {"WIDTH": 1024},
        "draw_kernel": {"WIDTH": 1024, "BLOCKS_WIDTH": 256},
        "gate_up_kernel": {"F": 2880, "ROWS": tuning.packed_rows // 2, **packed},
        "down_kernel": {"C": 2880, "A": 4, "ROWS": tuning.packed_rows, **packed},
    }
    pdl = {"PDL": bool(tuning.pdl)}
    others = {
        "pack_kernel": {"K": 2880, "WIDTH": 4096, "PAIRS": True, **choice, **places},
        "embed_kernel": {"C": 2880, "WIDTH": 4096},
    }
    of_all = others | {name: values | pdl for name, values in overlapped.items()}
    return {name: values for name, values in of_all.items() if not offloaded or "OFFLOADED" in values}


def prefill_constants(tuning: PrefillTuning, tile_tokens: int) -> dict[str, dict[str, Any]]:
    """Return the compile-time constants of each kernel for several tokens, in tiles of `tile_tokens`."""
    attention = {"ROWS": tuning.queries, "KEYS": tuning.keys, "UPCAST": tuning.upcast}
    grouped = {
        "E": 32, "E_WIDTH": 32, "F": 2880, "BYTES": tuning.width, "UPCAST": tuning.upcast, "PTX": not tuning.upcast,
    }  # fmt: skip
    tile = {"ROWS": tuning.rows, "TOKENS": tile_tokens}
    return {
        "attend_prefill_kernel": {"HEADS": 64, "KV_HEADS": 8, "D": 64, "D_WIDTH": 64, "WINDOW": 0, **attention},
        "grouped_gate_up_kernel": {"A": 4, "K": 2880, "ROUND": not tuning.upcast, **grouped, **tile},
        "grouped_down_kernel": {"C": 2880, **grouped, **tile},
    }


def warps(name: str, tuning: Tuning) -> int:
    """Return the number of warps of a kernel for one token."""
    return 1 if name in _SINGLE_WARP else tuning.warps


def prefill_warps(name: str, tuning: PrefillTuning) -> int:
    """Return the number of warps of a kernel for several tokens."""
    return tuning.attention_warps if name.startswith("attend") else tuning.warps


def prefill_stages(name: str, tuning: PrefillTuning) -> dict[str, int]:
    """Return the option for the number of stages of a kernel for several tokens."""
    return {"num_stages": tuning.stages} if name.startswith("grouped") else {}


def kinds(name: str = "", *, prefill: PrefillTuning | None = None) -> dict[str, str]:
    """Return the types of arguments of the kernels for several tokens, or of `name`. See `kind` for missing ones."""
    if prefill is None:
        return _KIND_OF | _KIND_IN.get(name, {})
    changed = _KIND_OF_PREFILL | dict.fromkeys(("inputs", "hidden"), "*fp32" if prefill.upcast else "*bf16")
    return _KIND_OF | changed | ({"keys": "*fp32", "values": "*fp32"} if prefill.upcast else {})


def kind(name: str, known: dict[str, str]) -> str:
    """Return the type of one argument in Triton's notation."""
    return "fp32" if name in _FLOATS else known.get(name, "*fp32")


def main() -> None:
    names, compiled = sys.argv[2:], {}
    target, tuning = target_of(sys.argv[1])
    for name, values, key in _of_one(tuning):
        if not names or key in names:
            if "PTX" in values:
                values["PTX"] = target.backend == "cuda"
            kernel = next(found for module in _OF_ONE if (found := getattr(module, name, None)))
            compiled[key] = _compiled(kernel, kinds(name), values, target, {"num_warps": warps(name, tuning)})
    for prefill in {tuning.prefill, UPCAST}:
        for size in prefill.tokens:
            for name, values in prefill_constants(prefill, size).items():
                called = f"{name}{' upcast' if prefill.upcast else ''}"
                key = f"{called} of {size}" if "TOKENS" in values else called
                if (not names or name in names or key in names) and key not in compiled:
                    values["PTX"] = values.get("PTX", False) and target.backend == "cuda"
                    options = {"num_warps": prefill_warps(name, prefill)} | prefill_stages(name, prefill)
                    kernel, known = getattr(triton_prefill, name), kinds(prefill=prefill)
                    compiled[key] = _compiled(kernel, known, values, target, options)
                    if "WINDOW" in values:
                        windowed = values | {"WINDOW": 128}
                        compiled[f"{key} in a window"] = _compiled(kernel, known, windowed, target, options)
    print(json.dumps(compiled))


def _of_one(tuning: Tuning) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Yield the name and constants of each kernel for one token, and a name of the variant."""
    for name, values in constants(tuning).items():
        yield name, values, name
    for name, values in constants(tuning, offloaded=True).items():
        yield name, values, f"{name} offloaded"


def target_of(name: str) -> tuple[GPUTarget, Tuning]:
    """Return the target and the tuning for a capability such as 90, or for an architecture of AMD."""
    if name.startswith("gfx"):
        return GPUTarget("hip", name, 64 if name.startswith("gfx9") else 32), tuning_for_amd(name)
    return GPUTarget("cuda", int(name), 32), tuning_for(divmod(int(name), 10))


def _compiled(
    kernel: Any, known: dict[str, str], values: dict[str, Any], target: GPUTarget, chosen: dict[str, int]
) -> dict[str, Any]:
    names = kernel.arg_names
    values = {name: value for name, value in values.items() if name in names}
    signature = {name: "constexpr" if name in values else kind(name, known) for name in names}
    given = {(index,): values[name] for index, name in enumerate(names) if name in values}
    aligned = {(index,): [["tt.divisibility", 16]] for index, name in enumerate(names) if signature[name][0] == "*"}
    source = ASTSource(kernel, signature, given, aligned)
    options, warps = {**chosen, **_OPTIONS}, chosen["num_warps"]
    if target.backend == "hip":
        built = triton.compile(source, target=target, options=options)
        return _used_on_amd(built.asm["amdgcn"]) | {"shared": built.metadata.shared, "warps": warps}
    options["launch_pdl"] = values.get("PDL", False)
    built = triton.compile(source, target=target, options=options)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "kernel.cubin")
        file.write_bytes(built.asm["cubin"])
        usage = subprocess.run([_TOOLS / "cuobjdump", "-res-usage", file], capture_output=True, text=True, check=True)
        code = subprocess.run([_TOOLS / "nvdisasm", "-c", file], capture_output=True, text=True, check=True)
    found = {key: int(value) for key, value in re.findall(r"(REG|STACK|LOCAL|SHARED):(\d+)", usage.stdout)}
    listing = _listing(code.stdout)
    wait = next((number for number, line in enumerate(listing) if line.startswith("ACQBULK")), None)
    return {
        "registers": found["REG"],
        "spilled": found["STACK"] + found["LOCAL"],
        "shared": max(found["SHARED"], built.metadata.shared),
        "warps": warps,
        **_counted([line for line in listing if not line.startswith(".L")]),
        "copying": _copying(listing),
        "before_wait": None if wait is None else _counted(listing[:wait]),
        "loops": [_counted(body) for body in _weight_loops(listing)],
    }


def _used_on_amd(assembly: str) -> dict[str, int]:
    """Return the registers of a kernel, and the bytes of each lane that do not fit in them."""
    found = {
        key: int(value) for key, value in re.findall(r"\.(vgpr_count|private_segment_fixed_size):\s+(\d+)", assembly)
    }
    return {"registers": found["vgpr_count"], "spilled": found["private_segment_fixed_size"]}


def _listing(code: str) -> list[str]:
    """The labels and instructions of nvdisasm's output, the instructions without predicate, address and encoding."""
    found = re.findall(r"^\s*(?:(\.L_x_\d+):|/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([^;]+?)\s*;)", code, re.M)
    return [label or instruction for label, instruction in found]


def _weight_loops(listing: list[str]) -> list[list[str]]:
    """The instructions of each innermost loop that reads global memory; the branch back ends it."""
    labels = {line: number for number, line in enumerate(listing) if line.startswith(".L")}
    spans = []
    for end, line in enumerate(listing):
        target = re.search(r"^BRA.*`\((\.L_x_\d+)\)", line)
        if target and labels.get(target[1], end) < end:
            spans.append((labels[target[1]], end))
    innermost = [span for span in spans if not any(o != span and span[0] <= o[0] and o[1] <= span[1] for o in spans)]
    bodies = [[line for line in listing[a : b + 1] if not line.startswith(".L")] for a, b in innermost]
    return [body for body in bodies if any(line.startswith("LDG") for line in body)]


def _copying(listing: list[str]) -> int:
    """Return the number of instructions that are skipped unless an expert is written to a slot.

    They are the longest run of instructions between a branch forward and its label that stores and does not load.
    """
    labels = {line: number for number, line in enumerate(listing) if line.startswith(".L")}
    longest = 0
    for start, line in enumerate(listing):
        target = re.search(r"^BRA.*`\((\.L_x_\d+)\)", line)
        body = listing[start : labels.get(target[1], start)] if target else []
        if any(each.startswith("STG") for each in body) and not any(each.startswith(("LDG", "ATOM")) for each in body):
            longest = max(longest, sum(not each.startswith(".L") for each in body))
    return longest


def _counted(body: list[str]) -> dict[str, int]:
    return {
        "instructions": len(body),
        "stores": sum(line.startswith(("STG", "ATOM", "RED")) for line in body),
        "barriers": sum(line.startswith("BAR.") for line in body),
        "wide_loads": sum(line.startswith("LDG") and ".128" in line.split()[0] for line in body),
        "products": sum("MMA" in line.split()[0] for line in body),
        "shared_bytes": sum(map(_shared_bytes, body)),
    }


def _shared_bytes(line: str) -> int:
    """Return the bytes of shared memory that a thread reads or writes with an instruction."""
    name = line.split()[0]
    if not name.startswith(("LDS", "STS", "LDGSTS")):
        return 0
    if name.startswith(("LDSM", "STSM")):
        return 4 * int(name[-1] if name[-1].isdigit() else 1)  # of 4 bytes of each thread
    width = re.search(r"\.(128|64|U8|S8|U16|S16)\b", name)
    return {"128": 16, "64": 8, "U8": 1, "S8": 1, "U16": 2, "S16": 2}[width[1]] if width else 4


if __name__ == "__main__":
    main()
