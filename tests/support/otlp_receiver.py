"""A program: an OTLP collector as small as can be, which writes the spans that it is sent to a file.

python otlp_receiver.py ADDRESS PORT FILE
"""

import gzip
import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)


class Receiver(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    file: Path
    turn = Lock()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        right = self.path == "/v1/traces" and self.headers["Content-Type"] == "application/x-protobuf"
        if right:
            self._keep(gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body)
        answer = ExportTraceServiceResponse().SerializeToString()
        self.send_response(200 if right else 415)
        self.send_header("Content-Type", "application/x-protobuf")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def _keep(self, body: bytes) -> None:
        with self.turn, self.file.open("a") as out:
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                said = {each.key: each.value.string_value for each in resource.resource.attributes}
                for scope in resource.scope_spans:
                    for span in scope.spans:
                        line = {
                            "service": said["service.name"], "instance": said.get("service.instance.id", ""),
                            "name": span.name, "trace_id": span.trace_id.hex(), "span_id": span.span_id.hex(),
                            "parent_id": span.parent_span_id.hex(), "start_ns": span.start_time_unix_nano,
                            "end_ns": span.end_time_unix_nano, "links": [link.trace_id.hex() for link in span.links],
                            "error": span.status.message if span.status.code == 2 else "",
                        }  # fmt: skip
                        out.write(json.dumps(line) + "\n")

    def log_message(self, *_: object) -> None:
        """Nothing: the file is what it has to say."""


def main() -> None:
    address, port, file = sys.argv[1:]
    Receiver.file = Path(file)
    Receiver.file.touch()
    ThreadingHTTPServer((address, int(port)), Receiver).serve_forever()


if __name__ == "__main__":
    main()
