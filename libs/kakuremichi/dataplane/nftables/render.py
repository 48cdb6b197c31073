"""Batches as data, and as the text nft reads. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby

from kakuremichi.dataplane.nftables.elements import Element
from kakuremichi.dataplane.nftables.limits import (
    POLICIES,
    STATEMENTS,
    Policy,
    policies_of,
    policy_removal,
    policy_script,
)
from kakuremichi.dataplane.nftables.skeleton import Chain, Container, Skeleton


@dataclass(frozen=True, slots=True)
class PutSkeleton:
    """Replace the table by an empty one with these sets, chains and rules."""

    skeleton: Skeleton


@dataclass(frozen=True, slots=True)
class RemoveElements:
    elements: tuple[Element, ...]


@dataclass(frozen=True, slots=True)
class AddElements:
    elements: tuple[Element, ...]


@dataclass(frozen=True, slots=True)
class RemovePolicies:
    """Chains of limits per visitor that no element names any more."""

    policies: tuple[Policy, ...]


@dataclass(frozen=True, slots=True)
class DeleteTable:
    pass


Step = PutSkeleton | RemoveElements | AddElements | RemovePolicies | DeleteTable
Batch = tuple[Step, ...]

# A longer command fills several netlink messages, and nft 1.0.6 spoils the first element of each further one: in a
# concatenation the mark arrives with its bytes reversed (seen at every 1,820th of 10,000 allow-list elements).
_PER_COMMAND = 400
_PER_COMMAND_LONG = 100  # a statement makes an element three times as long

# A set of intervals lists a single host without its prefix length, and takes it so; but nft 1.0.6 finds it again
# for a deletion only if it is written as an interval.
_HOST_LENGTH = {"allow4": "/32", "allow6": "/128"}


def script(batch: Batch, table: str) -> str:
    """The text for `nft -f -`. nft sends it as one transaction: all of it is applied or nothing."""
    return "".join(_step(step, table) for step in batch)


def _step(step: Step, table: str) -> str:
    match step:
        case PutSkeleton(skeleton):
            # Deleting what is not there fails; `destroy` does not exist before nft 1.0.7.
            head = f"add table inet {table}\ndelete table inet {table}\n"
            return head + _skeleton(skeleton, table)
        case RemoveElements(elements):
            return _elements("delete", elements, table, with_data=False)
        case AddElements(elements):
            policies = sorted(policies_of((element.container, element.data) for element in elements))
            made = "".join(policy_script(policy, table) for policy in policies)
            return made + _elements("add", elements, table, with_data=True)
        case RemovePolicies(policies):
            return "".join(policy_removal(policy, table) for policy in policies)
        case DeleteTable():
            return f"delete table inet {table}\n"


def _skeleton(skeleton: Skeleton, table: str) -> str:
    containers = "".join(_container(container) for container in skeleton.containers)
    chains = "".join(_chain(skeleton, chain) for chain in skeleton.chains)
    return f"table inet {table} {{\n{containers}{chains}}}\n"


def _container(container: Container) -> str:
    kind = "map" if container.data else "set"
    types = " . ".join(container.key) + (f" : {' . '.join(container.data)}" if container.data else "")
    words = [f"type {types}"]
    if container.size:
        flags = "dynamic,timeout" if container.timeout_s else "dynamic"
        words += [f"size {container.size}", f"flags {flags}"]
    if container.timeout_s:
        words.append(f"timeout {container.timeout_s}s")
    if container.interval:
        words.append("flags interval")
    if container.counter:
        words.append("counter")
    if container.statement:
        words.append(container.statement)
    body = "".join(f"    {word}\n" for word in words)
    return f"  {kind} {container.name} {{\n{body}  }}\n"


def _chain(skeleton: Skeleton, chain: Chain) -> str:
    hook = f"    type {chain.hook}; policy accept;\n" if chain.hook else ""
    rules = "".join(
        f'    {rule} comment "{skeleton.comment(chain, place)}"\n' for place, rule in enumerate(chain.rules)
    )
    return f"  chain {chain.name} {{\n{hook}{rules}  }}\n"


def _elements(verb: str, elements: Iterable[Element], table: str, *, with_data: bool) -> str:
    lines = []
    for container, group in groupby(sorted(elements), key=lambda element: element.container):
        words = [_element(element, with_data=with_data) for element in group]
        length = _PER_COMMAND_LONG if container in STATEMENTS else _PER_COMMAND
        for start in range(0, len(words), length):
            part = ", ".join(words[start : start + length])
            lines.append(f"{verb} element inet {table} {container} {{ {part} }}\n")
    return "".join(lines)


def _element(element: Element, *, with_data: bool) -> str:
    key = " . ".join(element.key)
    if element.container in _HOST_LENGTH and not set("/-") & set(element.key[-1]):
        key += _HOST_LENGTH[element.container]
    if not with_data or not element.data:
        return key
    if element.container in STATEMENTS:
        return f"{key} {STATEMENTS[element.container](int(element.data[0]))}"
    if element.container in POLICIES:
        return f"{key} : jump {Policy(element.container, int(element.data[0])).chain}"
    return f"{key} : {' . '.join(element.data)}"
