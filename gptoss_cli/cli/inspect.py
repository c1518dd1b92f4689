"""`gptoss inspect`: the parts, tensors and constants of one model, from config.json and headers alone."""

import datetime
import math
import re
import struct
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any

from gptoss_cli.architecture import count
from gptoss_cli.architecture.known import Architecture, ModelType
from gptoss_cli.architecture.rope import rotations
from gptoss_cli.architecture.tensors import (
    PartSize,
    Tensor,
    contradictions,
    counted_parts,
    part_of,
    stored_parts,
)
from gptoss_cli.chat.request import ChatRequest
from gptoss_cli.checkpoint import catalog, store
from gptoss_cli.checkpoint.folder import safetensors_files, weights_folder
from gptoss_cli.checkpoint.inspection import StoredTensor, read_data, read_stored_tensors
from gptoss_cli.cli.compare import find_model
from gptoss_cli.cli.environment import Environment
from gptoss_cli.cli.inspect_views import (
    Sinks,
    diagram_of,
    key_bias_lines,
    parts_lines,
    prompt_lines,
    rope_lines,
    sink_mass_lines,
    sinks_lines,
    tensors_lines,
)
from gptoss_cli.cli.json_output import write_json
from gptoss_cli.cli.model_options import InspectOptions
from gptoss_cli.errors import Hint, IntegrityError, NotInstalledError, UsageError
from gptoss_cli.generation import AttentionMeasurement
from gptoss_cli.harmony.conversation import Conversation
from gptoss_cli.harmony.prompt_tokens import PromptToken, prompt_tokens
from gptoss_cli.placement.model_config import published_config
from gptoss_cli.placement.tensor_specs import Layout, expected_tensors
from gptoss_cli.settings import ReasoningEffort
from gptoss_cli.terminal.architecture_table import diagram_lines, show_lines
from gptoss_cli.terminal.cells import Line

_EXPERIMENT_PROMPT = "Why does a language model attend to the first token of a text?"
CONTEXTS = (1_024, 4_096, 16_384, 32_768, 131_072)


@dataclass(frozen=True, slots=True)
class _Inspected:
    """A model, and the tensors of its files; None without files. `measured` is None unless the model was run."""

    model: Architecture
    stored: list[StoredTensor] | None
    measured: list[AttentionMeasurement] | None = None

    @property
    def tensors(self) -> list[Tensor] | None:
        if self.stored is None:
            return None
        return [Tensor(tensor.name, tensor.dtype, tensor.shape) for tensor in self.stored]

    @property
    def parts(self) -> list[PartSize]:
        tensors = self.tensors
        return counted_parts(self.model) if tensors is None else stored_parts(tensors)


def run_inspect(name: str, options: InspectOptions, environment: Environment) -> None:
    """Run `gptoss inspect`."""
    console, inspected = environment.console, _open(name)
    if options.experiment is not None or (options.sinks and options.prompt is not None):
        inspected = replace(inspected, measured=_measure(name, inspected, options, environment))
    if options.as_json:
        write_json(_inspection_json(inspected, options), console, indent=2)
        return
    lines: list[Line] = []
    for view in _views(inspected, options, console.stdout.columns):
        lines += [[], *view] if lines else view
    show_lines(lines, console)


def _views(inspected: _Inspected, options: InspectOptions, columns: int) -> Iterable[list[Line]]:
    """Yield the views that were asked for, else the table of parts."""
    model = inspected.model
    if options.diagram:
        yield diagram_lines(diagram_of(model), columns)
    if options.tensors:
        yield tensors_lines(_tensors(inspected), columns)
    if options.sinks:
        yield sinks_lines(model, _read_sinks(inspected), columns)
        if inspected.measured is not None:
            yield sink_mass_lines(inspected.measured, len(_measured_prompt(options)), columns)
    if options.experiment is not None:
        assert inspected.measured is not None
        yield key_bias_lines(inspected.measured, len(_measured_prompt(options)), columns)
    if options.rope:
        yield rope_lines(model, columns)
    if options.prompt is not None:
        yield prompt_lines(_prompt(options.prompt), columns)
    views = options.diagram, options.tensors, options.sinks, options.rope, options.experiment, options.prompt
    if all(view in (False, None) for view in views):
        source = model.source if inspected.stored is None else f"{len(inspected.stored)} tensors and {model.source}"
        yield parts_lines(model, inspected.parts, source, CONTEXTS, columns)


