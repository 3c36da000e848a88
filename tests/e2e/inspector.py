"""The real inspector over the fake engine, for the pty tests.

`python -m tests.e2e.inspector [SESSION]`
"""

from __future__ import annotations

import sys
from pathlib import Path


def main() -> None:
    from engine.client import spawn
    from engine.protocol import Open
    from sessions.store import new_session, path_of, read_session
    from tui.app import SaescopeApp
    from tui.recorder import Recorder

    path = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    session = read_session(path) if path and path.exists() else None
    base = session or new_session(Open(id=0))
    app = SaescopeApp(Open(id=0), spawn("engine.fake"), Recorder(path or path_of(base), base), session=session)
    app.run()


if __name__ == "__main__":
    main()
