"""The page: layout and wiring in Gradio, nothing numeric."""

from fkv.ui.page import Page, build
from fkv.ui.shelf import Backend

__all__ = ["Backend", "Page", "build"]
