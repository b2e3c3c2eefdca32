"""How a request to LLaVA can fail. Each message says what came, what was expected, and what to do."""


class LlavaError(ValueError):
    """Base of all errors that the user can mend. Never raised itself."""


class LlavaConfigError(LlavaError):
    """A configuration, template or option that cannot work."""


class LlavaInputError(LlavaError):
    """A text, picture or batch that cannot be used."""


class LlavaWeightsError(LlavaError):
    """A folder or file of weights that is missing, foreign, damaged or of another shape."""
