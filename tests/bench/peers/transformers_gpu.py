"""Decode steps of Hugging Face transformers, beside those of a run of gpu_bench.

    python transformers_gpu.py --model DIR --beside FILE [--device cuda]

DIR and FILE are gpu_bench's --model and --output. The same model in bf16, the same batches, context and
number of steps; greedy tokens; of its experts as grouped products and as a loop, the faster in each case.
Its times are added to FILE, and both are printed with their ratio. Exits with 3, and says what is
missing, where torch or transformers is not installed or torch sees no such device.
"""

import argparse
import json
import statistics
import sys
import time

NOT_HERE = 3
IMPLEMENTATIONS = ("grouped_mm", "eager")
WARM_UP_STEPS = 3
# Tokens of a prompt that go through the model at once, over the whole batch.
PREFILL_ROWS = 8192


def give_up(reason):
    print(f"no peer in this run: {reason}", file=sys.stderr)
    sys.exit(NOT_HERE)


class Peer:
    def __init__(self, torch, transformers, folder, device):
        self.torch = torch
        self.device = torch.device(device)
        self.transformers = transformers
        self.model = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.bfloat16, local_files_only=True
        )
        self.model = self.model.to(self.device).eval()

    def wait(self):
        if self.device.type == "cuda":
            self.torch.cuda.synchronize(self.device)

    def forward(self, tokens, cache):
        """The likeliest next token of each sequence, [batch, 1]."""
        answer = self.model(input_ids=tokens, past_key_values=cache, use_cache=True, logits_to_keep=1)
        return answer.logits[:, -1:].argmax(dim=-1)

    def decode(self, batch, context, num_steps, experts):
        """Seconds of each step that counts; None where the device's memory does not suffice."""
        torch = self.torch
        self.model.set_experts_implementation(experts)
        generator = torch.Generator().manual_seed(batch)
        vocab_size = self.model.config.vocab_size
        prompts = torch.randint(0, vocab_size, (batch, context), generator=generator).to(self.device)
        seconds = []
        try:
            with torch.inference_mode():
                cache = self.transformers.DynamicCache(config=self.model.config)
                chunk = max(1, PREFILL_ROWS // batch)
                for first in range(0, context, chunk):
                    tokens = self.forward(prompts[:, first : first + chunk], cache)
                for step in range(WARM_UP_STEPS + num_steps):
                    self.wait()
                    begin = time.perf_counter()
                    tokens = self.forward(tokens, cache)
                    self.wait()
                    if step >= WARM_UP_STEPS:
                        seconds.append(time.perf_counter() - begin)
        except torch.OutOfMemoryError:
            return None
        finally:
            cache = None
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
        return seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--beside", required=True, help="JSON of gpu_bench, which is extended")
    parser.add_argument("--device", default="cuda")
    flags = parser.parse_args()
    try:
        import torch
        import transformers
    except ImportError as error:
        give_up(f"{sys.executable} has no module {error.name}")
    if flags.device.startswith("cuda") and not torch.cuda.is_available():
        give_up(f"torch {torch.__version__} of {sys.executable} sees no GPU")

    with open(flags.beside, encoding="utf-8") as file:
        results = json.load(file)
    transformers.utils.logging.set_verbosity_error()
    peer = Peer(torch, transformers, flags.model, flags.device)
    name = f"transformers {transformers.__version__}, torch {torch.__version__}"
    print(f"\nBeside {name}\n{'batch':>6}{'ms':>10}{'peer ms':>10}{'ratio':>8}   its experts")
    decode = []
    for ours in results["decode"]:
        steps = ours["step_seconds"]
        runs = {
            experts: peer.decode(ours["batch"], results["context"], len(steps), experts)
            for experts in IMPLEMENTATIONS
        }
        decode.append({"batch": ours["batch"], "step_seconds": runs})
        own = statistics.median(steps)
        medians = {experts: statistics.median(seconds) for experts, seconds in runs.items() if seconds}
        if not medians:
            print(f"{ours['batch']:6d}{own * 1e3:10.3f}   does not fit its memory", flush=True)
            continue
        best = min(medians, key=medians.get)
        its = medians[best]
        print(f"{ours['batch']:6d}{own * 1e3:10.3f}{its * 1e3:10.3f}{its / own:8.2f}   {best}", flush=True)
    results["peer"] = {"name": name, "decode": decode}
    with open(flags.beside, "w", encoding="utf-8") as file:
        json.dump(results, file, indent=1)
        file.write("\n")


if __name__ == "__main__":
    main()
