"""Grammars from JSON schemas, regular expressions and choices."""

from atoll.sampling.schema.build import choice_grammar, json_grammar, regex_grammar

__all__ = ["choice_grammar", "json_grammar", "regex_grammar"]
