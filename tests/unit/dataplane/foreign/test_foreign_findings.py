"""Which services a ruleset blocks, which chain is named, and where the one rule against it goes."""

from collections.abc import Mapping
from dataclasses import replace
from ipaddress import IPv4Address

from kakuremichi.dataplane.foreign.findings import Flow, findings, may_be_dropped
from kakuremichi.dataplane.foreign.mending import Marked, Mending, ToPort, is_there
from kakuremichi.dataplane.foreign.messages import parse_rule
from kakuremichi.dataplane.foreign.packet import Interface, Packet
from kakuremichi.dataplane.foreign.program import (
    ACCEPT,
    DROP,
    JUMP,
    RETURN,
    BaseChain,
    Compare,
    Decide,
    Instruction,
    Load,
    Place,
    Rule,
    Ruleset,
    Unclear,
    Verdict,
)

FORWARD = Place("ip", "filter", "FORWARD")
MARK = Marked(0x6B000000, 0xFF800000)
PACKET = Packet("forward", 4, "tcp", 8080, iif=Interface("eth0", 2), saddr=IPv4Address("198.51.100.7"), mark=0x6B000001)
FLOW = Flow(MARK, ((PACKET,),))
FROM_ETH0 = (Load("meta", 0, 6), Compare(0, "==", b"eth0\0"))
FROM_DOCKER = (Load("meta", 0, 6), Compare(0, "==", b"docker0\0"))
TO_DOCKER = (Load("meta", 0, 7), Compare(0, "==", b"docker0\0"))


def says(code: int, *conditions: Instruction, chain: str = "", names: str = "immediate") -> Rule:
    return Rule((*conditions, Decide(Verdict(code, chain))), names=frozenset(names.split()))


def ruleset(chains: Mapping[str, tuple[Rule, ...]], *, drops: bool = True, base: Place = FORWARD) -> Ruleset:
    rules = {base._replace(chain=name): rules for name, rules in chains.items()}
    return Ruleset((BaseChain(base, "forward", drops),), rules)


class TestFindings:
    def test_a_policy_that_drops_names_its_chain_and_the_rule(self) -> None:
        (found,) = findings(ruleset({}), FLOW)
        rule = "iptables -I FORWARD -m connmark --mark 0x6b000000/0xff800000 -j ACCEPT"
        assert found.sentence == f"blocked-by ip filter FORWARD: {rule}"

    def test_what_may_pass_is_not_called_blocked(self) -> None:
        assert findings(ruleset({"FORWARD": (says(ACCEPT, Unclear("limit")),)}), FLOW) == ()
        assert may_be_dropped(ruleset({"FORWARD": (says(ACCEPT, Unclear("limit")),)}), FLOW)

    def test_a_rule_that_may_drop_is_not_called_blocked_either(self) -> None:
        rules = ruleset({"FORWARD": (says(DROP, Unclear("limit")),)}, drops=False)
        assert findings(rules, FLOW) == ()
        assert may_be_dropped(rules, FLOW)

    def test_rules_for_other_interfaces_are_not_ours(self) -> None:
        rules = ruleset({"FORWARD": (says(ACCEPT, *FROM_DOCKER), says(DROP, *FROM_DOCKER))}, drops=False)
        assert not may_be_dropped(rules, FLOW)

    def test_an_accept_in_one_chain_does_not_hinder_another_from_dropping(self) -> None:
        other = Place("inet", "own", "forward")
        rules = Ruleset(
            (BaseChain(FORWARD, "forward", drops=True), BaseChain(other, "forward", drops=True)),
            {FORWARD: (says(ACCEPT, *FROM_ETH0),)},
        )
        assert [found.base for found in findings(rules, FLOW)] == [other]

    def test_the_other_hook_and_the_other_family_do_not_count(self) -> None:
        rules = Ruleset(
            (BaseChain(FORWARD, "input", drops=True), BaseChain(FORWARD._replace(family="ip6"), "forward", drops=True))
        )
        assert findings(rules, FLOW) == ()

    def test_one_way_that_is_open_is_enough(self) -> None:
        open_way = replace(PACKET, iif=Interface("docker0", 5))
        rules = ruleset({"FORWARD": (says(ACCEPT, *FROM_DOCKER),)})
        assert findings(rules, Flow(MARK, ((PACKET,), (open_way,)))) == ()
        assert findings(rules, Flow(MARK, ((PACKET,), (PACKET,)))) != ()

    def test_an_answer_that_cannot_return_blocks_too(self) -> None:
        back = replace(PACKET, iif=Interface("kk0", 7), oif=Interface("eth0", 2), reply=True)
        rules = ruleset({"FORWARD": (says(ACCEPT, *FROM_ETH0),)})
        assert findings(rules, Flow(MARK, ((PACKET, back),))) != ()

    def test_a_chain_that_calls_itself_ends(self) -> None:
        rules = ruleset({"FORWARD": (says(JUMP, chain="a"),), "a": (says(JUMP, chain="a"),)})
        assert findings(rules, FLOW) == ()


