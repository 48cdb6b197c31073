"""The portal's settings."""

import pytest

from kakuremichi.runtime.config import ConfigError, read_config
from kakuremichi_portal.config import PortalConfig

GOOD = {
    "KAKUREMICHI_NATS_URL": "nats://127.0.0.1:4222",
    "KAKUREMICHI_NATS_CREDENTIALS": "/etc/kakuremichi/portal.creds",
    "KAKUREMICHI_LISTEN": "[::1]:8443",
    "KAKUREMICHI_PUBLIC_URL": "https://control.example.com",
    "KAKUREMICHI_API_TOKENS": "/etc/kakuremichi/api-tokens.json",
    "KAKUREMICHI_TRUST_SHA256": "ab" * 32,
    "KAKUREMICHI_NODE_NATS_URL": "nats://control.example.com:4222",
}


def test_the_environment_says_where_to_listen_and_what_nodes_are_told() -> None:
    config = read_config(PortalConfig, GOOD)
    assert config.address == ("::1", 8443)
    assert (config.anchor.url, config.anchor.ca, config.anchor.trust) == (
        "https://control.example.com", b"", bytes.fromhex("ab" * 32),
    )  # fmt: skip
    assert config.node_nats_url == "nats://control.example.com:4222"


def test_all_faults_are_told_together_and_name_their_variables() -> None:
    with pytest.raises(ConfigError) as refused:
        read_config(PortalConfig, {"KAKUREMICHI_PUBLIC_URL": "control.example.com/x", "KAKUREMICHI_TRUST_SHA256": "ab"})
    told = {fault.partition(":")[0] for fault in refused.value.faults}
    assert told == GOOD.keys() - {"KAKUREMICHI_LISTEN"}


@pytest.mark.parametrize("listen", ["8080", "127.0.0.1", ":8080", "127.0.0.1:99999", "[::1:80"])
def test_a_listening_address_that_is_none_is_refused(listen: str) -> None:
    with pytest.raises(ConfigError, match="KAKUREMICHI_LISTEN"):
        read_config(PortalConfig, GOOD | {"KAKUREMICHI_LISTEN": listen}).address  # noqa: B018  # reading it checks it
