"""Errors a user can act on, shown as one line."""

from __future__ import annotations

import logging
import os
import sys
from types import TracebackType

__all__ = ["DataError", "install_concise_errors", "root_cause"]

_TRACEBACK = "MONAI_MAMBA_GEN_TRACEBACK"


class DataError(ValueError):
    """A problem with the user's files or settings; the message names the file or argument and what is allowed."""


def root_cause(error: BaseException) -> BaseException:
    """
    Return what a user should read of nested errors.

    That is the first error, from the outermost inwards, that the user can act on (see `install_concise_errors`), or
    else the innermost one.
    """
    chain = [error]
    while (
        inner := chain[-1].__cause__ or (None if chain[-1].__suppress_context__ else chain[-1].__context__)
    ) is not None and not any(inner is each for each in chain):  # an error may name itself as its cause
        chain.append(inner)
    return next((each for each in chain if _is_ours(each)), chain[-1])


def _is_no_repetition(record: logging.LogRecord) -> bool:
    """Keep ignite from logging an error that ends the process anyway."""
    return bool(os.environ.get(_TRACEBACK)) or "terminating due to exception" not in record.getMessage()


def _is_ours(error: BaseException) -> bool:
    """
    Whether a user can act on the error.

    That is a `DataError`, a ValueError or ImportError raised by this package's own lines, and MONAI's word on a package
    that is not installed.
    """
    if isinstance(error, DataError) or type(error).__name__ == "OptionalImportError":
        return True
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    module = "" if traceback is None else traceback.tb_frame.f_globals.get("__name__", "")
    return isinstance(error, (ValueError, ImportError)) and module.split(".")[0] == __name__.split(".")[0]


def _line_is_open() -> bool:
    """Whether a progress bar, stopped by the error, has left the cursor in the middle of a line."""
    bar = getattr(sys.modules.get("tqdm"), "tqdm", None)
    return len(getattr(bar, "_instances", ())) > 0


def install_concise_errors() -> None:
    """
    Show an error that the user can act on as one line instead of the traceback of every layer above it.

    Such errors are `DataError`, every ValueError or ImportError that this package raises itself, and MONAI's
    ``OptionalImportError`` for a package that is not installed. Bundle configs call this first. Set
    ``MONAI_MAMBA_GEN_TRACEBACK=1`` to see whole tracebacks again. Other errors are shown as Python shows them.

    Example:
        >>> install_concise_errors()
    """
    previous = sys.excepthook
    for engine in ("Engine", "SupervisedTrainer", "SupervisedEvaluator"):
        logging.getLogger(f"ignite.engine.engine.{engine}").addFilter(_is_no_repetition)

    def hook(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        cause = root_cause(error)
        if _is_ours(cause) and not os.environ.get(_TRACEBACK):
            if _line_is_open():
                print(file=sys.stderr)
            text = str(cause)
            if type(cause).__name__ == "OptionalImportError":  # a traceback follows in the text itself
                text = text.partition("\n")[0]
            print(f"monai_mamba_gen: error: {text}", file=sys.stderr)
        else:
            previous(kind, error, traceback)

    sys.excepthook = hook
