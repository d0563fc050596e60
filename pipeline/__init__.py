"""The stages, from a base model to a chat, and what they share."""
