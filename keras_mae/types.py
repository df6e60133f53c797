"""Names of types that hints share."""

import os
from typing import Any

# A tensor of any backend, or what `keras.ops` takes as one: no one class has all of them.
Tensor = Any
AnyPath = str | os.PathLike[str]
# An int, or a pair (height, width) of them.
Size = int | tuple[int, int]
# The sizes of a tensor's axes: an int, or None where it is not known. Any, as code that needs a
# known size need not ask.
Shape = tuple[Any, ...]
