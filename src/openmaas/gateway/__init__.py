"""The public door of the data plane: who, may they, where to. It passes bodies on and never touches a tensor."""

from openmaas.gateway.process import serve

__all__ = ["serve"]
