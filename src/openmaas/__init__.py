"""OpenMaaS: Model-as-a-Service on your own machines.

```python
client = openmaas.Client()
client.push(estimator, name="digits", sample=X)
client.deploy("digits")
client.predict("digits", X[:3])
```
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["AsyncClient", "Client", "OpenMaaSError", "__version__"]

if TYPE_CHECKING:
    from openmaas.client import AsyncClient, Client
    from openmaas.core.errors import OpenMaaSError


def __getattr__(name: str) -> Any:
    """Import on first use: `import openmaas` itself stays quick."""
    if name in ("Client", "AsyncClient"):
        import openmaas.client

        return getattr(openmaas.client, name)
    if name == "OpenMaaSError":
        from openmaas.core.errors import OpenMaaSError

        return OpenMaaSError
    raise AttributeError(f"module 'openmaas' has no attribute {name!r}")
