"""Where Triton's stub finds the Python that it was not built with."""

import sysconfig


def library_path() -> str:
    """A value for `LD_LIBRARY_PATH`; without it the stub crashes under a Python in a prefix."""
    return str(sysconfig.get_config_var("LIBDIR"))
