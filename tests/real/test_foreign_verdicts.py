"""What we say of a foreign ruleset against what the kernel does with a real packet to a real port."""

import asyncio
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from kakuremichi.dataplane.foreign.findings import Flow, findings
from kakuremichi.dataplane.foreign.host import Host, read_host
from kakuremichi.dataplane.foreign.kernel import changes, insert, read_ruleset
from kakuremichi.dataplane.foreign.mending import Accept, Marked, Mending, ToPort
from kakuremichi.dataplane.foreign.packet import Packet
from kakuremichi.dataplane.foreign.program import Place, Ruleset
from kakuremichi.dataplane.foreign.walk import Outcome, walk
from kakuremichi.dataplane.links.netlink import NetlinkError
from kakuremichi.lab import namespaces
from support.cable import HERE, PORT, THERE, Pair

pytestmark = pytest.mark.root

MARK = Marked(0x6B000000, 0xFF800000)
# As a table of ours does it: every flow to the port has the mark of a service.
OURS = "table inet kakuremichi { chain c { type filter hook prerouting priority mangle; ct mark set 0x6b000001; }; }\n"
HEAD = "table ip filter {\n"
INPUT = "chain INPUT { type filter hook input priority filter; policy drop;\n"

# The rules of a base chain with policy drop, and what becomes of the packet. None: nobody can say.
VERDICTS: dict[str, tuple[str, bool | None]] = {
    "nothing": ("", False),
    "our mark": ("ct mark and 0xff800000 == 0x6b000000 accept", True),
    "the mark of the other role": ("ct mark and 0xff800000 == 0x6b800000 accept", False),
    "new flows": ("ct state { established, related } accept; ct state new accept", True),
    "known flows only": ("ct state established,related accept; ct state invalid drop", False),
    "the port": ("udp dport 9000 accept", True),
    "another port": ("udp dport 9001 accept", False),
    "ports as a set": ("udp dport { 53, 9000 } accept", True),
    "ports as an interval": ("udp dport 8999-9001 accept", True),
    "intervals as a set": ("udp dport { 1-10, 8000-8999, 9001-9100 } accept", False),
    "the last of an interval": ("udp dport { 1-10, 8000-9000 } accept", True),
    "another protocol": ("tcp dport 9000 accept", False),
    "the network": ("ip saddr 192.0.2.0/25 accept", True),
    "other networks": ("ip saddr { 10.0.0.0/8, 192.168.0.0/16 } accept", False),
    "all but a network": ("ip saddr != 10.0.0.0/8 accept", True),
    "the interface": ('iifname "eth*" accept', True),
    "loopback by index": ("iif lo accept", False),
    "another interface": ('iifname != "eth0" accept', False),
    "to this host": ("fib daddr type local accept", None),
    "some packets": ("limit rate over 1/hour burst 5 packets accept", None),
    "a set of theirs": ("ip saddr @known accept", None),
    "a map of verdicts": ("udp dport vmap { 9000 : accept, 9001 : drop }", True),
    "a map of chains": ("meta l4proto vmap { tcp : goto no, udp : jump yes }", True),
    "a map by ranges": ("udp dport vmap { 1-8999 : accept, 9000-65535 : drop }", False),
    "a concatenation": ("meta l4proto . th dport { udp . 9000, tcp . 80 } accept", True),
    "a named map of verdicts": ("iifname vmap @zones", True),
    "a chain that returns": ("jump back; udp dport 9000 accept", True),
    "a chain that gives it away": ("goto back; udp dport 9000 accept", False),
    "reject before accept": ("reject; accept", False),
    "logged and counted": ('counter log prefix "seen" group 7; accept', True),
    "a mask": ("meta mark and 0xff == 0 accept", True),
    "a comparison": ("udp dport >= 9000 accept", True),
}
CHAINS = """
  set known { type ipv4_addr; elements = { 192.0.2.2 }; }
  chain yes { udp dport 9000 accept; }
  chain no { drop; }
  chain back { tcp dport 1 drop; return; }
  map zones { type ifname : verdict; elements = { "eth0" : jump yes, "lo" : accept }; }
"""


# The shape of what firewalld makes of a zone with one service.
FIREWALLD = """
table inet firewalld {
  chain filter_IN_public_pre { }
  chain filter_IN_public_deny { }
  chain filter_IN_public_allow { tcp dport 22 accept; ip6 daddr fe80::/64 udp dport 546 accept; }
  chain filter_IN_public {
    jump filter_IN_public_pre; jump filter_IN_public_deny; jump filter_IN_public_allow;
    meta l4proto { icmp, ipv6-icmp } accept
    reject with icmpx admin-prohibited
  }
  chain filter_INPUT_ZONES { iifname "lan0" goto filter_IN_public; goto filter_IN_public; }
  chain filter_INPUT {
    type filter hook input priority filter + 10; policy accept;
    ct state { established, related } accept
    ct status dnat accept
    iifname "lo" accept
    ct state invalid drop
    jump filter_INPUT_ZONES
    reject with icmpx admin-prohibited
  }
}
"""


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    with Pair() as made:
        yield made


def packet(host: Host, **others: Any) -> Packet:
    values: dict[str, Any] = {
        "dport": PORT, "iif": host.named("eth0"), "saddr": THERE, "daddr": HERE, "mark": 0x6B000001
    }  # fmt: skip
    return Packet("input", 4, "udp", **(values | others))


