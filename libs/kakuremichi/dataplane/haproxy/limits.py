"""Limits of one service as lines of its backend: who may come, how often, how many at once. Pure.

A backend has one table. Under the address `::`, which no visitor has, it counts for all of them together; an IPv6
visitor counts with his /64, in which he may change addresses. A reload forgets the last second, no more.
"""

from collections.abc import Sequence

from kakuremichi.dataplane.haproxy.capabilities import Capabilities
from kakuremichi.model.options import Limits

_VISITORS_KNOWN = "100k"
_SOURCES_A_LINE = 32  # HAProxy takes 64 words a line
_ALL, _EACH = "str(::)", "src,ipmask(32,64)"


def source_rules(sources: Sequence[str], refuse: str) -> tuple[str, ...]:
    """`refuse` is the rule for everybody else."""
    if not sources:
        return ()
    lines = [sources[start : start + _SOURCES_A_LINE] for start in range(0, len(sources), _SOURCES_A_LINE)]
    return (*(f"acl is_source src {' '.join(line)}" for line in lines), f"{refuse} unless is_source")


def table_rule(limits: Limits, capabilities: Capabilities) -> tuple[str, ...]:
    counted = [
        *(["gpc0_rate(1s)"] if limits.rate or limits.rate_per_client else []),
        *(["conn_cur"] if limits.connections_per_client else []),
        *(["bytes_out_rate(1s)"] if capabilities.bandwidth and _has_bandwidth(limits) else []),
    ]
    if not counted:
        return ()
    return (f"stick-table type ipv6 size {_VISITORS_KNOWN} expire 10s store {','.join(counted)}",)


def http_limit_rules(limits: Limits) -> tuple[str, ...]:
    """Requests. Only those that are let through count, so that a flood does not keep everybody out."""
    refuse = "http-request deny deny_status 429 if"
    return (*_tracking("http-request", limits), *_rules("http-request", refuse, limits))


def stream_limit_rules(limits: Limits) -> tuple[str, ...]:
    """Connections."""
    when = "tcp-request content"
    return (*_tracking(when, limits), *_rules(when, f"{when} reject if", limits))


def _tracking(when: str, limits: Limits) -> tuple[str, ...]:
    # Counter 0 is the front end's own.
    return (
        *([f"{when} track-sc1 {_ALL}"] if limits.rate else []),
        *([f"{when} track-sc2 {_EACH}"] if limits.rate_per_client or limits.connections_per_client else []),
    )


def _rules(when: str, refuse: str, limits: Limits) -> tuple[str, ...]:
    return (
        *([f"{refuse} {{ be_conn gt {limits.connections} }}"] if limits.connections else []),
        *([f"{refuse} {{ sc2_conn_cur gt {limits.connections_per_client} }}"] if limits.connections_per_client else []),
        *([f"{refuse} {{ sc2_gpc0_rate ge {limits.rate_per_client} }}"] if limits.rate_per_client else []),
        *([f"{refuse} {{ sc1_gpc0_rate ge {limits.rate} }}"] if limits.rate else []),
        *([f"{when} sc-inc-gpc0(1)"] if limits.rate else []),
        *([f"{when} sc-inc-gpc0(2)"] if limits.rate_per_client else []),
    )


def bandwidth_rules(limits: Limits, capabilities: Capabilities, when: str) -> tuple[str, ...]:
    """Bytes per second towards visitors, from HAProxy 2.7 on; before that nftables limits what the tunnel brings."""
    if not capabilities.bandwidth:
        return ()
    filters = [
        *([("bandwidth_all", limits.bandwidth, _ALL)] if limits.bandwidth else []),
        *([("bandwidth_each", limits.bandwidth_per_client, _EACH)] if limits.bandwidth_per_client else []),
    ]
    return (
        *(f"filter bwlim-out {name} limit {limit} key {key}" for name, limit, key in filters),
        *(f"{when} set-bandwidth-limit {name}" for name, _, _ in filters),
    )


def _has_bandwidth(limits: Limits) -> bool:
    return limits.bandwidth > 0 or limits.bandwidth_per_client > 0
