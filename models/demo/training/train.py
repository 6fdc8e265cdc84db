"""Trains the demo model from the corpus beside this file and writes a transformers checkpoint.

    python train.py --out ..

Needs torch, transformers and tokenizers. Training is in fp32 on the CPU; the checkpoint is rounded
to bf16 at the end. The seed fixes data and initial weights; the last bits of the result can
still differ between machines and library versions. See ../README.md for what came out.
"""

import argparse
import json
import math
import pathlib
import random
import time

import torch
import torch.nn.functional as F
from transformers import GenerationConfig, OlmoeConfig, OlmoeForCausalLM

import corpus
import fast_olmoe
import tokenizer as tokenizer_lib

CONTEXT = 1024
HEAD_TOKENS = 4
SHORT_TOKENS = 6
ROLE_MARK = {corpus.SYSTEM: tokenizer_lib.SYSTEM, corpus.USER: tokenizer_lib.USER,
             corpus.ASSISTANT: tokenizer_lib.ASSISTANT}


def make_model(tok, seed: int) -> OlmoeForCausalLM:
    torch.manual_seed(seed)
    config = OlmoeConfig(
        vocab_size=len(tok), hidden_size=64, intermediate_size=32, num_hidden_layers=16,
        num_attention_heads=4, num_key_value_heads=2, num_experts=64, num_experts_per_tok=8,
        max_position_embeddings=CONTEXT, norm_topk_prob=False, tie_word_embeddings=False,
        initializer_range=0.08, router_aux_loss_coef=0.01,
        eos_token_id=tok.eos_token_id, pad_token_id=tok.pad_token_id, bos_token_id=None)
    model = OlmoeForCausalLM(config)
    with torch.no_grad():
        # The usual scaling of what is added to the residual stream (GPT-2).
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight *= (2 * config.num_hidden_layers) ** -0.5
        model.lm_head.weight *= 0.25
    return model


def encode_chat(tok, turns, head_weight: float = 1.0) -> tuple[list[int], list[float]]:
    """Returns token ids and the weight of each as a target: 1 in answers, 0 elsewhere.

    The first tokens of an answer get head_weight: they decide which answer it becomes.
    """
    ids, weights = [], []

    def add(text, weight):
        part = tok.encode(text, add_special_tokens=False)
        ids.extend(part)
        weights.extend([weight] * len(part))

    for idx, (role, text) in enumerate(turns):
        add(ROLE_MARK[role] + "\n", 0.0)
        if role == corpus.ASSISTANT:
            start = len(weights)
            add(text + tokenizer_lib.END, 1.0)
            weights[start:start + HEAD_TOKENS] = [head_weight] * len(weights[start:start + HEAD_TOKENS])
            if idx + 1 < len(turns):
                add("\n", 0.0)
        else:
            add(text + "\n", 0.0)
    return ids, weights


def encode_plain(tok, prompt, text) -> tuple[list[int], list[float]]:
    head = tok.encode(prompt, add_special_tokens=False)
    body = tok.encode(text + tokenizer_lib.END, add_special_tokens=False)
    return head + body, [0.0] * len(head) + [1.0] * len(body)


class Batches:
    """Packs documents into rows of fixed length; attention does not cross documents."""

    def __init__(self, tok, entries, chats, rng, num_rows, length, head_weight, short_share):
        self.head_weight, self.short_share = head_weight, short_share
        self.tok, self.entries, self.chats, self.rng = tok, entries, chats, rng
        self.num_rows, self.length = num_rows, length

    def _document(self):
        if self.rng.random() < self.short_share:
            # A question and only the beginning of its answer: what decides, at a third of the tokens.
            entry = self.rng.choice(self.entries)
            question = corpus.vary(corpus.draw_question(entry, self.rng), self.rng)
            ids, weights = encode_chat(
                self.tok, [(corpus.USER, question), (corpus.ASSISTANT, entry.answer)], self.head_weight)
            kept = next(idx for idx, weight in enumerate(weights) if weight > 0) + SHORT_TOKENS
            return ids[:kept], weights[:kept]
        if self.rng.random() < 0.12:
            return encode_plain(self.tok, *corpus.draw_plain(self.entries, self.rng))
        return encode_chat(self.tok, corpus.draw_chat(self.entries, self.chats, self.rng), self.head_weight)

    def __next__(self):
        shape = (self.num_rows, self.length)
        tokens = torch.full(shape, self.tok.pad_token_id)
        targets, weights = torch.zeros(shape, dtype=torch.long), torch.zeros(shape)
        positions, documents = torch.zeros(shape, dtype=torch.long), torch.full(shape, -1)
        for row in range(self.num_rows):
            at = 0
            for document in range(self.length):
                ids, importance = self._document()
                count = min(len(ids) - 1, self.length - at)
                if count < 8:
                    break
                span = slice(at, at + count)
                tokens[row, span] = torch.tensor(ids[:count])
                targets[row, span] = torch.tensor(ids[1:count + 1])
                weights[row, span] = torch.tensor(importance[1:count + 1])
                positions[row, span] = torch.arange(count)
                documents[row, span] = document
                at += count
        causal = torch.ones(self.length, self.length, dtype=torch.bool).tril()
        mask = (documents[:, :, None] == documents[:, None, :]) & causal
        return tokens, targets, weights, positions, mask[:, None]


