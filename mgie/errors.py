"""The four ways a user's request can fail: one family for both packages."""

from llava_patch.errors import ConfigError, DataError, DeviceError, UserError, WeightsError

__all__ = ["ConfigError", "DataError", "DeviceError", "UserError", "WeightsError"]
