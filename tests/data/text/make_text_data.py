"""Makes the files of this folder: small tokenizers, and what the Python libraries do with them.

Run by hand after a change: python make_text_data.py (needs the packages tokenizers and jinja2).
The tests of gateway/text compare the gateway with these files; they do not run Python.
"""

import json
import pathlib
import random

import jinja2
import jinja2.ext
import jinja2.sandbox
import tokenizers
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

HERE = pathlib.Path(__file__).parent

CORPUS = [
    "A mixture of experts routes every token to a few experts, and each expert sees only a part of the tokens.",
    "The router is a small matrix: it scores the experts, takes the best eight, and weighs what they return.",
    "Workers hold experts; attention ranks hold the cache. They're joined by an exchange, aren't they?",
    "Ein Satz über Größen und Bäche. Une phrase à l'école. 日本語の文章です。 Смешанный текст. 😀👍🏽",
    "def serve(model, port=8000):\n    if port < 0:\n        raise ValueError('port')\n    return model\n\n\n",
    "Numbers: 1, 22, 333, 4444.5, 1e-9; tabs\tand\r\nlines.   Three   spaces.",
]

TEXTS = CORPUS + [
    "", " ", "\n", "hello", " hello", "  two  spaces ", "\n\n\nlines\n", "tab\tnew\r\n", "naïve café e\u0301", "😀", "👩‍👩‍👧‍👦",
    "日本語", "\u0000 nul", "a" * 300, "<|im_start|>user\nhi<|im_end|>\n", "x<|im_end|>y <|im_start|>", "<|im_", "|>",
    " <|endoftext|> ", "        eight spaces", "don't we're I'LL", "\u00a0nbsp\u2003em", "\ufeffbom", "ﬁ ligature ½",
]


def byte_level():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=420, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_tokens([AddedToken(" " * n, normalized=False) for n in range(8, 1, -1)])
    return tokenizer


def byte_fallback():
    pieces = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)]
    words = ["▁", "▁▁", "▁h", "e", "l", "o", "he", "ll", "▁he", "▁hell", "▁hello", "h", "s", "t", "a", "n", "é", "日", "\n"]
    vocab = {piece: i for i, piece in enumerate(pieces + words)}
    merges = [("h", "e"), ("l", "l"), ("▁", "h"), ("▁", "he"), ("▁he", "ll"), ("▁hell", "o"), ("▁", "▁")]
    tokenizer = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    return tokenizer


def word_piece():
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "hello", "hell", "##o", "##s", "the", "expert", "##ing", "don", "'", "t", ".", ",", "!"]
    tokenizer = Tokenizer(models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    tokenizer.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]"])
    return tokenizer


def tokenizer_cases(tokenizer, rng):
    vocab_size = tokenizer.get_vocab_size()
    cases = []
    for text in TEXTS:
        cases.append({
            "text": text,
            "ids": tokenizer.encode(text, add_special_tokens=False).ids,
            "ids_with_special": tokenizer.encode(text).ids,
        })
    decodes = []
    for _ in range(60):
        ids = [rng.randrange(vocab_size) for _ in range(rng.randrange(1, 24))]
        decodes.append({
            "ids": ids,
            "text": tokenizer.decode(ids, skip_special_tokens=False),
            "text_without_special": tokenizer.decode(ids, skip_special_tokens=True),
        })
    return {"encode": cases, "decode": decodes}


