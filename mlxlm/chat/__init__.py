"""A conversation: history, tools and the cache kept in step with one exact transcript."""

from .dispatch import ToolResult
from .session import ChatSession
from .turn import ChatEvent, Reply

__all__ = ["ChatEvent", "ChatSession", "Reply", "ToolResult"]
