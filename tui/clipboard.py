"""Copying through the terminal (OSC 52): what one can and cannot know about it."""

from __future__ import annotations

LIMIT = 74_994
"""Bytes that terminals commonly accept; k9s uses the same."""


class Clipboard:
    """Mixed into the app."""

    def send_to_clipboard(self, text: str) -> str:
        """Send `text` to the user's terminal and say what happened; there is no acknowledgement."""
        if len(text.encode()) > LIMIT:
            return f"Too long for a terminal's clipboard ({len(text):,} characters)."
        self.copy_to_clipboard(text)  # type: ignore[attr-defined]
        return "Sent to your terminal's clipboard."