def _open(name: str) -> _Inspected:
    """Find a model and read the headers of its files, if there are any.

    Raises IntegrityError if headers and config contradict each other, and what find_model and the headers raise.
    """
    model, folder = find_model(name)
    if folder is None and model.model_type is ModelType.GPT_OSS:
        folder = store.installed().get(model.name)
        if folder is not None:
            read = find_model(str(folder))[0]
            model = replace(read, name=model.name, released=model.released, license=model.license)
    if folder is None or not any(map(safetensors_files, (folder, folder / "original"))):
        return _Inspected(model, None)
    files = weights_folder(folder)
    inspected = _Inspected(model, read_stored_tensors(files))
    problems = contradictions(model, inspected.parts)
    if problems:
        published = catalog.find_model(name)
        hints = () if published is None else (Hint.DOWNLOAD,)
        raise IntegrityError(
            f"{files}: {'; '.join(problems)}", *hints, subject=published.short_name if published else ""
        )
    return inspected


def _tensors(inspected: _Inspected) -> list[Tensor]:
    """Return the tensors of the files, or those that the published checkpoint has. Raises UsageError without either."""
    if inspected.tensors is not None:
        return inspected.tensors
    model = inspected.model
    if model.model_type is not ModelType.GPT_OSS or not model.released:
        raise UsageError(f"{model.name}: the tensors can be listed only from the files of a checkpoint")
    config = published_config(layers=model.layers, experts=model.experts)
    specs = expected_tensors(config, Layout.HUGGING_FACE)
    return [Tensor(name, spec.dtype, spec.shape) for name, spec in specs.items()]


def _read_sinks(inspected: _Inspected) -> list[Sinks]:
    """Return the sink logits of each layer. Reads those tensors alone."""
    model = inspected.model
    if not model.sinks:
        raise UsageError(f"{model.name} has no sinks")
    if inspected.stored is None:
        known = catalog.find_model(model.name)
        name = known.short_name if known else model.name
        raise NotInstalledError(f"{model.name} is not downloaded", Hint.DOWNLOAD, subject=name)
    found = {}
    for tensor in inspected.stored:
        match = re.search(r"\.(\d{1,5})\.(?:self_attn|attn)\.sinks$", tensor.name)
        if match:
            layer = int(match[1])
            if layer >= model.layers or tensor.shape != (model.query_heads,):
                problem = f"should have {model.query_heads} values in one of {model.layers} layers"
                raise IntegrityError(f"{tensor.path}: tensor {tensor.name} {problem}")
            found[layer] = Sinks(layer, model.windows[layer], _floats(tensor))
    return [found[layer] for layer in sorted(found)]


def _floats(tensor: StoredTensor) -> tuple[float, ...]:
    """Return the values of a BF16 or F32 tensor. Raises IntegrityError for another dtype, and for NaN."""
    data = read_data(tensor)
    if tensor.dtype == "BF16":
        # A bfloat16 is the upper half of a float32.
        data = b"".join(b"\0\0" + data[i : i + 2] for i in range(0, len(data), 2))
    elif tensor.dtype != "F32":
        raise IntegrityError(f"{tensor.path}: tensor {tensor.name} should be BF16, not {tensor.dtype}")
    values = struct.unpack(f"<{len(data) // 4}f", data)
    if not all(map(math.isfinite, values)):
        raise IntegrityError(f"{tensor.path}: tensor {tensor.name} has values that are not finite")
    return values


