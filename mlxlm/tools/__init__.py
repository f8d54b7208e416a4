"""Tool calls and reasoning in a model's text: every character becomes content, reasoning, a call or a rejected call."""

from .calls import ParsedOutput, Piece, RejectedCall, ToolCall
from .choose import declared_format, infer_format, infer_reasoning, reasoning_protocol
from .formats import FILES
from .functions import tool_schemas
from .reasoning import ReasoningProtocol
from .stream import ToolStream, parse
from .writing import assistant_message, format, result_message

FORMATS = tuple(FILES)

__all__ = ["FORMATS", "ParsedOutput", "Piece", "ReasoningProtocol", "RejectedCall", "ToolCall", "ToolStream",
           "assistant_message", "declared_format", "format", "infer_format", "infer_reasoning", "parse",
           "reasoning_protocol", "result_message", "tool_schemas"]
