"""A terminal for tests: a pty, the program in it, a screen in memory that reads what it draws, bytes counted."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import termios
import time
from collections.abc import Callable, Mapping, Sequence

import pyte

_QUERY_SYNC = b"\x1b[?2026$p"
_ANSWER_SYNC = b"\x1b[?2026;2$y"


class Terminal:
    """Runs a program in a pty of a given size and kind."""

    def __init__(
        self,
        command: Sequence[str],
        size: tuple[int, int] = (120, 40),
        environment: Mapping[str, str] | None = None,
        term: str = "xterm-256color",
    ) -> None:
        columns, lines = size
        self.screen = pyte.Screen(columns, lines)
        self._stream = pyte.ByteStream(self.screen)
        self.received = bytearray()
        self.pid, self._fd = pty.fork()
        if self.pid == 0:  # the child
            wanted = {k: v for k, v in os.environ.items() if k not in {"COLORTERM", "NO_COLOR", "TMUX"}}
            wanted |= {"TERM": term, "COLUMNS": "", "LINES": "", **(environment or {})}
            wanted = {k: v for k, v in wanted.items() if v}
            os.execvpe(command[0], list(command), wanted)
        fcntl.ioctl(self._fd, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    # --- reading ------------------------------------------------------------------------------------------------

    def read(self, seconds: float) -> int:
        """Take what comes for a while; the number of bytes."""
        before, end = len(self.received), time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if not select.select([self._fd], [], [], left)[0]:
                break
            try:
                data = os.read(self._fd, 1 << 16)
            except OSError:
                break
            if not data:
                break
            self.received += data
            self._stream.feed(data)
            if _QUERY_SYNC in data:
                os.write(self._fd, _ANSWER_SYNC)
        return len(self.received) - before

    def settle(self, quiet: float = 0.4, limit: float = 20) -> int:
        """Read until nothing has come for a while; the number of bytes."""
        before, end = len(self.received), time.monotonic() + limit
        while time.monotonic() < end and self.read(quiet):
            pass
        return len(self.received) - before

    def wait_for(self, condition: str | Callable[[str], object], seconds: float = 60) -> str:
        """Read until the screen shows something."""
        shows = (lambda text: condition in text) if isinstance(condition, str) else condition
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if shows(self.text):
                return self.text
            self.read(0.05)
        raise AssertionError(f"not shown within {seconds} s: {condition}\n{self.text}")

    @property
    def text(self) -> str:
        return "\n".join(self.screen.display)

    # --- writing ------------------------------------------------------------------------------------------------

    def send(self, keys: str) -> None:
        os.write(self._fd, keys.encode())

    def cost_of(self, keys: str, quiet: float = 0.4) -> int:
        """How many bytes the program sends in answer to keys."""
        self.settle(quiet)
        self.send(keys)
        return self.settle(quiet)

    def resize(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self._fd, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        self.screen.resize(lines, columns)
        os.kill(self.pid, signal.SIGWINCH)

    # --- the end ------------------------------------------------------------------------------------------------

    def wait(self, seconds: float = 10) -> int:
        """The exit code once the program has ended; a negative signal number where a signal ended it."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.read(0.05)
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.pid = 0
                return os.waitstatus_to_exitcode(status)
        raise AssertionError(f"still running after {seconds} s\n{self.text}")

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def hang_up(self) -> None:
        """The line is cut: the terminal goes away and the program gets SIGHUP."""
        os.close(self._fd)
        self._fd = -1

    def close(self) -> None:
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self.pid = 0
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
