"""Exceptions whose message is shown to the user as one line, and the texts of other exceptions."""

import contextlib
from collections.abc import Iterator


class InputError(Exception):
    """Something the user gave cannot be used. The message says what is wrong and what to do about it."""


class ForeignModelError(ValueError):
    """A model holds something that no network of this package has."""


@contextlib.contextmanager
def damage_as_input_error(
    prefix: str, suffix: str = "", except_for: tuple[type[Exception], ...] = ()
) -> Iterator[None]:
    """Turns any exception that a library raises for damaged input into an InputError.

    The message is the prefix, the first line of the library's message in brackets, and the suffix.

    Args:
        prefix: Start of the message, such as the path of the file.
        suffix: End of the message, such as the advice.
        except_for: Exceptions that are raised unchanged. InputErrors always are.

    Raises:
        InputError: The block raised another exception.
    """
    unchanged: tuple[type[Exception], ...] = (InputError, *except_for)
    try:
        yield
    except unchanged:
        raise
    except Exception as error:
        raise InputError(f"{prefix} ({first_line(error)}){suffix}") from error


def first_line(error: BaseException) -> str:
    """Returns the first line of an exception's message, at most 500 characters, or its type if the message is empty."""
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return line if len(line) <= 500 else f"{line[:497]}..."


def root_cause(error: BaseException) -> BaseException:
    """Returns the exception that a chain of exceptions began with."""
    while cause := error.__cause__ or error.__context__:
        error = cause
    return error


def root_cause_text(error: BaseException) -> str:
    """Returns the message of the exception that a chain began with, at most 150 characters on one line."""
    error = root_cause(error)
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 150 else text[:147] + "..."
