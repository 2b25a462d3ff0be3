"""Run by the interpreters of environments of their own, never imported here."""
