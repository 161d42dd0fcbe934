"""The exceptions a user is meant to read."""

DIVERGED = "training diverged"
"""How the error of a loss or gradient that is not finite begins."""


class UserError(Exception):
    """Something in the user's input is wrong; the message names it and the fix in one sentence.

    The command line prints the message without a traceback and exits with status 2.
    """


class PreemptedError(Exception):
    """The run was asked to stop and has saved its state; the message says how it resumes."""
