"""Bytes ↔ core types: what each public protocol says on the wire. Pure functions, no sockets, no state."""
