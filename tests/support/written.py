"""The log of a test, in memory."""

from __future__ import annotations

import io
import logging

from meshlb import logs


class Written:
    """All lines so far."""

    def __init__(self, style: str, level: str = "info") -> None:
        self._bytes = io.BytesIO()
        self.handler = logs.setup(style, level, self._bytes.write)

    def getvalue(self) -> str:
        self.handler.flush()
        return self._bytes.getvalue().decode()

    def end(self) -> None:
        logging.getLogger().removeHandler(self.handler)
        self.handler.close()
