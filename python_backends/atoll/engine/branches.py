"""The beams of a search as sequences: one ``RequestState`` each, whose blocks are shared.

A search begins with the prompt as its only beam. A beam that several candidates continue is
branched: its blocks get more users, and one that is not full is copied before the next token is
written to it (``KVCacheManager.own_last``). Beams that no candidate continues are dropped. A
preempted search begins again with the prompt.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

from atoll.engine.blocks import BlockTable
from atoll.engine.kv_cache import KVCacheManager, Tables
from atoll.engine.request import RequestState
from atoll.engine.state_slots import HeldState


def branch(
    beams: list[RequestState], parents: Sequence[int], token_ids: Sequence[int],
    running: list[RequestState], cache: KVCacheManager,
) -> None:  # fmt: skip
    """Makes ``beams`` those that continue ``parents`` with these tokens.

    Mutates beams, ``running``, in which they stand side by side, and the blocks' users.
    """
    new = list[RequestState]()
    for parent in parents:
        beam = beams[parent]
        if beam in new:  # the first to continue it has taken its place
            beam = _branched(beam, *cache.branch(beam.tables, beam.cross_table))
        new.append(beam)
    for beam in beams:
        if beam not in new:
            cache.release(beam.tables, beam.cross_table)
    for beam, token_id in zip(new, token_ids, strict=True):
        beam.token_ids.append(token_id)
    at = running.index(beams[0])
    running[at : at + len(beams)] = new
    beams[:] = new


def restarted(sequence: RequestState) -> RequestState:
    """The only beam of a search that begins again, without blocks; replaces all of its beams."""
    tables = tuple(BlockTable(sequence.root) for _ in sequence.tables)
    other = _branched(sequence, tables, BlockTable())
    del other.token_ids[other.num_prompt_tokens :]
    other.beams[:] = [other]
    return other


def _branched(sequence: RequestState, tables: Tables, cross_table: BlockTable) -> RequestState:
    other = copy.copy(sequence)
    other.token_ids, other.tables, other.cross_table = list(sequence.token_ids), tables, cross_table
    other.copies, other.state = (), HeldState()
    return other