def said(pair: Pair) -> tuple[Ruleset, set[Outcome]]:
    ruleset, host = pair.run(read_ruleset), pair.run(read_host)
    (base,) = ruleset.bases
    return ruleset, set(walk(ruleset, base, packet(host)).outcomes)


class TestVerdicts:
    @pytest.mark.parametrize("name", VERDICTS)
    def test_what_is_said_to_be_certain_is_what_happens(self, pair: Pair, name: str) -> None:
        rules, expected = VERDICTS[name]
        pair.load(f"{OURS}{HEAD}{CHAINS}{INPUT}{rules}; }}; }}")

        _, outcomes = said(pair)

        assert outcomes >= {Outcome.ACCEPT if pair.arrives() else Outcome.DROP}
        if expected is not None:
            assert outcomes == {Outcome.ACCEPT if expected else Outcome.DROP}

    def test_a_loopback_or_translating_chain_and_our_own_table_are_not_looked_at(self, pair: Pair) -> None:
        pair.load(
            OURS
            + "table ip nat { chain P { type nat hook prerouting priority dstnat; policy accept; drop; }; }\n"
            + "table inet x { chain o { type filter hook output priority filter; policy drop; }; }\n"
        )

        assert pair.run(read_ruleset).bases == ()


class TestMending:
    @pytest.mark.parametrize("accept", [MARK, ToPort("udp", PORT)])
    def test_the_rule_lets_it_pass_and_is_found_again(self, pair: Pair, accept: Accept) -> None:
        pair.load(f"{OURS}{HEAD}{INPUT} }}; }}")
        assert not pair.arrives()
        host = pair.run(read_host)
        flow = Flow(accept, ((packet(host),),))
        (finding,) = findings(pair.run(read_ruleset), flow)

        pair.run(lambda: insert(finding.mending))

        after = pair.run(read_ruleset)
        assert pair.arrives()
        assert findings(after, flow) == ()
        assert [rule.comment for rule in after.rules[finding.mending.place]] == [finding.mending.comment]

    def test_the_command_that_is_printed_does_the_same(self, pair: Pair) -> None:
        pair.load(f"{OURS}table inet own {{ {INPUT} }}; }}")
        flow = Flow(MARK, ((packet(pair.run(read_host)),),))
        (finding,) = findings(pair.run(read_ruleset), flow)

        subprocess.run(namespaces.command(pair.names["here"], finding.mending.command.split()), check=True)

        assert pair.arrives()
        assert findings(pair.run(read_ruleset), flow) == ()

    def test_a_table_of_iptables_gets_matches_of_iptables(self, pair: Pair) -> None:
        pair.load(f"{OURS}{HEAD}{INPUT} }}; }}")
        place = Place("ip", "filter", "INPUT")
        pair.run(lambda: insert(Mending(place, ToPort("tcp", 1), iptables=True)))
        (finding,) = findings(pair.run(read_ruleset), Flow(MARK, ((packet(pair.run(read_host)),),)))
        assert finding.mending.command == "iptables -I INPUT -m connmark --mark 0x6b000000/0xff800000 -j ACCEPT"

        pair.run(lambda: insert(finding.mending))

        ruleset = pair.run(read_ruleset)
        assert pair.arrives()
        assert "ct" not in ruleset.names["ip", "filter"]
        assert next(rule.comment for rule in ruleset.rules[place]) == finding.mending.comment

    def test_firewalld_is_mended_in_its_zone_and_lets_translated_flows_pass_by_itself(self, pair: Pair) -> None:
        pair.load(FIREWALLD)
        host = pair.run(read_host)
        flow = Flow(ToPort("udp", PORT), ((packet(host),),))
        assert findings(pair.run(read_ruleset), Flow(MARK, ((packet(host, translated=True),),))) == ()
        assert not pair.arrives()
        (finding,) = findings(pair.run(read_ruleset), flow)
        assert finding.sentence == (
            "blocked-by inet firewalld filter_INPUT: "
            "nft insert rule inet firewalld filter_IN_public_allow udp dport 9000 accept"
        )

        pair.run(lambda: insert(finding.mending))

        assert pair.arrives()
        assert findings(pair.run(read_ruleset), flow) == ()

    def test_a_chain_that_is_gone_is_said_to_be(self, pair: Pair) -> None:
        pair.load("")
        with pytest.raises(NetlinkError, match="no such file or directory"):
            pair.run(lambda: insert(Mending(Place("ip", "filter", "GONE"), MARK, iptables=False)))


class TestNews:
    def test_a_change_of_others_is_heard_and_one_of_ours_is_not(self, pair: Pair) -> None:
        pair.load("")

        async def listen() -> int:
            news = changes(settle_s=0.05)
            heard = asyncio.ensure_future(anext(news))
            await asyncio.sleep(0)  # it has its socket now
            nft = namespaces.command(pair.names["here"], ["nft", "-f", "-"])
            for script in (OURS, "delete table inet kakuremichi\n"):
                await asyncio.to_thread(subprocess.run, nft, input=script.encode(), check=True)
            ours_heard = bool(await asyncio.wait({heard}, timeout=0.3) and heard.done())
            await asyncio.to_thread(subprocess.run, nft, input=b"add table ip other\n", check=True)
            async with asyncio.timeout(10):
                await heard
            return int(ours_heard)

        assert pair.run(listen) == 0
