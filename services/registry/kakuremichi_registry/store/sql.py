"""Pieces of SQL that several reads share. Each read is one statement that answers one JSON object."""

LIVE_S = 90  # a node that reported within this many seconds is live

SERVICE_JSON = """
    json_build_object(
        'service_id', s.service_id, 'pool', s.pool, 'kind', s.kind, 'host', s.host, 'path', s.path,
        'first_port', s.first_port, 'last_port', s.last_port, 'sources', s.sources, 'updated_seq', s.updated_seq,
        'options', s.options, 'source', s.source,
        'targets', (select coalesce(json_agg(json_build_object(
                'target_id', t.target_id, 'agent', t.agent, 'proto', t.proto, 'agent_port', t.agent_port,
                'agent_last_port', t.agent_last_port, 'address', t.address, 'port', t.port) order by t.target_id),
                '[]'::json)
            from service_target t where t.service_id = s.service_id))
"""

KNOWN_NODE_JSON = """
    json_build_object('node_id', n.node_id, 'role', n.role, 'pool', n.pool, 'live', n.removed_at is null,
                      'serial', n.serial, 'epoch', n.epoch,
                      'identity_key', encode(n.identity_key, 'base64'), 'revoked', n.revoked_at is not null,
                      'updated_seq', n.updated_seq)
"""


def names(where: str) -> str:
    """The ids of live nodes as a JSON array."""
    found = "select coalesce(json_agg(n.node_id order by n.node_id), '[]'::json) from node n where n.removed_at is null"
    return f"({found} and {where})"
