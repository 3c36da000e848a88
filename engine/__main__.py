"""`python -m engine`: the engine's process."""

from engine.server import main

main()