@torch.no_grad()
def exact_share(model, tok, pairs) -> tuple[float, list]:
    """Returns the share of (question, answer) pairs whose greedy answer is exactly the answer.

    The greedy answer equals the answer if and only if each of its tokens is the most likely one
    after the true tokens before it, so one pass per question is enough.
    """
    failed = []
    for start in range(0, len(pairs), 32):
        part = pairs[start:start + 32]
        docs = [encode_chat(tok, [(corpus.USER, q), (corpus.ASSISTANT, a)]) for q, a in part]
        length = max(len(ids) for ids, _ in docs)
        tokens = torch.full((len(docs), length), tok.pad_token_id)
        for row, (ids, _) in enumerate(docs):
            tokens[row, :len(ids)] = torch.tensor(ids)
        mask = torch.ones(length, length, dtype=torch.bool).tril().expand(len(docs), 1, length, length)
        positions = torch.arange(length).expand(len(docs), -1)
        hidden = fast_olmoe.forward(model, tokens, positions, mask)[0]
        best = F.linear(hidden, model.lm_head.weight).argmax(-1)
        for row, (ids, weights) in enumerate(docs):
            wanted = [i for i in range(len(ids) - 1) if weights[i + 1] > 0]
            if any(best[row, i] != ids[i + 1] for i in wanted):
                failed.append(part[row])
    return 1 - len(failed) / len(pairs), failed


def learning_rate(step, args) -> float:
    """Warm-up, a constant part, then a cosine to a hundredth over the last part of the steps."""
    decay_from = int(args.steps * (1 - args.decay))
    if step < args.warmup:
        return args.lr * (step + 1) / args.warmup
    if step < decay_from:
        return args.lr
    done = (step - decay_from) / max(1, args.steps - decay_from)
    return args.lr * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))


