"""What can be served: known entries, entries made from any checkpoint, and their Triton files."""

from atoll.catalogue.entries import ENTRIES, Entry, entry_for, entry_name, renamed
from atoll.catalogue.pipelines import PIPELINES, Pipeline, session
from atoll.catalogue.render import differences, render, write_repository
from atoll.catalogue.repository import ServedModel, read_repository
from atoll.models.detect import decide, read_model
from atoll.models.detected import Detected

__all__ = [
    "ENTRIES",
    "PIPELINES",
    "Pipeline",
    "Detected",
    "Entry",
    "ServedModel",
    "decide",
    "differences",
    "entry_for",
    "entry_name",
    "renamed",
    "read_model",
    "read_repository",
    "render",
    "session",
    "write_repository",
]
