"""The tool of the peers' agent, for this gateway."""


async def find_table(day: str, people: int) -> dict[str, str]:
    """Find a free table.

    Args:
        day: The day of the week.
        people: How many people come.
    """
    return {"table": "by the window", "at": "19:30"}
