"""The two kinds of fault a user can meet. Everything else is our own bug and shows its traceback."""


class UserError(ValueError):
    """Something the user gave cannot be used. The text says what was expected, what came, where, and what to do."""


class ClipError(UserError):
    """One clip of a batch cannot be made; the others go on."""
