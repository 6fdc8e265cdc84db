"""Makes small random OLMoE checkpoints, one for each way in which such checkpoints differ.

    python make_checkpoints.py

Needs torch, safetensors and tokenizers. Files are written beside this script, one folder per
variant; README.md says what each is for. The same seed gives the same files.
"""

import dataclasses
import json
import pathlib
import shutil
import zlib

import safetensors.torch
import tokenizers
import torch
from tokenizers import decoders, models, pre_tokenizers, trainers

FOLDER = pathlib.Path(__file__).resolve().parent

SPECIAL_TOKENS = ["<|endoftext|>", "<|padding|>", "<|system|>", "<|user|>", "<|assistant|>"]
TOKENIZER_TEXT = [
    "The router sends each token to the experts with the highest scores, and the owner adds their outputs.",
    "A worker holds one expert of every layer; the other workers hold the other experts of the same layers.",
]
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>\\n' + message['content'] + "
    "(eos_token if message['role'] == 'assistant' else '') + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}")


@dataclasses.dataclass
class Variant:
    """One checkpoint. The defaults are a plain small OLMoE in the form of transformers 4."""
    name: str
    hidden: int = 64
    intermediate: int = 32
    layers: int = 2
    heads: int = 4
    kv_heads: int = 4
    experts: int = 8
    top_k: int = 2
    vocab: int = 300
    tokenizer_vocab: int = 300
    dtype: torch.dtype = torch.bfloat16
    fused: bool = False               # gate_up_proj and down_proj per layer instead of tensors per expert
    config_v5: bool = False           # dtype and rope_parameters instead of torch_dtype and rope_theta
    template_file: bool = False       # chat_template.jinja instead of a field of tokenizer_config.json
    num_shards: int = 1
    clip_qkv: float | None = None
    norm_topk_prob: bool = False
    tied: bool = False
    rope_theta: float = 10000.0
    rms_norm_eps: float = 1e-5


VARIANTS = [
    Variant("per_expert_v4"),
    Variant("fused_v5", fused=True, config_v5=True, template_file=True, rope_theta=50000.0),
    Variant("sharded", layers=3, num_shards=3),
    Variant("fp16", dtype=torch.float16),
    Variant("fp32", dtype=torch.float32, fused=True, config_v5=True),
    Variant("gqa", hidden=96, heads=6, kv_heads=2),
    Variant("clip_qkv", clip_qkv=0.75),
    Variant("norm_topk", norm_topk_prob=True, top_k=3),
    Variant("tied", tied=True, config_v5=True, template_file=True),
    Variant("large_vocab", vocab=384),
    Variant("odd_sizes", hidden=90, intermediate=37, heads=5, kv_heads=1, experts=5, top_k=3, vocab=301,
            tokenizer_vocab=287, layers=3, rope_theta=20000.0, rms_norm_eps=1e-6),
    Variant("many_experts", hidden=48, intermediate=16, heads=4, kv_heads=2, experts=72, top_k=6),
    Variant("all_experts", experts=6, top_k=6, norm_topk_prob=True, fused=True, config_v5=True, num_shards=2),
    Variant("one_of_seven", experts=7, top_k=1, layers=1, heads=1, kv_heads=1),
]


