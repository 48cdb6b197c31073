"""A gRPC service and a visitor of it, as programs: the library makes its sockets in threads of its own, so that
they can be in a namespace only with their process.

    python grpc_echo.py serve 127.0.0.1:9960
    python grpc_echo.py visit 203.0.113.1:443 grpc.lab.test [ca.pem]     JSON: what each kind of call has brought
"""

import json
import queue
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc  # type: ignore[import-untyped]  # ships no types

SERVICE = "lab.Echo"
LARGE = bytes(range(256)) * 4096  # a mebibyte
CALL_S = 20
GIVEN_UP = threading.Semaphore(0)


def say(request: bytes, context: Any) -> bytes:
    """One message back, with a trailer beside the status."""
    context.set_trailing_metadata((("x-answered-by", "site"),))
    return request


def count(request: bytes, _: Any) -> Iterator[bytes]:
    for number in range(int(request)):
        yield str(number).encode()


def join(requests: Iterable[bytes], _: Any) -> bytes:
    return b" ".join(requests)


def chat(requests: Iterable[bytes], _: Any) -> Iterator[bytes]:
    """Each answer before the next question."""
    for request in requests:
        yield request.upper()


def fail(_: bytes, context: Any) -> bytes:
    context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not on Sundays: 50% off")
    raise AssertionError  # abort has raised


def wait(_: bytes, context: Any) -> Iterator[bytes]:
    """One message, then silence until the visitor has given up."""
    ended = threading.Event()
    context.add_callback(ended.set)
    yield b"begun"
    if ended.wait(CALL_S):
        GIVEN_UP.release()


def given_up(_: bytes, __: Any) -> bytes:
    """Whether the end of one `wait` has arrived here, as soon as it has."""
    return b"yes" if GIVEN_UP.acquire(timeout=CALL_S / 2) else b"no"


def serve(address: str) -> None:
    handlers = {
        "Say": grpc.unary_unary_rpc_method_handler(say),
        "Count": grpc.unary_stream_rpc_method_handler(count),
        "Join": grpc.stream_unary_rpc_method_handler(join),
        "Chat": grpc.stream_stream_rpc_method_handler(chat),
        "Fail": grpc.unary_unary_rpc_method_handler(fail),
        "Wait": grpc.unary_stream_rpc_method_handler(wait),
        "GivenUp": grpc.unary_unary_rpc_method_handler(given_up),
    }
    server = grpc.server(ThreadPoolExecutor(8))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    server.add_insecure_port(address)
    server.start()
    server.wait_for_termination()


def visit(address: str, host: str, ca: Path | None) -> dict[str, Any]:
    """Every kind of call; over TLS if there is an authority to check it by, else HTTP/2 in clear."""
    with _channel(address, host, ca) as channel:
        answer, call = _method(channel.unary_unary, "Say").with_call(b"hello", timeout=CALL_S)
        large = _method(channel.unary_unary, "Say")(LARGE, timeout=CALL_S)
        counted = list(_method(channel.unary_stream, "Count")(b"100", timeout=CALL_S))
        joined = _method(channel.stream_unary, "Join")(iter([b"a", b"b", b"c"]), timeout=CALL_S)
        return {
            "said": answer.decode(),
            "trailers": {item.key: item.value for item in call.trailing_metadata()},
            "large": large == LARGE,
            "counted": counted == [str(number).encode() for number in range(100)],
            "joined": joined.decode(),
            "chat": _conversation(channel),
            "refused": _status(channel, "Fail"),
            "unknown": _status(channel, "Unheard")[:1],
            "cancelled": _cancelled(channel),
        }


def _channel(address: str, host: str, ca: Path | None) -> Any:
    if ca is None:
        return grpc.insecure_channel(address, (("grpc.default_authority", host),))
    trusted = grpc.ssl_channel_credentials(ca.read_bytes())
    return grpc.secure_channel(address, trusted, (("grpc.ssl_target_name_override", host),))


def _method(kind: Callable[..., Any], name: str) -> Any:
    return kind(f"/{SERVICE}/{name}")


def _conversation(channel: Any) -> list[str]:
    """A question goes out only when the answer to the one before is here, on one call."""
    questions: queue.Queue[bytes | None] = queue.Queue()
    answers = _method(channel.stream_stream, "Chat")(iter(questions.get, None), timeout=CALL_S)
    heard = []
    for question in (b"who", b"is", b"there"):
        questions.put(question)
        heard.append(next(answers).decode())
    questions.put(None)
    return [*heard, *(left.decode() for left in answers)]


def _cancelled(channel: Any) -> str:
    """What the server says after the visitor has hung up in the middle of an answer."""
    answers = _method(channel.unary_stream, "Wait")(b"", timeout=10 * CALL_S)  # its deadline is not what ends it
    next(answers)
    answers.cancel()
    heard: bytes = _method(channel.unary_unary, "GivenUp")(b"", timeout=CALL_S)
    return heard.decode()


def _status(channel: Any, name: str) -> list[str]:
    """The status and its message."""
    try:
        _method(channel.unary_unary, name)(b"", timeout=CALL_S)
    except grpc.RpcError as error:
        return [error.code().name, error.details()]
    return ["OK", ""]


if __name__ == "__main__":
    _, what, address, *more = sys.argv
    if what == "serve":
        serve(address)
    else:
        host, *files = more
        print(json.dumps(visit(address, host, Path(files[0]) if files else None)))  # noqa: T201
