"""Requests a second, latency, memory and start of OpenMaaS and its peers."""
