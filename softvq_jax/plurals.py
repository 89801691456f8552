"""Counted nouns in messages."""


def counted(count: int, one: str, many: str = "") -> str:
    """Returns a number and its noun, such as "1 class" or "1,000 classes".

    Args:
      count: the number.
      one, many: the noun, and its plural if it does not end in one more "s".
    """
    return f"{count:,} {one if count == 1 else many or f'{one}s'}"
