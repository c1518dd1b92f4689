"""Metrics in the format that Prometheus reads."""

import re

from gptoss_cli.server.job import Usage
from gptoss_cli.server.metrics import Metrics


def test_metrics_add_up_and_are_well_formed() -> None:
    metrics = Metrics()
    metrics.count_request("/v1/responses", 200)
    metrics.count_request("/v1/responses", 200)
    metrics.count_request("/v1/responses", 429)
    metrics.count_usage(Usage(100, 60, 20, first_token_seconds=0.5, decode_seconds=4.0))
    metrics.count_usage(Usage(10, 0, 0))
    text = metrics.text(3, 1)
    assert 'gptoss_requests_total{endpoint="/v1/responses",status="200"} 2\n' in text
    assert 'gptoss_requests_total{endpoint="/v1/responses",status="429"} 1\n' in text
    for line in ("queue_length 3", "prompt_tokens_total 110", "cached_tokens_total 60", "decoded_tokens_total 20",
                 "first_token_seconds_sum 0.500000", "first_token_seconds_count 1", "decode_tokens_per_second 5.0",
                 "cached_conversations 1"):  # fmt: skip
        assert f"\ngptoss_{line}\n" in text
    sample = r"gptoss_[a-z_]+(\{[a-z]+=\"[^\"]*\"(,[a-z]+=\"[^\"]*\")*\})? [0-9.]+"
    assert re.fullmatch(rf"((# (HELP|TYPE) gptoss_[a-z_]+ .+|{sample})\n)+", text)
