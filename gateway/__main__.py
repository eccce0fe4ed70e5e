"""`python -m gateway`: the `offhook` command."""

from gateway.cli import main

__all__: list[str] = []

if __name__ == "__main__":
    main()
