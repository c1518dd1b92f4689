"""Access: names that lead to this machine, origins, and the key."""

import pytest

from gptoss_cli.server.access import Access, is_loopback
from gptoss_cli.server.failures import ApiError


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("localhost", True),
        ("app.localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.0.2.1", False),
        ("localhost.evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("2130706433", False),
        ("", False),
    ],
)
def test_addresses_of_this_machine_alone_are_known(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


def test_behind_a_key_any_host_is_answered_that_the_network_knows() -> None:
    access = Access("0.0.0.0", "secret")
    access.check_place("models.example:8484", None)
    access.check_key("Bearer secret")
    for authorization in (None, "", "secrets", "Bearer ", "Bearer secret "):
        with pytest.raises(ApiError) as caught:
            access.check_key(authorization)
        assert (caught.value.status, caught.value.code) == (401, "invalid_api_key")


def test_every_origin_can_be_allowed() -> None:
    Access(origins=frozenset({"*"})).check_place("localhost", "https://a.example")


@pytest.mark.parametrize("host", [None, "[", "evil.example", "user@localhost.evil.example"])
def test_a_host_that_does_not_lead_here_is_refused(host: str | None) -> None:
    with pytest.raises(ApiError) as caught:
        Access().check_place(host, None)
    assert caught.value.status == 403
