"""What jobs do: a file for each kind, found through the entry points `openmaas.tasks`. Siblings do not import each other."""
