"""The rehearsal model: it speaks the Gemini Live protocol from a script."""
