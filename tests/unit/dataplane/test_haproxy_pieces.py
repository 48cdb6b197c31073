"""Texts that are kept in pieces are those that everything rendered anew would be."""

from hypothesis import given
from hypothesis import strategies as st

from kakuremichi.dataplane.haproxy.diff import Route
from kakuremichi.dataplane.haproxy.naming import STREAM_FIRST, RouteMap
from kakuremichi.dataplane.haproxy.pieces import Backends, Maps
from kakuremichi.dataplane.haproxy.rendering import parse_maps, render_backend
from kakuremichi.model.ids import ServiceId

FIRSTS = (0, STREAM_FIRST)
KEYS = ("a.test", "*.a.test", "a.test/", "a.test/x", "a.test/x/", ":80", "b.test")

numbers = st.builds(lambda first, offset: first + offset, st.sampled_from(FIRSTS), st.integers(0, 300))
sizes = st.sampled_from((1, 100, 128, 200, 256, 400))


@given(st.lists(st.one_of(numbers, st.tuples(numbers, st.text("xyz", min_size=1)), sizes), max_size=40))
def test_backends_are_as_if_all_were_joined(steps: list[int | tuple[int, str]]) -> None:
    """A number alone drops a backend or, if it is small enough to be a size, looks at a pool of that size first."""
    kept, texts = Backends(), dict[int, str]()
    for step in steps:
        if isinstance(step, tuple):
            kept.put(*step)
            texts[step[0]] = step[1]
        else:
            kept.drop(step)
            texts.pop(step, None)
        size = step if isinstance(step, int) and 0 < step < STREAM_FIRST else 300
        for first in FIRSTS:
            pool = range(first, first + size)
            assert "".join(kept.pieces(pool)) == "".join(texts.get(number, render_backend(number)) for number in pool)


@given(st.lists(st.tuples(st.sampled_from(KEYS), st.integers(0, 3)), max_size=30))
def test_maps_hold_the_newest_route_of_each_key(steps: list[tuple[str, int]]) -> None:
    """Number 0 drops the key."""
    kept, routes = Maps(), dict[str, Route]()
    for key, number in steps:
        if number:
            routes[key] = Route(number, ServiceId(f"s-{number}"))
            kept.put(key, routes[key])
        else:
            routes.pop(key, None)
            kept.drop(key)
        texts = kept.texts()
        assert parse_maps(texts) == routes
        assert texts.keys() == set(RouteMap)
