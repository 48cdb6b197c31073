"""Account claims from the topology: what each account shares, and one scoped signing key per role. Pure.

nats-server takes the permissions of a scoped user from the account's template and refuses a user JWT that brings its
own. The accounts have no other signing key, and with `strict_signing_key_usage` their own key signs no user: there is
nobody who could make an unlimited one.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from kakuremichi.bus.topology import EXPORTS, MAX_PAYLOAD_BYTES, ROLES, AccountName, Role

UNLIMITED = -1
MOST_SUBSCRIPTIONS = 16  # of a node; it needs six
NODE_NAME, NODE_POOL = "{{name()}}", "{{tag(pool)}}"


def operator_claims(system_account: str, signing_key: str) -> dict[str, Any]:
    return {
        "type": "operator",
        "version": 2,
        "system_account": system_account,
        "signing_keys": [signing_key],
        "strict_signing_key_usage": True,  # the root key signs no account, an account's own key no user
    }


def account_claims(
    name: AccountName,
    accounts: Mapping[AccountName, str],
    signing_keys: Mapping[str, str],
    *,
    revoked: Mapping[str, int] | None = None,
    roles: Iterable[Role] = ROLES,
) -> dict[str, Any]:
    """What an account's JWT says under `nats`.

    `accounts` are public keys by name, `signing_keys` public keys by role, `revoked` maps users' public keys to the
    Unix second up to which their JWTs count for nothing.
    """
    claims: dict[str, Any] = {
        "type": "account",
        "version": 2,
        "limits": _limits(jetstream=name == "CP"),
        "default_permissions": {"pub": {"deny": [">"]}, "sub": {"deny": [">"]}},
        "signing_keys": [_scope(role, signing_keys[role.name]) for role in roles if role.account == name],
        "exports": [_share(subject) for subject in EXPORTS.get(name, ())],
        "imports": [
            {**_share(subject), "account": accounts[other]}
            for other, subjects in EXPORTS.items()
            for subject in subjects
            if other != name and name in EXPORTS
        ],
    }
    if revoked:
        claims["revocations"] = dict(sorted(revoked.items()))
    return claims


def _share(subject: str) -> dict[str, Any]:
    return {"name": subject, "subject": subject, "type": "stream"}


def _limits(*, jetstream: bool) -> dict[str, Any]:
    limits: dict[str, Any] = dict.fromkeys(("subs", "data", "payload", "imports", "exports", "conn"), UNLIMITED)
    limits |= {"wildcards": True, "leaf": 0}
    if jetstream:
        limits |= dict.fromkeys(("mem_storage", "disk_storage", "streams", "consumer", "max_ack_pending"), UNLIMITED)
    return limits


def _scope(role: Role, signing_key: str) -> dict[str, Any]:
    if not role.publish or not role.subscribe:
        raise ValueError(f"role {role.name}: an empty list of subjects would allow all of them")
    template = role.rendered(node=NODE_NAME, pool=NODE_POOL)
    is_node = role.account == "EDGE"
    return {
        "kind": "user_scope",
        "key": signing_key,
        "role": role.name,
        "template": {
            "pub": {"allow": list(template.publish)},
            "sub": {"allow": list(template.subscribe)},
            "subs": MOST_SUBSCRIPTIONS if is_node else UNLIMITED,
            "data": UNLIMITED,
            "payload": MAX_PAYLOAD_BYTES if is_node else UNLIMITED,
            "allowed_connection_types": ["STANDARD", "WEBSOCKET"] if is_node else ["STANDARD"],
        },
    }
