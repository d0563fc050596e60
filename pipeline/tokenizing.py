"""What a tokenizer is given here: a chat template where it has none that fits, padding of its own, and one made on the spot for tests."""

from __future__ import annotations

# ChatML as the model was trained on, without the default system prompt that its own template puts in front: 24 tokens a prompt
# that every stage would pay for, and which names a maker that the trained assistant no longer speaks for.
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def give_pad(tokenizer) -> None:
    """Takes a reserved token that no text produces; adds one only where none is reserved."""
    used = {tokenizer.eos_token_id, tokenizer.bos_token_id, tokenizer.unk_token_id}
    for index, token in sorted(tokenizer.added_tokens_decoder.items()):
        if (
            index not in used
            and token.special
            and any(word in token.content for word in ("pad", "reserved", "empty", "unused"))
        ):
            tokenizer.pad_token = token.content
            return
    tokenizer.add_special_tokens({"pad_token": "<|pad|>"})


def tiny_tokenizer():
    """Bytes as tokens, with ChatML markers: nothing to download, and any text round-trips."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(special + alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(special)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token=special[1], eos_token=special[2], unk_token=special[0], pad_token=special[3]
    )
    tokenizer.chat_template = CHATML
    return tokenizer
