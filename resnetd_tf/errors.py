"""The one exception that reaches the user as a line of text."""


class InputError(Exception):
    """Something the user gave cannot be used. The message says what is wrong and what to do about it."""


def reason(error: BaseException) -> str:
    """What lies at the bottom of a chain of exceptions, briefly."""
    while cause := error.__cause__ or error.__context__:
        error = cause
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 150 else text[:147] + "..."
