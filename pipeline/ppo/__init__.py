"""Proximal policy optimisation: pure arithmetic, rollouts, trainer."""
