"""Subjects of the bus. Templates name them in traces and metrics; functions fill them in."""

from kakuremichi.model.ids import NodeId, PoolName

POOL_FEED = "feed.pool.*"
FLEET_FEED = "feed.fleet.*"
AGENT_FEED = "feed.agent.*"
BEACON = "beacon.*.*"
AUDIT = "audit.*"
REPORT = "report.*"
TRACE = "trace.*.*"
ANNOUNCE = "req.keyring.announce.*"
SNAPSHOT = "req.registry.snapshot.*"
RENEW = "req.registry.renew.*"
WITNESS = "req.registry.witness.*"
KEY = "cp.registry.key"
COMMAND = "cp.registry.command"
HISTORY = "cp.registry.history"
PEOPLE = "cp.registry.people"
ARRIVALS = "cp.arrivals"
ASK_COUNTERS = "ask.counters.*"
COUNTERS = "counters.*"


def pool_feed(pool: PoolName) -> str:
    """What the gateways of a pool read."""
    return f"feed.pool.{pool}"


def fleet_feed(pool: PoolName) -> str:
    """What the agents of a pool read."""
    return f"feed.fleet.{pool}"


def agent_feed(node: NodeId) -> str:
    """What one agent reads."""
    return f"feed.agent.{node}"


def beacon(feed: str) -> str:
    """The subject of a shared feed's signed head; `feed.agent.<id>` has none, its head is in each report's answer."""
    _, scope, name = feed.split(".")
    return f"beacon.{scope}.{name}"


def announce(node: NodeId) -> str:
    return f"req.keyring.announce.{node}"


def snapshot(node: NodeId) -> str:
    return f"req.registry.snapshot.{node}"


def renew(node: NodeId) -> str:
    return f"req.registry.renew.{node}"


def witness(node: NodeId) -> str:
    return f"req.registry.witness.{node}"


def report(node: NodeId) -> str:
    return f"report.{node}"


def node_spans(node: NodeId) -> str:
    return f"trace.node.{node}"


def service_spans(service: str) -> str:
    return f"trace.service.{service}"


def ask_counters(pool: PoolName) -> str:
    """What portals ask the gateways of a pool."""
    return f"ask.counters.{pool}"


def counters(node: NodeId) -> str:
    """What one gateway answers, to every portal."""
    return f"counters.{node}"


def audit(topic: str) -> str:
    return f"audit.{topic}"


def reply_prefix(node: NodeId) -> str:
    """The inbox prefix of a node; the control plane answers nowhere else."""
    return f"reply.{node}"


def node_of(subject: str) -> NodeId:
    """The node that speaks: the last token, which the server lets it fill with its own id only."""
    return NodeId(subject.rsplit(".", 1)[1])


def answers_to(subject: str, reply: str) -> bool:
    """Whether `reply` is an inbox of the node that sent to `subject`; anything else would aim our answer at others."""
    return reply.startswith(f"{reply_prefix(node_of(subject))}.")
