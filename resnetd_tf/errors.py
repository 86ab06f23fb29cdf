"""The one exception that reaches the user as a line of text."""


class InputError(Exception):
    """Something the user gave cannot be used. The message says what is wrong and what to do about it."""
