"""What measurements read from other programs' output, and where they are taken."""

import pytest

from bench import __main__ as program
from bench.crowd import _http_service, _tcp_service
from bench.http2 import rate_of

H2LOAD = """\
Application protocol: h2

finished in 5.00s, 5120.40 req/s, 240.10KB/s
requests: 25602 total, 25858 started, 25602 done, 25602 succeeded, {failed} failed, 0 errored, 0 timeout
status codes: 25602 2xx, 0 3xx, 0 4xx, {server} 5xx
"""


class TestH2load:
    def test_the_rate_is_that_of_the_whole_run(self) -> None:
        assert rate_of(H2LOAD.format(failed=0, server=0)) == 5120.4

    @pytest.mark.parametrize(("failed", "server"), [(10, 0), (0, 3)])
    def test_one_failed_request_leaves_no_value(self, failed: int, server: int) -> None:
        with pytest.raises(ValueError, match=r"failed|5xx"):
            rate_of(H2LOAD.format(failed=failed, server=server))

    def test_another_protocol_than_http2_leaves_no_value(self) -> None:
        with pytest.raises(ValueError, match="h2"):
            rate_of(H2LOAD.format(failed=0, server=0).replace("protocol: h2", "protocol: http/1.1"))


class TestCrowdServices:
    def test_the_first_lead_to_the_agents_of_their_names_and_the_others_round_again(self) -> None:
        agents = [_http_service(number, 3).targets[0].agent for number in (1, 3, 4, 7)]

        assert agents == ["crowd-1", "crowd-3", "crowd-1", "crowd-1"]

    def test_each_tcp_service_has_a_port_of_its_own(self) -> None:
        ports = {_tcp_service(number, 3).first_port for number in range(1, 10_001)}

        assert len(ports) == 10_000
        assert min(ports) > 1024
        assert max(ports) < 32_768  # where outgoing connections begin


def test_each_measurement_is_taken_on_a_stage_that_there_is() -> None:
    assert {measurement.stage for measurement in program.MEASUREMENTS} == set(program.STAGES)
