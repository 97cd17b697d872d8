"""The errors of the model layer. Each is also the built-in error a caller would expect."""


class RegNetError(Exception):
    """Base of every error that `regnet` raises on purpose: its text is one clear line."""


class ConfigError(RegNetError, ValueError):
    """A configuration or an argument that describes no network."""


class UnknownModelError(RegNetError, ValueError):
    """A model name that nobody uses; the message holds the nearest names."""


class WeightsUnavailableError(RegNetError, RuntimeError):
    """Published weights that are not in the cache and cannot be downloaded, or that do not exist."""
