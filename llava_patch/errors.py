"""The four ways a user's request can fail. Each message says what came, what was expected, and what to do.

A command line prints these as one sentence; anything else is our own mistake and shows a traceback.
"""


class UserError(Exception):
    """Base of all errors that the user can mend. Never raised itself."""


class ConfigError(UserError):
    """A recipe, template, option or combination of options that cannot work."""


class DataError(UserError):
    """A picture, text, row, batch or data set that cannot be used."""


class WeightsError(UserError):
    """Weights, a checkpoint or a release that are missing, foreign, damaged or of another shape."""


class DeviceError(UserError):
    """The machine lacks what was asked for: a device, a precision, an optional package, disk space."""
