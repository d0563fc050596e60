"""What counts as running out of memory, and what is done then."""

import pytest
import torch

from data.errors import UserError
from pipeline.memory import MicroBatch, is_out_of_memory


def test_a_real_allocation_that_fails_is_recognised():
    with pytest.raises(RuntimeError) as failure:
        torch.empty(1 << 50, dtype=torch.float32)
    assert is_out_of_memory(failure.value) and is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("shapes do not match")) and not is_out_of_memory(OSError("out of memory"))


def test_rows_are_halved_until_it_fits():
    said = []
    micro = MicroBatch(8, "ppo.micro_batch", "ppo.max_new_tokens", said.append)

    def needs_three_rows(size):
        if size > 3:
            raise MemoryError
        return size

    assert micro.attempt(needs_three_rows) == 2 and micro.size == 2
    assert [line.split(";")[0].split(" rows")[0] for line in said] == ["out of memory: 4", "out of memory: 2"]


def test_one_row_that_does_not_fit_says_what_to_lower():
    def never(size):
        raise MemoryError

    with pytest.raises(UserError, match="out of memory with one row a forward pass. Lower ppo.max_new_tokens"):
        MicroBatch(2, "ppo.micro_batch", "ppo.max_new_tokens", lambda line: None).attempt(never)


def test_another_error_passes_through():
    def wrong(size):
        raise RuntimeError("shapes do not match")

    micro = MicroBatch(4, "s", "t", lambda line: None)
    with pytest.raises(RuntimeError, match="shapes"):
        micro.attempt(wrong)
    assert micro.size == 4
