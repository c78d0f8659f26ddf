"""The error that a user can act on."""


class FedhaError(Exception):
    """Something the user gave or asked for is wrong; the message says what, with the value, and what to do.

    The command line prints it as one sentence and exits with code 2.
    """
