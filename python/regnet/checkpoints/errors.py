"""The one error of this package."""

from regnet.errors import RegNetError


class CheckpointError(RegNetError, ValueError):
    """A checkpoint that cannot be read, named or fitted to a model. The message names the first offending key or file,
    what was expected, and what to do; the model is untouched whenever it is raised."""
