"""The fast path: the same network on the same weights and the same policies, with nothing copied or computed twice.

`prepare(model)` gives a model that is called exactly like the readable one; everything that runs on it, every lane alike, is faster.
"""

from __future__ import annotations

from fkv.fast.model import FastWan
from fkv.fast.preparing import prepare
from fkv.fast.reading import Text
from fkv.fast.slots import Slot, SlotCache

__all__ = ["FastWan", "Slot", "SlotCache", "Text", "prepare"]
