"""The loss of connectionist temporal classification, in terms of simpler functions.

After Graves et al., "Connectionist Temporal Classification" (2006), section 4.1: the forward
variables of all the ways to a labelling with blanks, one step of time after the other.
"""

from __future__ import annotations

from typing import Any

import torch

# With more steps of time the file would be all loss.
_MOST_STEPS = 200


def ctc_loss(
    log_probs: torch.Tensor,
    targets: torch.Tensor,
    input_lengths: Any,
    target_lengths: Any,
    blank: int = 0,
    reduction: str = "mean",
    zero_infinity: bool = False,
) -> torch.Tensor:
    """What ``torch.nn.functional.ctc_loss`` gives; see there.

    Raises:
        NotImplementedError: There are more than 200 steps of time.
    """
    if log_probs.shape[0] > _MOST_STEPS:
        raise NotImplementedError(f"a CTC loss over {log_probs.shape[0]} steps")
    is_batch = log_probs.dim() == 3
    if not is_batch:
        log_probs, targets = log_probs.unsqueeze(1), targets.unsqueeze(0)
    count = log_probs.shape[1]
    lengths = _lengths(input_lengths, count)
    label_lengths = _lengths(target_lengths, count)
    labels = targets if targets.dim() == 2 else _padded(targets, label_lengths)
    loss = _negative_log_likelihood(log_probs, labels, lengths, label_lengths, blank)
    if zero_infinity:
        loss = torch.where(loss == float("inf"), torch.zeros_like(loss), loss)
    if reduction == "mean":
        return (loss / label_lengths.clamp(min=1)).mean()
    if reduction == "sum":
        return loss.sum()
    return loss if is_batch else loss[0]


def _lengths(given: Any, count: int) -> torch.Tensor:
    if isinstance(given, torch.Tensor):
        return given.reshape(count).to(torch.int64)
    return torch.tensor(list(given) if isinstance(given, (tuple, list)) else [given] * count)


def _padded(targets: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Labels one after the other, as one row each."""
    most = targets.shape[0]
    starts = lengths.cumsum(0) - lengths
    places = starts[:, None] + torch.arange(most)[None, :]
    return targets[places.clamp(max=most - 1)]


def _negative_log_likelihood(
    log_probs: torch.Tensor,
    labels: torch.Tensor,
    lengths: torch.Tensor,
    label_lengths: torch.Tensor,
    blank: int,
) -> torch.Tensor:
    steps, count, _ = log_probs.shape
    # A blank before, between and after the labels.
    labels = labels.to(torch.int64)
    blanks = torch.full_like(labels, blank)
    states = torch.cat([torch.stack([blanks, labels], 2).flatten(1), blanks[:, :1]], 1)
    never = torch.full((count, 1), -1e30, dtype=log_probs.dtype)
    # A state may be reached from two before it unless that is the same label, or a blank.
    differ = states[:, 2:] != states[:, :-2]
    jumps = torch.cat([torch.zeros((count, 2), dtype=torch.bool), differ], 1)
    jumps = jumps & (states != blank)
    seen = log_probs.gather(2, states.unsqueeze(0).expand(steps, -1, -1))
    place = torch.arange(states.shape[1])[None, :]
    alpha = torch.where(place < 2, seen[0], never)
    for step in range(1, steps):
        one = torch.cat([never, alpha[:, :-1]], 1)
        two = torch.cat([never, never, alpha[:, :-2]], 1)
        two = torch.where(jumps, two, never)
        after = torch.logsumexp(torch.stack([alpha, one, two]), 0) + seen[step]
        alpha = torch.where((step < lengths)[:, None], after, alpha)
    last = 2 * label_lengths[:, None]
    end = (place == last) | (place == last - 1)
    return -torch.logsumexp(torch.where(end, alpha, never), 1)
