"""The model's own tokenizer (byte-level BPE, single digits) and its chat template."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

BOS, EOS, USER, ASSISTANT = "<|bos|>", "<|eos|>", "<|user|>", "<|assistant|>"
THINK, END_THINK = "<think>", "</think>"
VOCABULARY = 2048

# As R1 does it: the generation prompt opens the thought, and earlier thoughts are not shown again.
CHAT_TEMPLATE = """\
{{- bos_token -}}
{%- for message in messages -%}
{%- if message.role == 'system' -%}
{{- message.content -}}
{%- elif message.role == 'user' -%}
{{- '<|user|>' + message.content -}}
{%- elif message.role == 'assistant' -%}
{{- '<|assistant|>' + message.content.split('</think>')[-1] + eos_token -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|assistant|><think>\\n' -}}
{%- endif -%}
"""


def train(texts: Iterable[str]) -> Tokenizer:
    """Learn the merges from texts; the special tokens get the lowest ids."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
    ])  # fmt: skip
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[BOS, EOS, USER, ASSISTANT, THINK, END_THINK],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    # The marks of the thought are part of the answer's text: they must survive decoding without special tokens.
    learnt = json.loads(tokenizer.to_str())
    for token in learnt["added_tokens"]:
        token["special"] = token["content"] not in (THINK, END_THINK)
    return Tokenizer.from_str(json.dumps(learnt))


def identity(tokenizer: Tokenizer, token: str) -> int:
    """The id of a token; raises ValueError when the vocabulary has none."""
    found = tokenizer.token_to_id(token)
    if found is None:
        raise ValueError(f"the tokenizer has no {token!r}: it is not one of this model's")
    return found


def save(tokenizer: Tokenizer, folder: Path) -> None:
    """Write tokenizer.json and tokenizer_config.json."""
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BOS,
        "eos_token": EOS,
        "pad_token": EOS,
        "add_bos_token": False,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 2048,
        "chat_template": CHAT_TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")


def prompt(question: str, system: str = "") -> str:
    """What the chat template gives for one question, optionally after a system message."""
    return f"{BOS}{system}{USER}{question}{ASSISTANT}{THINK}\n"


def completion(thought: str, answer: str) -> str:
    """What the model is to write after `prompt`."""
    return f"{thought}\n{END_THINK}{answer}{EOS}"
