"""The Gemini Live API."""
