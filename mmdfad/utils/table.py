"""Small tables for logs and terminals."""

import io
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table as text, the first column to the left and the others to the right.

    Args:
        header (Sequence[str]): Column names.
        rows (Sequence[Sequence[str]]): Cells.
    """
    table = Table(box=box.SIMPLE_HEAD)
    for i, name in enumerate(header):
        table.add_column(name, justify='right' if i else 'left', no_wrap=True)
    for row in rows:
        table.add_row(*row)
    console = Console(file=io.StringIO(), width=120, color_system=None)
    console.print(table)
    return '\n'.join(line.rstrip() for line in console.file.getvalue().splitlines())
