"""The web chat and the OpenAI-compatible endpoint: one process, one model, one queue."""
