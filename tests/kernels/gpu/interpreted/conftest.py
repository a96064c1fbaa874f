"""Needs a process in which Triton-lang interprets, or a GPU: see ``test_interpreted``."""

import os

import torch

if os.environ.get("TRITON_INTERPRET") == "1":
    from interpreted import prepare_interpreter

    prepare_interpreter()
elif not torch.cuda.is_available():
    collect_ignore_glob = ["test_*.py"]
