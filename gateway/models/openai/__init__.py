"""The OpenAI Realtime API, and Azure's variant of it."""
