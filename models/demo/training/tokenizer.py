"""Makes the byte-level BPE tokenizer of the demo model from its corpus."""

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

END, PAD, SYSTEM, USER, ASSISTANT = SPECIAL_TOKENS = [
    "<|endoftext|>", "<|padding|>", "<|system|>", "<|user|>", "<|assistant|>"]

CHAT_TEMPLATE = """\
{%- for message in messages -%}
{%- if message['role'] == 'system' -%}
{{- '<|system|>\\n' + message['content'] + '\\n' -}}
{%- elif message['role'] == 'user' -%}
{{- '<|user|>\\n' + message['content'] + '\\n' -}}
{%- elif message['role'] == 'assistant' -%}
{{- '<|assistant|>\\n' + message['content'] + eos_token + '\\n' -}}
{%- else -%}
{{- raise_exception('roles are system, user and assistant; got ' + message['role']) -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|assistant|>\\n' -}}
{%- endif -%}
"""


def train_tokenizer(texts: list[str], vocab_size: int, max_length: int) -> PreTrainedTokenizerFast:
    """Returns a tokenizer with at most vocab_size entries; training it is deterministic."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, min_frequency=2, special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END, pad_token=PAD, model_max_length=max_length,
        additional_special_tokens=[SYSTEM, USER, ASSISTANT], chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False)
