"""A visit to another network namespace, by a thread that ends right after: going back might be refused."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

Result = TypeVar("Result")
Enter = Callable[[int], None]


def visit(path: Path, enter: Enter, work: Callable[[], Result]) -> Result:
    """What `work` gives in the namespace whose file is at `path`. Processes that it starts live there, too.

    OSError when it cannot be entered; what `work` raises comes out as it is.
    """
    results: list[Result] = []
    failures: list[BaseException] = []

    def there() -> None:
        try:
            with path.open("rb") as file:
                enter(file.fileno())
            results.append(work())
        except BaseException as failure:
            failures.append(failure)

    visitor = threading.Thread(target=there, name="meshlb-visit")
    visitor.start()
    visitor.join()
    if failures:
        raise failures[0]
    return results[0]
