"""How models write tool calls and reasoning: one file per format, ``table`` to choose by name."""
