"""The errors a user is meant to read."""


class VLFMError(Exception):
    """Something the user can mend: the message says what was wrong, where, and what to do next.

    The command line prints it without a traceback and exits with status 1.
    """


class Stopped(VLFMError):
    """A signal asked for a stop, and what was done is saved; the exit status is SIGTERM's, 143."""


class BadClip(VLFMError):
    """One clip cannot be used; the others can. The message becomes the ledger's `reason`."""


class FingerprintMismatch(VLFMError):
    """A store was made with other settings than the ones asked for."""
