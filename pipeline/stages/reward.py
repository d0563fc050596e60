"""The reward model: rankings of answers become an adapter, a scalar head and a scale."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from data.errors import UserError
from data.formats import load as load_records
from data.records import Ranking
from pipeline.adapters import REWARD, SharedBase
from pipeline.memory import release
from pipeline.roles import ADAPTER, RewardModel, open_base
from pipeline.template import prompt_ids, response_ids
from reward.model import ScalarHead, score_all
from reward.scale import Scale
from reward.train import EncodedRanking, total_steps, train


def run(ctx) -> dict[str, float]:
    """Starts from the SFT adapter, as InstructGPT's did from its SFT model. Leaves `adapter/`, the head and the scale."""
    config, settings = ctx.config, ctx.config.reward
    torch.manual_seed(config.seed)
    base = open_base(config)
    if settings.start_from_sft:
        base.load(REWARD, ctx.inputs["sft"] / ADAPTER, trainable=True)
    else:
        base.add(REWARD, trainable=True)
    head = ScalarHead(base.hidden_size).to(base.device)
    rankings = load_records(ctx.inputs["prepare"] / "rankings.train.jsonl", "ranked")
    encoded, unused = encode_rankings(base, rankings, config)
    if not encoded:
        raise UserError(
            f"reward: none of {len(rankings)} rankings can be used ({unused['tied']} all tied, {unused['too_long']} longer than "
            f"reward.max_tokens {settings.max_tokens})."
        )
    with ctx.progress(total_steps(len(encoded), settings), "reward model", unit="steps") as bar:

        def on_step(figures: dict[str, float]) -> None:
            ctx.log(figures)
            if figures["step"] % 10 == 0:
                release()
            bar.advance(1, loss=figures["loss"], accuracy=figures["accuracy"])

        try:
            train(
                lambda lists: base.encode_lists(lists, REWARD),
                head,
                base.parameters(REWARD),
                encoded,
                settings,
                seed=config.seed,
                on_step=on_step,
            )
        except FloatingPointError as error:
            raise UserError(str(error)) from None
    reference = [r.prompt + answer for r in encoded[: settings.scale_lists] for answer in r.answers]
    with ctx.progress(len(reference), "reward scale", unit="answers") as bar:
        raw = score_all(lambda sequences: base.encode(sequences, REWARD), head, reference, on_batch=bar.advance)
    try:
        scale = Scale.of(raw)
    except ValueError as error:
        raise UserError(str(error)) from None
    RewardModel(base, head, scale).save(ctx.out)
    return {
        "rankings": float(len(encoded)),
        "pairs": float(sum(len(r.pairs) for r in encoded)),
        "all_tied": float(unused["tied"]),
        "too_long": float(unused["too_long"]),
        "raw_mean": scale.mean,
        "raw_std": scale.std,
    }


def encode_rankings(
    base: SharedBase, rankings: Sequence[Ranking], config
) -> tuple[list[EncodedRanking], dict[str, int]]:
    """Rankings as token ids, and how many had to be left out, by reason."""
    tokenizer = base.tokenizer
    encoded, unused = [], {"tied": 0, "too_long": 0}
    for ranking in rankings:
        prompt = prompt_ids(
            tokenizer,
            ranking.prompt,
            system_prompt=config.model.system_prompt,
            max_tokens=config.data.max_prompt_tokens,
        )
        answers = tuple(
            tuple(response_ids(tokenizer, answer, finished=finished))
            for answer, finished in zip(ranking.responses, ranking.finished, strict=True)
        )
        pairs = tuple(ranking.pairs())
        if not pairs:
            unused["tied"] += 1
        elif len(prompt) + max(map(len, answers)) > config.reward.max_tokens:
            unused["too_long"] += 1
        else:
            encoded.append(EncodedRanking(tuple(prompt), answers, pairs, best=ranking.ranks.index(min(ranking.ranks))))
    return encoded, unused