def _measure(
    name: str, inspected: _Inspected, options: InspectOptions, environment: Environment
) -> list[AttentionMeasurement]:
    """Run the model on the prompt. Raises UsageError for a model that gptoss cannot run, and what opening raises."""
    if inspected.model.model_type is not ModelType.GPT_OSS:
        raise UsageError(f"{inspected.model.name} cannot be run. Measure gpt-oss: 20b, 120b, demo, or a folder")
    opened = environment.open(ChatRequest(model=name, kv_limit_bytes=0))
    assert opened.measure_attention is not None, "a model on this machine can be measured"
    return list(opened.measure_attention([token.id for token in _measured_prompt(options)]))


def _measured_prompt(options: InspectOptions) -> list[PromptToken]:
    return _prompt(_EXPERIMENT_PROMPT if options.prompt is None else options.prompt)


def _prompt(text: str) -> list[PromptToken]:
    """Return the tokens of the prompt for a first message, as a new conversation of today begins."""
    conversation = Conversation(None, datetime.date.today(), ReasoningEffort.MEDIUM)
    conversation.add_user(text)
    return prompt_tokens(conversation.render())


def _inspection_json(inspected: _Inspected, options: InspectOptions) -> dict[str, Any]:
    """Return the object of `inspect --json` without the version. The views that were asked for add keys."""
    model = inspected.model
    values: dict[str, Any] = {
        "model": model.name,
        "model_type": model.model_type,
        "source": model.source,
        "from_headers": inspected.stored is not None,
        "layers": model.layers,
        "parameters": count.parameters(model),
        "active_parameters": count.active_parameters_without_embedding(model),
        "active_parameters_with_embedding": count.active_parameters(model),
        "parts": [
            {
                "part": size.part,
                "parameters": size.parameters,
                "bytes": size.size_bytes,
                "bf16_bytes": count.BF16_BYTES * size.parameters,
                "formats": list(size.formats),
            }
            for size in inspected.parts
        ],
        "contexts": [
            {
                "tokens": tokens,
                "kv_bytes": count.kv_cache_bytes(model, tokens),
                "kv_bytes_without_windows": count.kv_cache_bytes_without_windows(model, tokens),
                "attention_flops": count.attention_flops_per_token(model, tokens),
            }
            for tokens in CONTEXTS
            if not 0 < model.learned_positions < tokens
        ],
        "matrix_flops": count.matrix_flops_per_token(model),
        "bytes_per_token": count.bytes_per_decoded_token(model),
    }
    return values | _views_json(inspected, options)


def _views_json(inspected: _Inspected, options: InspectOptions) -> dict[str, Any]:
    values: dict[str, Any] = {}
    if options.tensors:
        values["tensors"] = [
            {"name": t.name, "part": part_of(t.name), "dtype": t.dtype, "shape": list(t.shape), "bytes": t.size_bytes}
            for t in _tensors(inspected)
        ]
    if options.sinks:
        values["sinks"] = [
            {"layer": sinks.layer, "window": sinks.window or None, "logits": list(sinks.logits)}
            for sinks in _read_sinks(inspected)
        ]
        if inspected.measured is not None:
            for entry, layer in zip(values["sinks"], inspected.measured, strict=True):
                entry["mass"] = list(layer.sink_mass)
    if options.experiment is not None:
        assert inspected.measured is not None
        values["key_bias"] = [_key_bias_json(layer) for layer in inspected.measured]
    if options.rope:
        values["rope"] = [
            {"pair": r.pair, "period_without_yarn": r.plain_period, "period": r.period}
            for r in rotations(inspected.model)
        ]
    if options.prompt is not None:
        values["prompt"] = [
            {"id": token.id, "text": token.text, "role": token.role, "channel": token.channel}
            for token in _prompt(options.prompt)
        ]
    return values


def _key_bias_json(layer: AttentionMeasurement) -> dict[str, Any]:
    return {name: value for name, value in asdict(layer).items() if name != "sink_mass"}
