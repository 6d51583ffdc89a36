"""What a column of labels looks like: one class of several, several at once, or a number."""

import json
from typing import Any, Literal

from m2fedsa.data.manifest.labels import BETWEEN
from m2fedsa.data.manifest.rows import Rows
from m2fedsa.data.processors.tabular import category, is_number, number

Task = Literal["single_label", "multi_label", "regression"]
_MANY = 10
"""Different numbers, of which some are not whole: more are amounts and no classes."""


def guess_task(rows: Rows, column: str) -> tuple[Task, str]:
    """`data.task` for a column, and by what it was known. Errors: none; what cannot be used is told by row later."""
    if column in rows.classes:
        return "single_label", f"{len(rows.classes[column])} classes"
    cells = [cell for cell in rows.column(column) if cell is not None]
    several = next((cell for cell in cells if _is_several(cell)), None)
    if several is not None:
        return "multi_label", f"several classes in a cell, such as {several}"
    different = {category(cell) for cell in cells}
    if cells and all(map(is_number, cells)):
        whole = all(number(cell).is_integer() for cell in cells)
        if len(different) > (max(_MANY, len(cells) // 2) if whole else min(_MANY, len(cells) // 2)):
            return "regression", f"{len(different)} different numbers, such as {category(cells[0])}"
    return "single_label", f"{len(different)} different values" + (f", such as {category(cells[0])}" if cells else "")


def _is_several(cell: Any) -> bool:
    if isinstance(cell, str) and cell.lstrip().startswith("["):
        try:
            return isinstance(json.loads(cell), list)
        except ValueError:
            return False
    return isinstance(cell, list) or (isinstance(cell, str) and BETWEEN in cell)
