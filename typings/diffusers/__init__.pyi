# What diffusers says of itself is wrong where we meet it: a model's config is no plain dict, and any tensor
# will do.
from typing import Any

def __getattr__(name: str) -> Any: ...