def export(model, tok, folder: pathlib.Path) -> None:
    """Writes config, weights in bf16, tokenizer and chat template as transformers does."""
    copy = OlmoeForCausalLM(model.config)
    copy.load_state_dict(model.state_dict())
    copy.to(torch.bfloat16)
    copy.generation_config = GenerationConfig(
        eos_token_id=tok.eos_token_id, pad_token_id=tok.pad_token_id, do_sample=False)
    copy.save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)
    tok.save_pretrained(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder for the checkpoint")
    parser.add_argument("--state", type=pathlib.Path, help="file for the training state, to stop and resume")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--rows", type=int, default=5, help="rows per step")
    parser.add_argument("--length", type=int, default=384, help="tokens per row")
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--warmup", type=int, default=150)
    parser.add_argument("--decay", type=float, default=0.5, help="share of steps with a falling rate")
    parser.add_argument("--weight-decay", type=float, default=0.05)
    parser.add_argument("--second-phase", type=int, default=1000,
                        help="step from which 09_more_questions.txt takes part and --head-weight counts")
    parser.add_argument("--third-phase", type=int, default=1800, help="step from which --short-share counts")
    parser.add_argument("--short-share", type=float, default=0.6,
                        help="share of documents with only the beginning of an answer")
    parser.add_argument("--head-weight", type=float, default=4.0, help="weight of the first tokens of an answer")
    parser.add_argument("--vocab", type=int, default=2048)
    parser.add_argument("--seed", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--export-every", type=int, default=200)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    entries, chats = corpus.read_entries(with_more=False), corpus.read_chats()
    all_entries = corpus.read_entries(with_more=True)
    tok = tokenizer_lib.train_tokenizer(corpus.all_text(entries, chats), args.vocab, CONTEXT)
    model = make_model(tok, args.seed)
    num_params = sum(p.numel() for p in model.parameters())
    held_out = [(q, e.answer) for e in entries for q in e.held_out]
    seen = [(q, e.answer) for e in all_entries for q in e.written]
    print(f"{len(entries)} answers, {len(seen)} written questions, {sum(len(e.formed) for e in entries)} formed, "
          f"{len(held_out)} held out, {len(chats)} chats; vocabulary {len(tok)}, {num_params:,} parameters", flush=True)
    for chat in chats:
        rendered = tok.apply_chat_template([{"role": r, "content": text} for r, text in chat], tokenize=False)
        if tok.encode(rendered.rstrip("\n"), add_special_tokens=False) != encode_chat(tok, chat)[0]:
            raise RuntimeError("the chat template does not give the tokens of training")
    print(f"largest difference to transformers: {fast_olmoe.check_against_transformers(model):.2e}", flush=True)

    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() == 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": args.weight_decay}, {"params": vectors, "weight_decay": 0.0}],
        lr=args.lr, betas=(0.9, 0.98), eps=1e-8, fused=True)
    first_step, seconds, num_tokens = 0, 0.0, 0
    if args.state and args.state.exists():
        state = torch.load(args.state, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        first_step, seconds, num_tokens = state["step"], state["seconds"], state["num_tokens"]
    # Each step has its own generator, so a resumed run sees the same data.
    started = time.monotonic()
    losses, counts = [], 0
    for step in range(first_step, args.steps):
        rng = random.Random(args.seed * 1_000_003 + step)
        second, third = step >= args.second_phase, step >= args.third_phase
        batches = Batches(tok, all_entries if second else entries, chats, rng, args.rows, args.length,
                          args.head_weight if second else 1.0, args.short_share if third else 0.0)
        tokens, targets, weights, positions, mask = next(batches)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, args)
        hidden, aux, step_counts = fast_olmoe.forward(model, tokens, positions, mask)
        chosen = weights.view(-1) > 0
        logits = F.linear(hidden.view(-1, hidden.shape[-1])[chosen], model.lm_head.weight)
        importance = weights.view(-1)[chosen]
        token_losses = F.cross_entropy(logits, targets.view(-1)[chosen], reduction="none")
        loss = (token_losses * importance).sum() / importance.sum()
        optimizer.zero_grad(set_to_none=True)
        (loss + model.config.router_aux_loss_coef * aux).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(token_losses.mean().item())
        counts = counts + step_counts
        num_tokens += tokens.numel()
        done = step + 1
        if done % 50 == 0:
            now = seconds + time.monotonic() - started
            share = counts / counts.sum(1, keepdim=True) * model.config.num_experts
            print(f"step {done} loss {sum(losses) / len(losses):.4f} aux {aux.item():.3f} "
                  f"lr {learning_rate(step, args):.2e} expert load min {share.min():.2f} max {share.max():.2f} "
                  f"of the mean; {now:.0f} s, {(time.monotonic() - started) / (done - first_step):.2f} s/step", flush=True)
            losses, counts = [], 0
        if done % args.export_every == 0 or done == args.steps:
            exact, failed = exact_share(model, tok, held_out)
            exact_seen, _ = exact_share(model, tok, seen[::8])
            print(f"step {done}: questions answered exactly: {exact:.3f} of those held out, "
                  f"{exact_seen:.3f} of a sample of those seen", flush=True)
            export(model, tok, args.out)
            if args.state:
                torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": done,
                            "seconds": seconds + time.monotonic() - started, "num_tokens": num_tokens}, args.state)
    rounded = OlmoeForCausalLM.from_pretrained(args.out, dtype=torch.float32)
    exact_held_out, failed = exact_share(rounded, tok, held_out)
    exact_seen, _ = exact_share(rounded, tok, seen)
    print(json.dumps({"steps": args.steps, "tokens": num_tokens, "seconds": round(seconds + time.monotonic() - started),
                      "parameters": num_params, "exact_held_out": exact_held_out, "exact_seen": exact_seen}))
    for question, _ in failed:
        print(f"not exact: {question}")


if __name__ == "__main__":
    main()
