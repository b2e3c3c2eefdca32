"""The ranges and choices that several recipes' keys and verbs' options share.

An upper bound far beyond all use is there for slips: a machine that runs out of memory tells nothing.
"""

from typing import Annotated, Literal

from llava_patch.ranges import Range

Seed = Annotated[int, Range(ge=0, lt=2**63)]
"""What torch and NumPy take alike."""
Number = Annotated[int, Range(ge=1, le=10**12)]
"""Of samples or pairs."""
NumberOrNone = Annotated[int, Range(ge=0, le=10**12)]
"""The same where 0 means none."""
Few = Annotated[int, Range(ge=1, le=10_000)]
"""Of what is held in memory at once."""
Count = Annotated[int, Range(ge=0, le=10**9)]
"""Of questions, where 0 means none."""
Seconds = Annotated[float, Range(gt=0, le=86_400)]
Waiting = Annotated[int, Range(ge=1, le=1000)]
"""Requests in a queue."""
Megabytes = Annotated[float, Range(gt=0, le=10**6)]
Megapixels = Annotated[float, Range(gt=0, le=89)]
"""Of a picture that Pillow opens without a word."""
Threads = Annotated[int, Range(ge=1, le=1024)]
Share = Annotated[float, Range(ge=0, le=1)]
Weight = Annotated[float, Range(ge=0, le=10**6)]
"""Of a loss."""
Side = Annotated[int, Range(ge=1, le=16384)]
"""Of a picture, in pixels."""
Images = Annotated[int, Range(ge=1, le=1000)]
"""Results of one picture."""
Steps = Annotated[int, Range(ge=1, le=10_000)]
"""Of sampling; never more than the schedule has, which the pipeline knows."""
Scale = Annotated[float, Range(ge=0, le=100)]
"""Of guidance."""
NewTokens = Annotated[int, Range(ge=1, le=10_000)]
Ngram = Annotated[int, Range(ge=0, le=1000)]
"""Length of word groups that are not said twice; 0 for any."""
Dtype = Literal["float32", "float16", "bfloat16"]
"""Types that weights are kept and computed in."""
