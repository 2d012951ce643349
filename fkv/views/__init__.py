"""Pure functions from events to what is shown: JSON-able dicts, JPEG bytes, words. Nothing here keeps state or draws on a screen."""

from fkv.views.atlas import encode, split
from fkv.views.messages import message

__all__ = ["encode", "message", "split"]
