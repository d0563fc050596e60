"""Counts in sentences."""


def many(count: int, one: str, more: str = "") -> str:
    """1 vote, 2 votes; 1 person, 2 people; 1 row is, 2 rows are."""
    return f"{count:,} {one if count == 1 else more or one + 's'}"
