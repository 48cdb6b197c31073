"""The pools and agents that somebody's role is granted for: outside of them nothing exists. Pure."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Empty is all."""

    pools: tuple[str, ...] = ()
    agents: tuple[str, ...] = ()

    @property
    def limited(self) -> bool:
        return bool(self.pools or self.agents)

    def has_pool(self, pool: str) -> bool:
        return not self.pools or pool in self.pools

    def has_agent(self, agent: str) -> bool:
        return not self.agents or agent in self.agents

    def has_placed(self, role: str, pool: str, node_id: str) -> bool:
        """Gateways belong to their pool: they are seen by whoever sees it."""
        return self.has_pool(pool) and (role == "gateway" or self.has_agent(node_id))

    def has_targets(self, agents: tuple[str, ...]) -> bool:
        """All of them, and at least one where agents are limited: else it would be somebody else's service too."""
        return all(map(self.has_agent, agents)) and (bool(agents) or not self.agents)

    def has_joining(self, role: str, node_id: str) -> bool:
        """Whether a join token for this node is one of theirs."""
        return not self.agents or (role == "agent" and node_id in self.agents)
