"""Writes an OLMoE checkpoint (bf16 safetensors) as a GGUF file that llama.cpp reads, without a
tokenizer: the same weights for both sides of the benchmark.

    to_gguf.py MODEL_DIR OUT.gguf
"""

import json
import pathlib
import re
import sys

import gguf
import numpy
import safetensors


# Names of transformers -> names of llama.cpp (gguf-py, tensor_mapping.py, OLMoE). All matrices are
# [out_features, in_features] in both.
OUTER = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
LAYER = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate": "ffn_gate_inp",
}
EXPERT = {"gate_proj": "ffn_gate_exps", "up_proj": "ffn_up_exps", "down_proj": "ffn_down_exps"}
# Vectors and routers are fp32 in llama.cpp, as in its own conversion.
FP32 = re.compile(r"(norm|ffn_gate_inp)\.weight$")


class Shards:
    """Tensors of a folder by name, as raw bf16 words."""

    def __init__(self, model_dir: pathlib.Path):
        self._file_of = {}
        for path in sorted(model_dir.glob("*.safetensors")):
            with safetensors.safe_open(path, framework="pt") as shard:
                for name in shard.keys():
                    self._file_of[name] = path
        self._open = {}

    def bf16(self, name: str) -> numpy.ndarray:
        import torch

        path = self._file_of[name]
        if path not in self._open:
            self._open[path] = safetensors.safe_open(path, framework="pt").__enter__()
        return self._open[path].get_tensor(name).view(torch.uint16).numpy()


def fp32(words: numpy.ndarray) -> numpy.ndarray:
    return (words.astype(numpy.uint32) << 16).view(numpy.float32)


def main() -> None:
    model_dir, out = pathlib.Path(sys.argv[1]), sys.argv[2]
    config = json.loads((model_dir / "config.json").read_text())
    shards = Shards(model_dir)
    writer = gguf.GGUFWriter(out, "olmoe")
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_expert_count(config["num_experts"])
    writer.add_expert_used_count(config["num_experts_per_tok"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    theta = config.get("rope_theta") or config["rope_parameters"]["rope_theta"]
    writer.add_rope_freq_base(theta)
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("none")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)

    def add(name: str, words: numpy.ndarray) -> None:
        if FP32.search(name):
            writer.add_tensor(name, fp32(words))
        else:
            writer.add_tensor(
                name, words.view(numpy.uint8), raw_dtype=gguf.GGMLQuantizationType.BF16
            )

    for theirs, name in OUTER.items():
        add(name, shards.bf16(theirs))
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        for theirs, name in LAYER.items():
            add(f"blk.{layer}.{name}.weight", shards.bf16(f"{prefix}{theirs}.weight"))
        for theirs, name in EXPERT.items():
            experts = [
                shards.bf16(f"{prefix}mlp.experts.{expert}.{theirs}.weight")
                for expert in range(config["num_experts"])
            ]
            add(f"blk.{layer}.{name}.weight", numpy.stack(experts))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main()
