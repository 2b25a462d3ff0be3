"""A replica whose engine generates text: many answers at a time, a step for all of them at once."""

from openmaas.replica.generation.server import GenerationServer

__all__ = ["GenerationServer"]
