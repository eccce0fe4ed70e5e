"""The gateway between telephone carriers and speech models, and its rehearsals."""

__version__ = "0.1.0"
__all__ = ["__version__"]
