"""The reward model and other judges of an answer."""
