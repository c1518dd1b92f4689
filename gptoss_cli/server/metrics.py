"""Counters and gauges in Prometheus' text format."""

import threading
from collections import Counter

from gptoss_cli.server.job import Usage


class Metrics:
    """Counts of the work of the server since it started. Any thread may call any method."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: Counter[tuple[str, int]] = Counter()
        self._tokens: Counter[str] = Counter()
        self._first_token_seconds = 0.0
        self._decode_seconds = 0.0
        self._answers = 0

    def count_request(self, endpoint: str, status: int) -> None:
        """Count a response."""
        with self._lock:
            self._requests[endpoint, status] += 1

    def count_usage(self, usage: Usage) -> None:
        """Count the tokens of a job that has ended."""
        with self._lock:
            self._tokens["prompt"] += usage.prompt_tokens
            self._tokens["cached"] += usage.cached_tokens
            self._tokens["decoded"] += usage.completion_tokens
            if usage.first_token_seconds is not None:
                self._answers += 1
                self._first_token_seconds += usage.first_token_seconds
                self._decode_seconds += usage.decode_seconds

    def text(self, queue_length: int, conversations: int) -> str:
        """Return everything, with the gauges that others know."""
        with self._lock:
            requests = [
                f'gptoss_requests_total{{endpoint="{endpoint}",status="{status}"}} {count}'
                for (endpoint, status), count in sorted(self._requests.items())
            ]
            tokens = [
                line
                for name, what in (
                    ("prompt", "read as prompts"),
                    ("cached", "found in the KV cache"),
                    ("decoded", "decoded"),
                )
                for line in _metric(f"{name}_tokens_total", "counter", f"Tokens {what}.", self._tokens[name])
            ]
            rate = self._tokens["decoded"] / self._decode_seconds if self._decode_seconds else 0.0
            lines = [
                *_head("requests_total", "counter", "Responses by endpoint and status."),
                *requests,
                *_metric("queue_length", "gauge", "Requests that wait.", queue_length),
                *tokens,
                *_head("first_token_seconds", "summary", "Seconds to the first token."),
                f"gptoss_first_token_seconds_sum {self._first_token_seconds:.6f}",
                f"gptoss_first_token_seconds_count {self._answers}",
                *_metric("decode_tokens_per_second", "gauge", "Mean decode rate.", round(rate, 3)),
                *_metric("cached_conversations", "gauge", "KV sequences in memory.", conversations),
            ]
        return "\n".join(lines) + "\n"


def _head(name: str, kind: str, text: str) -> tuple[str, str]:
    return f"# HELP gptoss_{name} {text}", f"# TYPE gptoss_{name} {kind}"


def _metric(name: str, kind: str, text: str, value: float) -> tuple[str, ...]:
    return (*_head(name, kind, text), f"gptoss_{name} {value}")
