"""`python -m offhook`: the `offhook` command."""

__all__: list[str] = []

if __name__ == "__main__":  # a process that draws pictures imports this, too
    from offhook.gateway.cli.main import main

    main()