def _tensor(name: str, shape: tuple[int, ...], std: float, mean: float = 0.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    return torch.randn(shape, generator=generator) * std + mean


def make_weights(v: Variant) -> dict[str, torch.Tensor]:
    """Returns the tensors in fp32; each is seeded by the names of variant and tensor."""
    weights = {}

    def add(name, shape, std, mean=0.0):
        weights[name] = _tensor(f"{v.name}/{name}", shape, std, mean)

    kv = v.hidden // v.heads * v.kv_heads
    add("model.embed_tokens.weight", (v.vocab, v.hidden), 0.2 if v.tied else 0.6)
    for layer in range(v.layers):
        at = f"model.layers.{layer}."
        for norm, size in [("input_layernorm", v.hidden), ("post_attention_layernorm", v.hidden),
                           ("self_attn.q_norm", v.hidden), ("self_attn.k_norm", kv)]:
            add(at + norm + ".weight", (size,), 0.2, 1.0)
        for proj, rows in [("q", v.hidden), ("k", kv), ("v", kv), ("o", v.hidden)]:
            add(at + f"self_attn.{proj}_proj.weight", (rows, v.hidden), 0.12)
        add(at + "mlp.gate.weight", (v.experts, v.hidden), 0.2)
        for expert in range(v.experts):
            part = at + f"mlp.experts.{expert}."
            add(part + "gate_proj.weight", (v.intermediate, v.hidden), 0.15)
            add(part + "up_proj.weight", (v.intermediate, v.hidden), 0.15)
            add(part + "down_proj.weight", (v.hidden, v.intermediate), 0.15)
    add("model.norm.weight", (v.hidden,), 0.2, 1.0)
    if not v.tied:
        add("lm_head.weight", (v.vocab, v.hidden), 0.2)
    if v.fused:
        for layer in range(v.layers):
            at = f"model.layers.{layer}.mlp.experts."
            parts = [[weights.pop(f"{at}{expert}.{kind}_proj.weight") for kind in ("gate", "up", "down")]
                     for expert in range(v.experts)]
            weights[at + "gate_up_proj"] = torch.stack([torch.cat(part[:2]) for part in parts])
            weights[at + "down_proj"] = torch.stack([part[2] for part in parts])
    return weights


def make_config(v: Variant) -> dict:
    dtype = str(v.dtype).removeprefix("torch.")
    config = {
        "architectures": ["OlmoeForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
        "clip_qkv": v.clip_qkv, "eos_token_id": 0, "hidden_act": "silu", "hidden_size": v.hidden,
        "initializer_range": 0.02, "intermediate_size": v.intermediate, "max_position_embeddings": 512,
        "model_type": "olmoe", "norm_topk_prob": v.norm_topk_prob, "num_attention_heads": v.heads,
        "num_experts": v.experts, "num_experts_per_tok": v.top_k, "num_hidden_layers": v.layers,
        "num_key_value_heads": v.kv_heads, "output_router_logits": False, "pad_token_id": 1,
        "rms_norm_eps": v.rms_norm_eps, "router_aux_loss_coef": 0.01, "tie_word_embeddings": v.tied,
        "use_cache": True, "vocab_size": v.vocab,
    }
    if v.config_v5:
        config |= {"bos_token_id": None, "dtype": dtype, "transformers_version": "5.0.0",
                   "rope_parameters": {"rope_theta": v.rope_theta, "rope_type": "default"}}
    else:
        config |= {"torch_dtype": dtype, "transformers_version": "4.46.3", "rope_scaling": None,
                   "rope_theta": v.rope_theta}
    return dict(sorted(config.items()))


def write_json(path: pathlib.Path, value) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")


def save(tensors: dict[str, torch.Tensor], path: pathlib.Path) -> None:
    safetensors.torch.save_file(tensors, path, metadata={"format": "pt"})
    path.chmod(0o644)


def write_weights(v: Variant, folder: pathlib.Path) -> None:
    weights = {name: t.to(v.dtype).contiguous() for name, t in make_weights(v).items()}
    if v.num_shards == 1:
        save(weights, folder / "model.safetensors")
        return
    names = list(weights)
    per_shard = -(-len(names) // v.num_shards)
    weight_map = {}
    for shard in range(v.num_shards):
        part = names[shard * per_shard:(shard + 1) * per_shard]
        file = f"model-{shard + 1:05}-of-{v.num_shards:05}.safetensors"
        save({n: weights[n] for n in part}, folder / file)
        weight_map |= {n: file for n in part}
    total = sum(t.numel() * t.element_size() for t in weights.values())
    write_json(folder / "model.safetensors.index.json",
               {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))})


def write_tokenizer(v: Variant, folder: pathlib.Path) -> None:
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(TOKENIZER_TEXT, trainers.BpeTrainer(
        vocab_size=v.tokenizer_vocab, min_frequency=1, special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    assert tokenizer.get_vocab_size() == v.tokenizer_vocab
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    config = {
        "add_prefix_space": False, "clean_up_tokenization_spaces": False, "eos_token": SPECIAL_TOKENS[0],
        "model_max_length": 512, "pad_token": SPECIAL_TOKENS[1],
        "tokenizer_class": "TokenizersBackend" if v.config_v5 else "PreTrainedTokenizerFast"}
    if v.template_file:
        (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    else:
        config["chat_template"] = CHAT_TEMPLATE
    write_json(folder / "tokenizer_config.json", config)


def main() -> None:
    for v in VARIANTS:
        folder = FOLDER / v.name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        write_json(folder / "config.json", make_config(v))
        write_json(folder / "generation_config.json", {"_from_model_config": True, "eos_token_id": 0, "pad_token_id": 1})
        write_weights(v, folder)
        write_tokenizer(v, folder)
        print(f"{v.name}: {sum(f.stat().st_size for f in folder.iterdir()):,} bytes")


if __name__ == "__main__":
    main()