class TestPlaces:
    def test_the_users_chain_of_docker_is_taken_if_the_packet_meets_it(self) -> None:
        rules = ruleset({"FORWARD": (says(JUMP, chain="DOCKER-USER"),), "DOCKER-USER": (says(RETURN),)})
        assert findings(rules, FLOW)[0].mending.place.chain == "DOCKER-USER"

    def test_one_that_is_met_only_by_others_is_not(self) -> None:
        rules = ruleset({"FORWARD": (says(JUMP, *TO_DOCKER, chain="DOCKER-USER"),), "DOCKER-USER": ()})
        assert findings(rules, FLOW)[0].mending.place.chain == "FORWARD"

    def test_one_behind_a_drop_is_not(self) -> None:
        rules = ruleset({"FORWARD": (says(DROP), says(JUMP, chain="ufw-before-forward")), "ufw-before-forward": ()})
        assert findings(rules, FLOW)[0].mending.place.chain == "FORWARD"

    def test_the_accepting_chain_of_the_zone_is_taken_in_firewalld(self) -> None:
        base = Place("inet", "firewalld", "filter_FORWARD")
        chains = {
            "filter_FORWARD": (says(JUMP, chain="filter_FWD_public"), says(DROP)),
            "filter_FWD_public": (
                says(JUMP, chain="filter_FWD_public_deny"),
                says(JUMP, chain="filter_FWD_public_allow"),
            ),
            "filter_FWD_public_deny": (says(DROP, *FROM_DOCKER),),
        }
        (found,) = findings(ruleset(chains, base=base, drops=False), FLOW)
        assert found.mending.command == (
            "nft insert rule inet firewalld filter_FWD_public_allow ct mark and 0xff800000 == 0x6b000000 accept"
        )

    def test_a_table_with_what_iptables_cannot_read_is_mended_with_nft(self) -> None:
        rules = ruleset({"FORWARD": (says(DROP, names="ct cmp immediate"),)})
        assert findings(rules, FLOW)[0].mending.command.startswith("nft insert rule ip filter FORWARD ")


class TestMessages:
    def test_a_rule_that_we_write_is_read_back_and_lets_the_packet_pass(self) -> None:
        flows = (FLOW, Flow(ToPort("tcp", 8080), ((PACKET,),)))
        for flow in flows:
            for iptables in (True, False):
                mending = Mending(FORWARD, flow.accept, iptables)
                parsed = parse_rule(memoryview(mending.message()))
                assert parsed is not None
                place, rule = parsed
                mended = ruleset({"FORWARD": (rule,)})
                assert place == FORWARD
                assert is_there(mended, mending)
                assert findings(mended, flow) == ()
                assert not may_be_dropped(mended, flow)

    def test_it_lets_nothing_else_pass(self) -> None:
        for accept in (MARK, ToPort("udp", 8080), ToPort("tcp", 80)):
            parsed = parse_rule(memoryview(Mending(FORWARD, accept, iptables=True).message()))
            assert parsed is not None
            stranger = Flow(accept, ((replace(PACKET, mark=0x6B800001),),))
            assert findings(ruleset({"FORWARD": (parsed[1],)}), stranger) != ()
