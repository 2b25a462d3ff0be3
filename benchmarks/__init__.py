"""Opt-in measurements of OpenMaaS and of its peers, side by side on one machine."""
