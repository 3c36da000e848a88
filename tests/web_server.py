"""A real HTTP server on loopback: a public S3 bucket or an API as recorded, which can be told to misbehave.

with BucketServer({"v1/m/s/explanations/batch-0.jsonl.gz": data}) as server:
    server.misbehave("batch-0", Fault(status=503), times=2)
"""

from __future__ import annotations

import hashlib
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

_NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"


@dataclass(frozen=True)
class Fault:
    """What a request gets instead of its answer."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    """In place of the right one; None: the right one, unless the status is an error."""
    cut: int | None = None
    """Close the connection after so many bytes of the body."""
    pause: float = 0.0
    """Seconds before the answer, or before what `cut` leaves out."""
    trickle: float = 0.0
    """Seconds after every byte."""


@dataclass
class _Rule:
    part: str
    fault: Fault
    times: int
    spared: int


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that hang up are what these tests are about."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class BucketServer:
    """Serves objects by key, and lists them as ListObjectsV2 does; `requests` is what was asked, in order."""

    def __init__(self, objects: Mapping[str, bytes], page: int = 1000) -> None:
        self.objects = dict(objects)
        self.page = page
        self.requests: list[str] = []
        self._rules: list[_Rule] = []
        self._stop = threading.Event()
        bucket = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                bucket._answer(self)

            def log_message(self, *_: object) -> None:
                pass

        self._server = _Server(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)

    def __enter__(self) -> BucketServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._server.shutdown()
        self._server.server_close()

    def behave(self) -> None:
        """Answer everything as it should be from now on."""
        self._rules.clear()

    def listing(self, prefix: str, delimiter: str = "/") -> bytes:
        """What lies below a prefix, as its first page."""
        return self._listing({"prefix": prefix, "delimiter": delimiter})

    def misbehave(self, part: str, fault: Fault, times: int = 1_000_000, spared: int = 0) -> None:
        """The next so many requests whose address contains `part` get this instead, after some that are spared."""
        self._rules.append(_Rule(part, fault, times, spared))

    def asked_for(self, part: str) -> int:
        """How many requests had `part` in their address."""
        return sum(part in each for each in self.requests)

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        self.requests.append(unquote(handler.path))
        fault = self._fault(self.requests[-1])
        parts = urlsplit(handler.path)
        key = unquote(parts.path).lstrip("/")
        body, kind = self.objects.get(key), "application/x-gzip"
        status = fault.status
        if fault.body is not None:
            body = fault.body
        elif status != 200:
            body = b"<Error><Code>SlowDown</Code></Error>"
        elif not key:
            query = {name: values[0] for name, values in parse_qs(parts.query).items()}
            body, kind = self._listing(query), "application/xml"
        elif body is None:
            status, body = 404, f"<Error><Code>NoSuchKey</Code><Key>{escape(key)}</Key></Error>".encode()
        if fault.cut is None:
            self._stop.wait(fault.pause)
        handler.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **fault.headers}.items():
            handler.send_header(name, value)
        handler.end_headers()
        try:
            if fault.cut is not None:
                handler.wfile.write(body[: fault.cut])
                handler.wfile.flush()
                self._stop.wait(fault.pause)
                handler.close_connection = True
                return
            for piece in (body[n : n + 1] for n in range(len(body))) if fault.trickle else (body,):
                handler.wfile.write(piece)
                self._stop.wait(fault.trickle)
        except OSError:  # the other side gave up, as it should
            handler.close_connection = True

    def _fault(self, path: str) -> Fault:
        for rule in self._rules:
            if rule.part in path and rule.spared > 0:
                rule.spared -= 1
            elif rule.part in path and rule.times > 0:
                rule.times -= 1
                return rule.fault
        return Fault()

    def _listing(self, query: Mapping[str, str]) -> bytes:
        """ListObjectsV2: sorted by key, cut into pages, what lies deeper than the delimiter as common prefixes."""
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        entries: dict[str, str] = {}
        for key in sorted(self.objects):
            if not key.startswith(prefix):
                continue
            below, _, deeper = key.removeprefix(prefix).partition(delimiter) if delimiter else (key, "", "")
            if deeper:
                folder = f"{prefix}{below}{delimiter}"
                entries[folder] = f"<CommonPrefixes><Prefix>{escape(folder)}</Prefix></CommonPrefixes>"
            else:
                data = self.objects[key]
                entries[key] = (
                    f"<Contents><Key>{escape(key)}</Key><LastModified>2025-03-17T21:13:52.000Z</LastModified>"
                    f"<ETag>&quot;{hashlib.md5(data).hexdigest()}&quot;</ETag><Size>{len(data)}</Size>"
                    "<StorageClass>STANDARD</StorageClass></Contents>"
                )
        names = list(entries)
        start = names.index(query["continuation-token"]) if "continuation-token" in query else 0
        shown, more = names[start : start + self.page], names[start + self.page :]
        next_token = f"<NextContinuationToken>{escape(more[0])}</NextContinuationToken>" if more else ""
        return (
            f'<?xml version="1.0" encoding="UTF-8"?>\n<ListBucketResult xmlns="{_NAMESPACE}">'
            f"<Name>neuronpedia-datasets</Name><Prefix>{escape(prefix)}</Prefix>{next_token}"
            f"<KeyCount>{len(shown)}</KeyCount><MaxKeys>{self.page}</MaxKeys><Delimiter>{escape(delimiter)}</Delimiter>"
            f"<IsTruncated>{str(bool(more)).lower()}</IsTruncated>{''.join(entries[name] for name in shown)}"
            "</ListBucketResult>"
        ).encode()


def closed_port() -> str:
    """An address on loopback at which nothing listens."""
    with BucketServer({}) as server:
        address = server.address
    time.sleep(0.01)
    return address
