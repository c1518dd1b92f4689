"""`gptoss bench --server`: the speed of a server as one user of it sees it."""

import random
import time
from collections.abc import Collection
from dataclasses import dataclass

from gptoss_cli.chat.remote_opening import connect
from gptoss_cli.cli.hints import notifier
from gptoss_cli.cli.json_output import write_json
from gptoss_cli.cli.model_options import BenchOptions
from gptoss_cli.cli.server import required_server, server_json
from gptoss_cli.cli.server_options import ServerOptions
from gptoss_cli.errors import NetworkError, UsageError
from gptoss_cli.generation import Sampling
from gptoss_cli.harmony.vocabulary import FIRST_SPECIAL_ID, RESERVED_IDS
from gptoss_cli.remote.generator import RemoteGenerator
from gptoss_cli.terminal.console import Console
from gptoss_cli.terminal.tables import show_table


@dataclass(frozen=True, slots=True)
class _Run:
    """The times of one prompt and its answer."""

    prompt_tokens: int
    tokens: int
    first_token_seconds: float
    decode_seconds: float


def run_bench_of_server(
    servers: ServerOptions, given: Collection[str], options: BenchOptions, console: Console
) -> None:
    """Run `gptoss bench --server`. Raises NetworkError, and UsageError for options about this machine."""
    if options.kernels or options.context:
        raise UsageError("--kernels and --context measure this machine. Leave them out with --server.")
    request = required_server(servers, given)
    with console.activity() as activity:
        activity.say(f"Connecting to {request.address}")
        began = time.perf_counter()
        server, generator = connect(request, None, notifier(console))
        contact_seconds = time.perf_counter() - began
        runs = []
        for number in range(options.repeat + 1):
            activity.say(f"Answer {number} of {options.repeat}" if number else "A first answer, to warm up")
            runs.append(_run(generator, options.prompt, options.generate))
    measured = runs[1:]
    prefill = _Rates([run.prompt_tokens / run.first_token_seconds for run in measured])
    decode = _Rates([(run.tokens - 1) / run.decode_seconds for run in measured if run.tokens > 1])
    first = _Rates([run.first_token_seconds for run in measured])
    if options.as_json or not console.stdout.is_terminal:
        values = {
            **server_json(server),
            "contact_seconds": contact_seconds,
            "prompt_tokens": options.prompt,
            "generated_tokens": [run.tokens for run in measured],
            "first_token_seconds": first.values,
            "prefill_tokens_per_second": prefill.values,
            "decode_tokens_per_second": decode.values,
        }
        write_json(values, console)
        return
    rows = {
        "model": f"{server.model}, {server.summary}",
        "first contact": f"{contact_seconds:.2f} s",
        f"first token after {options.prompt:,} new tokens": f"{first.words(digits=2)} s",
        "prefill": f"{prefill.words()} tokens/s",
        f"decode of up to {options.generate:,} tokens": f"{decode.words()} tokens/s",
    }
    show_table(
        rows, "As one user sees it: the network and the other users of the server are in these figures.", console
    )


@dataclass(frozen=True, slots=True)
class _Rates:
    """Several measurements of one thing."""

    values: list[float]

    def words(self, *, digits: int = 1) -> str:
        """Return the median and the range."""
        if not self.values:
            return "unknown"
        ordered = sorted(self.values)
        median = ordered[len(ordered) // 2]
        return f"{median:.{digits}f} ({ordered[0]:.{digits}f} to {ordered[-1]:.{digits}f})"


def _run(generator: RemoteGenerator, prompt_tokens: int, count: int) -> _Run:
    """Send a prompt that no cache knows, and time the answer."""
    prompt = [random.randrange(FIRST_SPECIAL_ID) for _ in range(prompt_tokens)]
    began = time.perf_counter()
    for _ in generator.prefill(prompt):
        pass
    first, tokens = 0.0, 0
    for _ in generator.decode(Sampling(1), stop_ids=(), banned_ids=RESERVED_IDS, max_tokens=count):
        tokens += 1
        first = first or time.perf_counter() - began
    if not tokens:
        raise NetworkError("The server answered with nothing")
    return _Run(prompt_tokens, tokens, first, time.perf_counter() - began - first)
