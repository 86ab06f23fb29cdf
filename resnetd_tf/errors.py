"""What reaches the user as a line of text."""

import contextlib
from collections.abc import Iterator


class InputError(Exception):
    """Something the user gave cannot be used. The message says what is wrong and what to do about it."""


class ForeignModelError(ValueError):
    """A model holds what no network of ours does."""


@contextlib.contextmanager
def damage_as_input_error(before: str, after: str = "", but: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Turns what libraries raise for damaged input, each its own, into an InputError with its first line in brackets.

    Args:
        before: What the message says before that.
        after: And after it.
        but: What is raised as it is, beside InputErrors.
    """
    as_they_are: tuple[type[Exception], ...] = (InputError, *but)
    try:
        yield
    except as_they_are:
        raise
    except Exception as error:
        raise InputError(f"{before} ({first_line(error)}){after}") from error


def first_line(error: BaseException) -> str:
    """The first line of an exception's message, not all of a long one; the exception's name where it has none."""
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return line if len(line) <= 500 else f"{line[:497]}..."


def root_cause(error: BaseException) -> BaseException:
    """The exception at the bottom of a chain."""
    while cause := error.__cause__ or error.__context__:
        error = cause
    return error


def root_cause_text(error: BaseException) -> str:
    """What lies at the bottom of a chain of exceptions, briefly."""
    error = root_cause(error)
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 150 else text[:147] + "..."
