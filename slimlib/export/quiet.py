"""Silence for torch's exporters, which print progress and warn about what users cannot change."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout

SILENT = logging.CRITICAL + 1


@contextmanager
def quietly() -> Iterator[None]:
    """Without prints, warnings and logs below errors that are raised; those still are."""
    noisy: list[logging.Handler | logging.Logger] = [logging.getLogger("onnxscript"), logging.getLogger("onnx_ir")]
    for name, logger in logging.Logger.manager.loggerDict.items():
        if name.split(".")[0] == "torch" and isinstance(logger, logging.Logger):
            noisy += logger.handlers
    before = [each.level for each in noisy]
    try:
        for each in noisy:
            each.setLevel(SILENT)
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for each, level in zip(noisy, before, strict=True):
            each.setLevel(level)
