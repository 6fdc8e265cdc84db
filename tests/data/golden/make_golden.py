"""Makes the golden files: what transformers computes for each checkpoint.

    python make_golden.py [NAME ...]

Without names it makes those of all checkpoints in ../checkpoints and of the demo model. Needs torch,
transformers and safetensors. README.md describes the files. Not part of `make test`.
"""

import pathlib
import random
import re
import sys
import zlib

import safetensors.torch
import torch
from transformers import AutoTokenizer, OlmoeForCausalLM

FOLDER = pathlib.Path(__file__).resolve().parent
ROOT = FOLDER.parents[2]
CHECKPOINTS = FOLDER.parent / "checkpoints"
DEMO = ROOT / "models" / "demo"

NUM_SEQUENCES, LENGTH = 8, 128
NUM_COLUMNS = {"demo": 64}           # of the vocabulary, in the file
DEFAULT_NUM_COLUMNS = 32
NUM_GREEDY, MIN_GREEDY = 24, 8       # tokens of a greedy generation of a random checkpoint
PROMPT_LENGTHS = [1, 5, 17, 40]
# Where two experts are nearly tied for the last place in the top-k, bf16 may choose the other one, and in a random
# model that changes the logits by far more than rounding does. Tokens of random checkpoints are therefore drawn so
# that this gap between router logits stays large; the demo model's tokens are plain text, near ties included.
STEADY_GAP, GREEDY_GAP, NUM_CANDIDATES = 0.1, 0.05, 8
MAX_GREEDY_DEMO = 120
DEMO_QUESTIONS = ["What is an expert?", "How does expert parallelism work?", "What happens when a worker dies?",
                  "Who are you?", "what is the kv cache", "How do I call the API?"]


def load(folder: pathlib.Path, dtype: torch.dtype) -> OlmoeForCausalLM:
    """Loads with the weights rounded to bf16, as the product has them, and computes in dtype.

    from_pretrained keeps the rotary frequencies in fp32 even for a bf16 model, which is the better of the
    two ways to run transformers in bf16 (model.to(bfloat16) rounds them).
    """
    model = OlmoeForCausalLM.from_pretrained(
        folder, dtype=torch.bfloat16, attn_implementation="eager", experts_implementation="eager")
    return model.eval().to(dtype) if dtype != torch.bfloat16 else model.eval()


