"""Talking to a run, and keeping what people thought of the answers."""
