"""`python -m offhook`: the `offhook` command."""

from offhook.gateway.cli.main import main

__all__: list[str] = []

if __name__ == "__main__":
    main()
