"""Answers of a Llama on a CPU, token by token: each prompt is read once, each row ends by itself.

Owns the keys and values of the rows that are being answered, and who sits in which slot. Rows that
have ended make room, and waiting rows take it. Weights and adapters are `llama`'s, draws `draw`'s.
"""

from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from alignment.sampling.batches import Row
from alignment.sampling.draw import draw_tokens
from alignment.sampling.llama import Adapted, Llama, Lora, attend_causally
from alignment.sampling.token_feed import FeedPart
from annotation.schema import Sampling

PREFILL_TOKENS = 4096
"""Prompts are read together up to so many tokens."""
REFILL_SHARE = 8
"""Waiting rows are let in once one slot in so many is free: reading few tokens is slow."""


@dataclass(slots=True)
class _Seat:
    """A row being answered: its place among the request's rows, its tokens and where it is."""

    place: int
    adapter: str
    position: int
    new: list[int] = field(default_factory=list)


class Decoding:
    """The rows of one request, answered in at most `slots` at once."""

    def __init__(
        self,
        llama: Llama,
        rows: Sequence[Row],
        sampling: Sampling,
        *,
        loras: Mapping[str, Lora],
        end_ids: Collection[int],
        slots: int,
    ) -> None:
        """`loras` has every adapter of `rows`; rows of an adapter without are the base's."""
        self._llama = llama
        self._rows = rows
        self._sampling = sampling
        self._loras = loras
        self._end_ids = frozenset(end_ids)
        self._slots = min(slots, len(rows))
        self._seats: list[_Seat] = []
        self._adapted: list[Adapted] = []
        self._waiting = deque(_same_prompts(rows, self._slots))
        width = max(len(row.ids) for row in rows) + sampling.max_new_tokens
        shape = (len(llama.layers), self._slots, llama.kv_heads)
        # Keys lie transposed: each step multiplies queries by them as they are.
        self._keys = torch.empty(*shape, llama.head_dim, width, dtype=llama.dtype)
        # Zeros: what is hidden counts 0 times, and 0 times whatever lay there may not be a number.
        self._values = torch.zeros(*shape, width, llama.head_dim, dtype=llama.dtype)

    def run(self, feed: FeedPart | None, pad_id: int) -> list[list[int]]:
        """New ids of each row, its end of turn the last. Stops early where `feed` says so."""
        answers: list[list[int]] = [[] for _ in self._rows]
        if feed is not None:
            feed.put(None)
        with torch.inference_mode():
            while self._waiting or self._seats:
                if self._has_room():
                    self._let_in(answers)
                else:
                    self._step()
                if feed is not None:
                    last = [seat.new[-1] for seat in self._seats]
                    tokens = torch.full((len(self._rows),), pad_id)
                    tokens[[seat.place for seat in self._seats]] = torch.tensor(last)
                    feed.put(tokens)
                    if feed.is_stopped:
                        break
                self._let_out()
        if feed is not None:
            feed.end()
        return answers

    @property
    def _free(self) -> int:
        return self._slots - len(self._seats)

    def _has_room(self) -> bool:
        if not self._waiting or len(self._waiting[0]) > self._free:
            return False
        return not self._seats or self._free * REFILL_SHARE >= self._slots

    def _fits(self, groups: Sequence[Sequence[int]], another: Sequence[int]) -> bool:
        """Whether `another` can be read together with `groups`."""
        together = [*groups, another]
        tokens = sum(len(self._rows[group[0]].ids) for group in together)
        return tokens <= PREFILL_TOKENS and sum(map(len, together)) <= self._free

    def _let_in(self, answers: list[list[int]]) -> None:
        """Read prompts into free slots, and draw the first token of their rows."""
        while self._waiting and len(self._waiting[0]) <= self._free:
            groups = [self._waiting.popleft()]
            while self._waiting and self._fits(groups, self._waiting[0]):
                groups.append(self._waiting.popleft())
            hidden = self._read(groups)
            columns = [column for column, group in enumerate(groups) for _ in group]
            places = [place for group in groups for place in group]
            drawn = draw_tokens(self._llama.logits(hidden)[:, columns], self._sampling)
            for place, token in zip(places, drawn.tolist(), strict=True):
                row = self._rows[place]
                answers[place] = [token]
                self._seats.append(_Seat(place, row.adapter, len(row.ids), answers[place]))
        self._adapted = self._adapted_columns([seat.adapter for seat in self._seats])

    def _read(self, groups: Sequence[Sequence[int]]) -> Tensor:
        """Fill the next slots; the hidden state at the end of each group's prompt."""
        prompts = [self._rows[group[0]] for group in groups]
        ids = [token for row in prompts for token in row.ids]
        positions = [position for row in prompts for position in range(len(row.ids))]
        spans, slots = [], []
        end, slot = 0, len(self._seats)
        for row, group in zip(prompts, groups, strict=True):
            spans.append((end, end := end + len(row.ids)))
            slots.append((slot, slot := slot + len(group)))

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            found = []
            for (start, end), (first, behind) in zip(spans, slots, strict=True):
                its = [one[:, :, start:end] for one in (q, k, v)]
                self._keys[layer, first:behind, :, :, : end - start] = its[1]
                self._values[layer, first:behind, :, : end - start] = its[2].transpose(1, 2)
                found.append(attend_causally(*its))
            return torch.cat(found, 1)

        adapters = [row.adapter for row in prompts for _ in row.ids]
        hidden = self._llama.hidden(
            torch.tensor(ids), torch.tensor(positions), attend, self._adapted_columns(adapters)
        )
        return hidden[:, [end - 1 for _, end in spans]]

    def _step(self) -> None:
        """One token for every seat."""
        seats = self._seats
        at = torch.tensor([seat.position for seat in seats])
        each, width = torch.arange(len(seats)), int(at.max()) + 1
        # Where all rows are as long there is nothing to hide.
        hidden_from = None if int(at.min()) + 1 == width else at
        shape = (len(seats) * self._llama.kv_heads, -1, self._llama.head_dim)
        behind = None if hidden_from is None else torch.arange(width) > at[:, None, None]

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            self._keys[layer][each, :, :, at] = k.permute(2, 0, 1)
            self._values[layer][each, :, at] = v.permute(2, 0, 1)
            keys = self._keys[layer, : len(seats), :, :, :width].flatten(0, 1)
            values = self._values[layer, : len(seats), :, :width].flatten(0, 1)
            queries = (q * self._llama.head_dim**-0.5).permute(2, 0, 1).reshape(shape)
            scores = torch.bmm(queries, keys)
            if behind is not None:
                scores.view(len(seats), -1, width).masked_fill_(behind, -torch.inf)
            shares = torch.softmax(scores, -1, dtype=torch.float32).to(q.dtype)
            return torch.bmm(shares, values).view(len(seats), -1).t()

        hidden = self._llama.hidden(
            torch.tensor([seat.new[-1] for seat in seats]), at, attend, self._adapted
        )
        drawn = draw_tokens(self._llama.logits(hidden), self._sampling)
        for seat, token in zip(seats, drawn.tolist(), strict=True):
            seat.new.append(token)
            seat.position += 1

    def _let_out(self) -> None:
        """Free the slots of rows that have ended; the last row moves into each."""
        seats, most = self._seats, self._sampling.max_new_tokens
        ended = [
            slot
            for slot, seat in enumerate(seats)
            if len(seat.new) == most or seat.new[-1] in self._end_ids
        ]
        for slot in reversed(ended):
            last = seats.pop()
            if slot < len(seats):
                known = slice(last.position)
                self._keys[:, slot, :, :, known] = self._keys[:, len(seats), :, :, known]
                self._values[:, slot, :, known] = self._values[:, len(seats), :, known]
                seats[slot] = last
        if ended:
            self._adapted = self._adapted_columns([seat.adapter for seat in seats])

    def _adapted_columns(self, adapters: Sequence[str]) -> list[Adapted]:
        """Which columns each adapter answers for, given the adapter of each."""
        adapted = []
        for name in dict.fromkeys(adapters):
            if (lora := self._loras.get(name)) is not None:
                its = [column for column, other in enumerate(adapters) if other == name]
                columns = None if len(its) == len(adapters) else torch.tensor(its)
                adapted.append(Adapted(lora, columns))
        return adapted


def _same_prompts(rows: Sequence[Row], slots: int) -> list[list[int]]:
    """Places of rows that share a prompt and an adapter, at most `slots` together."""
    groups: dict[tuple[str, tuple[int, ...]], list[int]] = {}
    for place, row in enumerate(rows):
        groups.setdefault((row.adapter, tuple(row.ids)), []).append(place)
    return [
        group[start : start + slots]
        for group in groups.values()
        for start in range(0, len(group), slots)
    ]
