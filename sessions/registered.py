"""What SAELens' registry knows of Neuronpedia's sources: which dictionary one is, and which models have it.

The registry is read where it is asked for: it lists 13,857 dictionaries.
"""

from __future__ import annotations

from engine.errors import SaescopeError


def release_names(model: str, source: str) -> tuple[str, ...]:
    """What `saescope open --dictionary` takes for a source of Neuronpedia: `release/id` of the registry."""
    try:
        from engine.names.neuronpedia import entries_for_source

        return tuple(found.name for found in entries_for_source(model, source))
    except SaescopeError:  # without sae_lens there is no registry
        return ()


def models_with(source: str) -> tuple[str, ...]:
    """Neuronpedia's models that have a source of this name, in the registry's order."""
    try:
        from engine.names.neuronpedia import entries_for_source, models

        return tuple(model for model in models() if entries_for_source(model, source))
    except SaescopeError:
        return ()