# Templates in the manner of published ones.
TEMPLATES = {
    "olmoe": "{{ bos_token }}{% for message in messages %}\n{% if message['role'] == 'system' %}\n{{ '<|system|>\n' + message['content'] + '\n' }}\n{% elif message['role'] == 'user' %}\n{{ '<|user|>\n' + message['content'] + '\n' }}\n{% elif message['role'] == 'assistant' %}\n{% if not loop.last %}\n{{ '<|assistant|>\n'  + message['content'] + eos_token + '\n' }}\n{% else %}\n{{ '<|assistant|>\n'  + message['content'] + eos_token }}\n{% endif %}\n{% endif %}\n{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>\n' }}\n{% endif %}\n{% endfor %}",
    "chatml": "{%- if messages[0]['role'] == 'system' %}\n    {{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}\n{%- else %}\n    {{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}\n{%- endif %}\n{%- for message in messages %}\n    {%- if (message.role == \"user\") or (message.role == \"system\" and not loop.first) or (message.role == \"assistant\" and not message.tool_calls) %}\n        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}\n    {%- endif %}\n{%- endfor %}\n{%- if add_generation_prompt %}\n    {{- '<|im_start|>assistant\\n' }}\n{%- endif %}\n",
    "thinking": "{%- set ns = namespace(last_query=messages|length - 1, found=false) %}\n{%- for message in messages[::-1] %}\n    {%- set index = (messages|length - 1) - loop.index0 %}\n    {%- if not ns.found and message.role == \"user\" and message.content is string and not(message.content.startswith('<tool_response>') and message.content.endswith('</tool_response>')) %}\n        {%- set ns.found = true %}\n        {%- set ns.last_query = index %}\n    {%- endif %}\n{%- endfor %}\n{%- for message in messages %}\n    {%- set content = message.content %}\n    {%- if message.role == 'assistant' and '</think>' in content %}\n        {%- set reasoning = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}\n        {%- set content = content.split('</think>')[-1].lstrip('\\n') %}\n        {%- if loop.index0 > ns.last_query %}\n            {{- '<think>\\n' + reasoning.strip('\\n') + '\\n</think>\\n\\n' }}\n        {%- endif %}\n    {%- endif %}\n    {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>\\n' }}\n{%- endfor %}\n{%- if add_generation_prompt %}\n    {{- '<|im_start|>assistant\\n' }}\n    {%- if enable_thinking is defined and enable_thinking is false %}\n        {{- '<think>\\n\\n</think>\\n\\n' }}\n    {%- endif %}\n{%- endif %}",
    "headers": "{{- bos_token }}\n{%- if not date_string is defined %}\n    {%- set date_string = \"26 Jul 2024\" %}\n{%- endif %}\n{%- if not tools is defined %}\n    {%- set tools = none %}\n{%- endif %}\n{#- A system message is taken out first. #}\n{%- if messages[0]['role'] == 'system' %}\n    {%- set system_message = messages[0]['content']|trim %}\n    {%- set messages = messages[1:] %}\n{%- else %}\n    {%- set system_message = \"\" %}\n{%- endif %}\n{{- \"<|im_start|>system<|sep|>\\n\\n\" }}\n{%- if tools is not none %}\n    {{- \"Environment: ipython\\n\" }}\n{%- endif %}\n{{- \"Today Date: \" + date_string + \"\\n\\n\" }}\n{{- system_message }}\n{{- \"<|im_end|>\" }}\n{%- for message in messages %}\n    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}\n        {{- '<|im_start|>' + message['role'] + '<|sep|>\\n\\n'+ message['content'] | trim + '<|im_end|>' }}\n    {%- else %}\n        {{- message.content | tojson }}\n    {%- endif %}\n{%- endfor %}\n{%- if add_generation_prompt %}\n    {{- '<|im_start|>assistant<|sep|>\\n\\n' }}\n{%- endif %}\n",
    "alternating": "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'].strip() + ' [/INST]' }}{% elif message['role'] == 'assistant' %}{{ ' '  + message['content'].strip() + ' ' + eos_token }}{% endif %}{% endfor %}",
    "macros": "{%- macro turn(role, text) -%}\n<|im_start|>{{ role }}\n{{ text }}<|im_end|>\n{% endmacro -%}\n{%- for m in messages -%}\n    {{ turn(m.role | upper, m['content'] | replace('\\r', '') | trim) }}\n    {%- if m.name is defined %}{{ m | tojson }}{{ m.items() | list | length }}{% endif %}\n{%- endfor -%}\n{% for key, value in {'b': 1, 'a': [true, none, 'x']}.items() %}{{ key ~ '=' ~ value|tojson(indent=2) }}{{ ', ' if not loop.last }}{% endfor %}{{ '%s' | format('f') }}{{ messages | map(attribute='role') | join(',') }}{{ messages | selectattr('role', 'equalto', 'user') | list | length }}",
}

CHATS = [
    [{"role": "user", "content": "What is an expert?"}],
    [{"role": "system", "content": " Be brief. \n"}, {"role": "user", "content": "  hello\n"}],
    [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "<think>\nwhy\n</think>\n\nHello!"}, {"role": "user", "content": "日本語 <b>&'\"\\ {{ 1 }} {% if %}"}],
    [{"role": "user", "content": "a"}, {"role": "user", "content": "b", "name": "zoë"}],
    [{"role": "user", "content": ""}, {"role": "assistant", "content": "\nx "}],
    [{"role": "tool", "content": "\"quoted\"\n\u00e9"}],
]


def raise_exception(message):
    raise jinja2.exceptions.TemplateError(message)


def tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def template_cases():
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols])
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    cases = []
    for name, source in TEMPLATES.items():
        template = environment.from_string(source)
        for messages in CHATS:
            for extra in ({"add_generation_prompt": True}, {"add_generation_prompt": False}, {"add_generation_prompt": True, "enable_thinking": False}):
                case = {"template": name, "messages": messages, **extra}
                try:
                    case["text"] = template.render(
                        messages=messages, tools=None, documents=None, bos_token="<|endoftext|>", eos_token="<|endoftext|>", **extra)
                except jinja2.exceptions.TemplateError as error:
                    case["error"] = str(error)
                cases.append(case)
    return {"templates": TEMPLATES, "cases": cases}


def main():
    rng = random.Random(64)
    for make in (byte_level, byte_fallback, word_piece):
        tokenizer = make()
        tokenizer.save(str(HERE / f"{make.__name__}.json"), pretty=False)
        golden = tokenizer_cases(tokenizer, rng)
        (HERE / f"{make.__name__}_golden.json").write_text(json.dumps(golden, ensure_ascii=True, indent=0) + "\n")
    (HERE / "templates_golden.json").write_text(json.dumps(template_cases(), ensure_ascii=True, indent=1) + "\n")
    print("made with tokenizers", tokenizers.__version__, "and jinja2", jinja2.__version__)


if __name__ == "__main__":
    main()
