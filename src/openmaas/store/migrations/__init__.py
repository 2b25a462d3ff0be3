"""The database's versions, oldest first in `versions/`. HEAD is the newest; a test holds it against the files."""

HEAD = "0005"
