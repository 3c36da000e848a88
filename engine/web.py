"""Requests to a server that may be slow, busy, broken or absent: bounded retries, and one sentence for each end."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

import httpx

from engine.errors import BadRequest, DownloadFailed

Report = Callable[[str, int, int], None]
T = TypeVar("T")
_BUSY = frozenset({408, 425, 429, 500, 502, 503, 504})
_ABSENT = frozenset({404, 410})
_SOURCE = re.compile(r"(?!\.+/)[\w.\-]+/(?!\.+\Z)[\w.\-]+\Z", re.ASCII)


@dataclass(frozen=True)
class Patience:
    """How long is waited for what; seconds."""

    attempts: int = 4
    pause: float = 1.0
    """Before the second attempt; doubled before each further one."""
    longest_pause: float = 60.0
    """A server that asks for more is not waited for."""
    connect: float = 5.0
    read: float = 30.0
    """Without a single byte."""
    whole: float = 120.0
    """For one document, however steadily it trickles; files may take as long as they need."""


def base_address(variable: str, default: str) -> str:
    """The address of a server: the environment variable's, or the default.

    Raises `BadRequest` where the variable holds no http address.
    """
    base = (os.environ.get(variable) or default).rstrip("/")
    try:
        parts = urlsplit(base)
    except ValueError:
        parts = urlsplit("")
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise BadRequest(f"{variable} is {base!r}, which is no address.", "Write http://HOST or https://HOST.")
    return base


def is_source(name: str) -> bool:
    """Whether a name is a `MODEL/SOURCE` that may stand in an address as it is, and leads nowhere else."""
    return _SOURCE.match(name) is not None


class NotThere(DownloadFailed):
    """The server answers that it has no such thing."""


class _Again(Exception):
    """What happened may pass; `after` is what the server asked to wait, if it did."""

    def __init__(self, why: str, after: float | None = None) -> None:
        super().__init__(why)
        self.after = after


class Web:
    """GET requests, repeated where that can help. Use as a context manager.

    `instead` is the sentence that says what to do without the network.
    """

    def __init__(self, instead: str, patience: Patience | None = None, report: Report | None = None) -> None:
        self._instead = instead
        self._patience = patience or Patience()
        self._report = report or (lambda text, done, total: None)
        timeout = httpx.Timeout(self._patience.read, connect=self._patience.connect)
        self._client = httpx.Client(
            timeout=timeout, follow_redirects=True, max_redirects=5, headers={"User-Agent": "saescope"}
        )

    def __enter__(self) -> Web:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def text(self, address: str, parameters: dict[str, str], largest: int, kind: str) -> str:
        """A small document of a kind, such as "a listing".

        Raises:
            NotThere: the server has no such document.
            DownloadFailed: it cannot be had, is larger than `largest` bytes, or is not UTF-8.
        """

        def whole() -> bytes:
            with self._get(address, parameters) as response:
                return self._bounded(response.iter_bytes(), largest, _host(address), kind)

        data: bytes = self._patiently(whole, address)
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError:
            raise DownloadFailed(f"{_host(address)} answered with something that is no text.", self._instead) from None

    def save(self, address: str, file: Path, size: int, arrived: Callable[[int], None]) -> None:
        """Keep a file of `size` bytes as it is; it has its name only once it is whole.

        Raises:
            DownloadFailed: it cannot be had, or has another size.
        """
        part = file.with_name(f"{file.name}.{os.getpid()}.part")

        def attempt() -> None:
            done = 0
            with self._get(address, {}) as response, part.open("wb") as out:
                for chunk in response.iter_raw():
                    done += len(chunk)
                    if done > size:
                        break
                    out.write(chunk)
                    arrived(done)
            if done != size:
                raise _Again(f"{Path(urlsplit(address).path).name} came with another size than {size:,} bytes")

        try:
            self._patiently(attempt, address)
            part.replace(file)
        finally:
            part.unlink(missing_ok=True)

    @contextmanager
    def _get(self, address: str, parameters: dict[str, str]) -> Iterator[httpx.Response]:
        headers = {"Accept-Encoding": "identity"}
        with self._client.stream("GET", address, params=parameters or None, headers=headers) as response:
            if response.status_code in _BUSY:
                raise _Again(f"{_host(address)} answers {response.status_code}", _wished_pause(response))
            if response.status_code != 200:
                failure = NotThere if response.status_code in _ABSENT else DownloadFailed
                raise failure(
                    f"{_host(address)} answers {response.status_code} {response.reason_phrase} "
                    f"for {urlsplit(address).path or '/'}.",
                    "Check the name; " + self._instead[0].lower() + self._instead[1:],
                )
            yield response

    def _patiently(self, attempt: Callable[[], T], address: str) -> T:
        """What an attempt returns; it is made again while that may help."""
        patience, pause = self._patience, self._patience.pause
        for number in range(1, patience.attempts + 1):
            try:
                return attempt()
            except _Again as again:
                why, wait = str(again), pause if again.after is None else again.after
            except (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError) as error:
                raise DownloadFailed(
                    f"{_host(address)} cannot be reached: {_said(error)}.", f"Check the network. {self._instead}"
                ) from None
            except (httpx.TimeoutException, httpx.NetworkError, httpx.RemoteProtocolError) as error:
                why, wait = f"{_host(address)} broke off ({_said(error)})", pause
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                raise DownloadFailed(f"{_host(address)} cannot be asked: {_said(error)}.", self._instead) from None
            if wait > patience.longest_pause:
                raise DownloadFailed(f"{why} and asks to wait {wait:.0f} s.", "Try again then.")
            if number < patience.attempts:
                self._report(f"{why}; attempt {number + 1} of {patience.attempts} in {wait:.0f} s", 0, 0)
                time.sleep(wait)
                pause *= 2
        raise DownloadFailed(f"{why}, {patience.attempts} times.", f"Try again later. {self._instead}")

    def _bounded(self, chunks: Iterator[bytes], largest: int, host: str, kind: str) -> bytes:
        data, end = bytearray(), time.monotonic() + self._patience.whole
        for chunk in chunks:
            data += chunk
            if len(data) > largest:
                raise DownloadFailed(f"{host} answered with more than {kind} ever has.", self._instead)
            if time.monotonic() > end:
                wait = self._patience.whole
                raise DownloadFailed(f"{host} took more than {wait:.0f} s for {kind}.", self._instead)
        return bytes(data)


def _wished_pause(response: httpx.Response) -> float | None:
    """`Retry-After`: seconds, or a date."""
    wish = response.headers.get("Retry-After", "").strip()
    if wish.isdecimal():
        return float(wish[:9])
    try:
        return max(0.0, (parsedate_to_datetime(wish) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError, OverflowError):
        return None


def _said(error: Exception) -> str:
    return str(error).rstrip(".") or type(error).__name__


def _host(address: str) -> str:
    return urlsplit(address).netloc or address
