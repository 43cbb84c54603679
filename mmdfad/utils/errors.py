"""Errors that users can act upon."""

from collections.abc import Sequence


class DistillError(RuntimeError):
    """Something the user can fix.

    The message says what was expected, what was found, and which config key or flag to change.
    """


def require_positive(where: str, **values: int) -> None:
    """Check that arguments are positive whole numbers.

    Args:
        where (str): Where they stand in the config, with ``{}`` for the argument's name: ``'model.generator.{}'``.
        values (int): The arguments by name.

    Raises:
        DistillError: For the first that is not.
    """
    for key, value in values.items():
        require_count(where.format(key), value, 1)


def require_count(key: str, value: int, least: int = 0) -> None:
    """Check that a setting is a whole number.

    Args:
        key (str): Where it stands in the config, for messages.
        value (int): The setting.
        least (int): The smallest number that it may be. Defaults to 0.

    Raises:
        DistillError: If it is not, or is too small.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise DistillError(f'{key} must be a whole number, {least} or more, but found {value!r}')


def first_of(names: Sequence[str]) -> str:
    """The first of some names, and how many more there are, for messages: ``'conv1 (and 3 more)'``."""
    return names[0] if len(names) == 1 else f'{names[0]} (and {len(names) - 1} more)'


def as_pair(size: int | Sequence[int], key: str) -> tuple[int, int]:
    """A size as height and width.

    Args:
        size (int | Sequence[int]): One number for both, or (height, width).
        key (str): Where it stands in the config, for messages.

    Raises:
        DistillError: If it is not one or two positive whole numbers.
    """
    pair = (size, size) if isinstance(size, int) else tuple(size) if isinstance(size, Sequence) else ()
    if len(pair) != 2 or not all(isinstance(n, int) and n > 0 for n in pair):
        raise DistillError(f'{key} must be a positive whole number or two, (height, width), but found {size!r}')
    return pair
