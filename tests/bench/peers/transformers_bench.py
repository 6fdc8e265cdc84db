"""Speed of transformers (torch, bf16) on an OLMoE checkpoint: prefill and decode with a KV cache.

    transformers_bench.py --model DIR [--threads 2] [--context 128] [--steps 16] [--prompt 512]
                          [--batches 1,8,32,64]

Prints one JSON object with tokens per second, as engine_bench does. The experts run as grouped
products, the fastest of transformers' implementations on a CPU where many rows meet; for a few
rows the loop over experts can be faster, so each case takes the better of the two.
"""

import argparse
import json
import time

import torch
import transformers

IMPLEMENTATIONS = ("grouped_mm", "eager")


def tokens(vocab: int, batch: int, start: int, count: int) -> torch.Tensor:
    sequence = torch.arange(batch).unsqueeze(1) * 7919
    position = torch.arange(start, start + count).unsqueeze(0) * 104729
    return (sequence + position + 13) % vocab


@torch.inference_mode()
def prefill(model, vocab: int, count: int, repeats: int) -> float:
    begin = time.perf_counter()
    for _ in range(repeats):
        model(tokens(vocab, 1, 0, count), use_cache=True, logits_to_keep=1)
    return repeats * count / (time.perf_counter() - begin)


@torch.inference_mode()
def decode(model, vocab: int, batch: int, context: int, steps: int) -> float:
    cache = transformers.DynamicCache(config=model.config)
    model(tokens(vocab, batch, 0, context), past_key_values=cache, logits_to_keep=1)
    model(tokens(vocab, batch, context, 1), past_key_values=cache, logits_to_keep=1)
    begin = time.perf_counter()
    for step in range(1, steps + 1):
        model(tokens(vocab, batch, context + step, 1), past_key_values=cache, logits_to_keep=1)
    return batch * steps / (time.perf_counter() - begin)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--context", type=int, default=128)
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--batches", default="1,8,32,64")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.set_num_interop_threads(1)
    model = transformers.AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.bfloat16)
    model.eval()
    vocab = model.config.vocab_size
    best = {}

    def note(name: str, rate: float, implementation: str) -> None:
        if rate > best.get(name, (0.0, ""))[0]:
            best[name] = (round(rate, 1), implementation)

    for implementation in IMPLEMENTATIONS:
        model.set_experts_implementation(implementation)
        prefill(model, vocab, args.prompt, 1)  # warm-up
        note(f"prefill_{args.prompt}", prefill(model, vocab, args.prompt, args.repeats), implementation)
        for batch in map(int, args.batches.split(",")):
            rate = decode(model, vocab, batch, args.context, args.steps)
            note(f"decode_{batch}", rate, implementation)
    result = {name: rate for name, (rate, _) in best.items()}
    result["experts"] = {name: implementation for name, (_, implementation) in best.items()}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
