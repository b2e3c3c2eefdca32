"""Rows of both embedding tables that are trained by themselves, beside frozen tables."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LlamaForCausalLM


class TableWithRows(nn.Module):
    """An input table of which `rows`, those from the id `first` on, are a parameter of their own."""

    def __init__(self, table: nn.Embedding, *, first: int, count: int):
        """They begin as the table has them; its own copies of them are not looked at any more."""
        super().__init__()
        self.weight, self.first, self.num_embeddings = table.weight, first, table.num_embeddings
        self.rows = nn.Parameter(_copied(table.weight, first, count))

    def forward(self, ids: Int[Tensor, "*b t"]) -> Float[Tensor, "*b t d"]:
        """Rows of the table, and their own for the ids that have some."""
        place = ids - self.first
        own = (place >= 0) & (place < len(self.rows))
        rows = F.embedding(place.clamp(0, len(self.rows) - 1), self.rows)
        return torch.where(own[..., None], rows, F.embedding(ids, self.weight).to(rows.dtype))


class HeadWithRows(nn.Module):
    """An output table likewise."""

    def __init__(self, head: nn.Linear, *, first: int, count: int):
        super().__init__()
        self.weight, self.first = head.weight, first
        self.rows = nn.Parameter(_copied(head.weight, first, count))

    def forward(self, states: Float[Tensor, "*r d"]) -> Float[Tensor, "*r v"]:
        """Scores of all tokens."""
        scores = F.linear(states, self.weight)
        scores[..., self.first : self.first + len(self.rows)] = F.linear(states, self.rows.to(states.dtype))
        return scores


def split_rows(model: LlamaForCausalLM, *, first: int, count: int) -> None:
    """Give the rows of `count` tokens from the id `first` on parameters of their own, in both tables."""
    table = TableWithRows(model.model.embed_tokens, first=first, count=count)
    model.model.register_module("embed_tokens", table)
    model.register_module("lm_head", HeadWithRows(model.lm_head, first=first, count=count))


def renew_rows(model: LlamaForCausalLM) -> None:
    """Let the rows begin as the tables have them now."""
    for split in split_tables(model):
        split.rows.data.copy_(_copied(split.weight, split.first, len(split.rows)))


def join_rows(model: LlamaForCausalLM) -> None:
    """Put the rows back into the tables, which are plain modules again; others are left alone."""
    for split in split_tables(model):
        split.weight.data[split.first : split.first + len(split.rows)] = split.rows.data.to(split.weight)
        words, width = split.weight.shape
        with torch.device("meta"):
            if isinstance(split, TableWithRows):
                model.model.embed_tokens = plain = nn.Embedding(words, width, model.model.padding_idx)
            else:
                model.lm_head = plain = nn.Linear(width, words, bias=False)
        plain.weight = split.weight


def split_tables(model: LlamaForCausalLM) -> list[TableWithRows | HeadWithRows]:
    """Both tables where they are split, else none."""
    tables: list[nn.Module] = [model.model.embed_tokens, model.lm_head]
    return [table for table in tables if isinstance(table, (TableWithRows, HeadWithRows))]


def _copied(weight: Tensor, first: int, count: int) -> Tensor:
    """In single precision at least: what is trained is never shorter."""
    wide = torch.promote_types(weight.dtype, torch.float32)
    return weight.detach()[first : first + count].to(wide, copy=True)
