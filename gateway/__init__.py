"""Offhook: a telephony voice agent gateway between Twilio Media Streams and the Gemini Live API."""

__version__ = "0.1.0"
__all__ = ["__version__"]