@torch.no_grad()
def run(model, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns fp32 logits [B, L, V] and, per position, the smallest gap over layers between the router logits
    of the last expert chosen and the first one not chosen [B, L]."""
    result = model(tokens, output_router_logits=True, use_cache=False)
    top_k = model.config.num_experts_per_tok
    gap = torch.full(tokens.shape, torch.inf)
    if top_k < model.config.num_experts:
        for router_logits in result.router_logits:
            best = torch.topk(router_logits.float(), top_k + 1, dim=-1).values
            gap = torch.minimum(gap, (best[:, -2] - best[:, -1]).view(tokens.shape))
    return result.logits.float(), gap


def steady_tokens(model, seed: str, count: int, length: int) -> torch.Tensor:
    """Random tokens [count, length], each the first of a few candidates whose router gap is large enough."""
    generator = torch.Generator().manual_seed(zlib.crc32(seed.encode()))
    tokens = torch.empty(count, 0, dtype=torch.long)
    for _ in range(length):
        candidates = torch.randint(0, model.config.vocab_size, (count, NUM_CANDIDATES, 1), generator=generator)
        longer = torch.cat([tokens[:, None].expand(-1, NUM_CANDIDATES, -1), candidates], dim=-1)
        gap = run(model, longer.flatten(0, 1))[1][:, -1].view(count, NUM_CANDIDATES)
        enough = gap >= STEADY_GAP
        choice = torch.where(enough.any(1), enough.int().argmax(1), gap.argmax(1))
        tokens = longer[torch.arange(count), choice]
    return tokens


def demo_tokens(tokenizer) -> torch.Tensor:
    """Text of the corpus in its chat form, cut into sequences."""
    pairs = []
    for path in sorted((DEMO / "training" / "corpus").glob("0[1-7]*.txt")):
        for block in re.split(r"\n\s*\n", path.read_text()):
            questions = re.findall(r"^Q: (.*)$", block, re.M)
            answers = re.findall(r"^A: (.*)$", block, re.M)
            if questions and answers:
                pairs.append((questions[0], answers[0]))
    random.Random(3).shuffle(pairs)
    rows, at = [], 0
    while len(rows) < NUM_SEQUENCES:
        ids: list[int] = []
        while len(ids) < LENGTH:
            question, answer = pairs[at]
            at += 1
            ids += tokenizer.encode(tokenizer.apply_chat_template(
                [{"role": "user", "content": question}, {"role": "assistant", "content": answer}], tokenize=False))
        rows.append(ids[:LENGTH])
    return torch.tensor(rows)


def greedy(model, prompt: list[int], num_tokens: int, stop: int | None, min_gap: float):
    """Returns the most likely tokens and by how much the logit of each exceeds the next one.

    Ends after num_tokens, after the token `stop`, or before a position whose router gap is below min_gap.
    """
    ids, margins = list(prompt), []
    while len(margins) < num_tokens and (not margins or ids[-1] != stop):
        logits, gap = run(model, torch.tensor([ids]))
        if gap[0, len(prompt) - 1:].min() < min_gap:
            break
        best = torch.topk(logits[0, -1], 2)
        ids.append(int(best.indices[0]))
        margins.append(float(best.values[0] - best.values[1]))
    return ids[len(prompt):], margins


def steady_greedy(model, name: str, length: int):
    """Returns (prompt, tokens, margins) for a random prompt after which routing stays clear for a while."""
    longest = ([], [], [])
    for attempt in range(30):
        prompt = steady_tokens(model, f"{name}/prompt/{length}/{attempt}", 1, length)[0].tolist()
        generated, margins = greedy(model, prompt, NUM_GREEDY, None, GREEDY_GAP)
        if len(generated) > len(longest[1]):
            longest = (prompt, generated, margins)
        if len(longest[1]) >= MIN_GREEDY:
            return longest
    if not longest[1]:
        raise RuntimeError(f"{name}: no prompt of {length} tokens with clear routing")
    return longest


@torch.no_grad()
def make(name: str, folder: pathlib.Path) -> None:
    fp32, bf16 = load(folder, torch.float32), load(folder, torch.bfloat16)
    vocab = fp32.config.vocab_size
    tokenizer = AutoTokenizer.from_pretrained(folder)
    is_demo = folder == DEMO
    if is_demo:
        tokens = demo_tokens(tokenizer)
        generations = []
        for question in DEMO_QUESTIONS:
            prompt = tokenizer.encode(tokenizer.apply_chat_template(
                [{"role": "user", "content": question}], tokenize=False, add_generation_prompt=True))
            generations.append((prompt, *greedy(fp32, prompt, MAX_GREEDY_DEMO, tokenizer.eos_token_id, 0.0)))
    else:
        tokens = steady_tokens(fp32, f"{name}/tokens", NUM_SEQUENCES, LENGTH)
        generations = [steady_greedy(fp32, name, length) for length in PROMPT_LENGTHS]
    # One sequence at a time, so that no padding or batch shape takes part.
    rows = [run(fp32, row[None]) for row in tokens]
    exact, gap = torch.cat([logits for logits, _ in rows]), torch.cat([gap for _, gap in rows])
    rounded = torch.cat([run(bf16, row[None])[0] for row in tokens])
    assert torch.isfinite(exact).all()
    generator = torch.Generator().manual_seed(zlib.crc32(f"{name}/columns".encode()))
    num_columns = NUM_COLUMNS.get(name, DEFAULT_NUM_COLUMNS)
    columns = torch.randperm(vocab, generator=generator)[:num_columns].sort().values
    best = torch.topk(exact, 2, dim=-1)
    error = rounded - exact
    tensors = {
        "tokens": tokens.to(torch.int32),
        "columns": columns.to(torch.int32),
        "logits": exact[..., columns],
        "top1_token": best.indices[..., 0].to(torch.int32),
        "top1_logit": best.values[..., 0],
        "top2_logit": best.values[..., 1],
        "logsumexp": torch.logsumexp(exact.double(), dim=-1).float(),
        "router_gap": gap,
        "bf16_rms_error_subset": error[..., columns].pow(2).mean().sqrt()[None],
        "bf16_rms_error_all": error.pow(2).mean().sqrt()[None],
        "bf16_max_error": error.abs().max()[None],
    }
    for idx, (prompt, generated, margins) in enumerate(generations):
        tensors[f"prompt.{idx}"] = torch.tensor(prompt, dtype=torch.int32)
        tensors[f"greedy.{idx}"] = torch.tensor(generated, dtype=torch.int32)
        tensors[f"margin.{idx}"] = torch.tensor(margins)
    path = FOLDER / f"{name}.safetensors"
    safetensors.torch.save_file({k: t.contiguous() for k, t in tensors.items()}, path)
    path.chmod(0o644)
    margin = tensors["top1_logit"] - tensors["top2_logit"]
    max_error = tensors["bf16_max_error"].item()
    print(f"{name}: logits std {exact.std():.3f}, bf16 rms error {tensors['bf16_rms_error_all'].item():.5f} "
          f"(subset {tensors['bf16_rms_error_subset'].item():.5f}), max {max_error:.4f}; "
          f"smallest router gap {gap.min():.4f}; margin above the max error at {(margin > max_error).float().mean():.1%} of positions; "
          f"bf16 has another top-1 at {(rounded.argmax(-1) != best.indices[..., 0]).sum()} of {margin.numel()}; "
          f"greedy {[len(g) for _, g, _ in generations]}", flush=True)


def main() -> None:
    torch.set_num_threads(1)
    folders = {path.parent.name: path.parent for path in sorted(CHECKPOINTS.glob("*/config.json"))} | {"demo": DEMO}
    names = sys.argv[1:] or list(folders)
    for name in names:
        make(name, folders[name])


if __name__ == "__main__":
    main()
