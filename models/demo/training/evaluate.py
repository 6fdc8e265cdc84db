"""Asks the checkpoint questions in bf16 with transformers and prints what it answers.

    python evaluate.py [--questions N]

None of these questions is in the corpus in this wording. Prints as well how often an answer ended by itself, how many
held-out questions get exactly their answer, and how evenly the experts of each layer are used.
"""

import argparse
import pathlib

import torch
from transformers import AutoTokenizer, OlmoeForCausalLM

import corpus

FOLDER = pathlib.Path(__file__).resolve().parent.parent
MAX_TOKENS = 160

# Each item is one conversation: user, assistant, user, ... ending with the user.
CHATS = [[q] for q in [
    "Could you explain to me what an expert is?",
    "What is the purpose of the router?",
    "In short, what is a mixture-of-experts model?",
    "How many of the 64 experts does each token use?",
    "What are the benefits of MoE models?",
    "why do moe models need so much memory",
    "What do people mean by expert parallelism?",
    "How does expert parallel serving work?",
    "What does the name EP64_TP1_PP1_DP1 stand for?",
    "Why can't we use EP64 x TP16 x PP4 x DP4?",
    "Which experts are on worker 3?",
    "How do token rows get from one rank to another?",
    "What is the difference between dispatch and combine?",
    "Why does the project avoid all-reduce?",
    "Is the answer the same with 1, 8 and 64 workers?",
    "Tell me what the KV cache is good for.",
    "What happens in the prefill phase?",
    "What limits the speed of decode?",
    "How does continuous batching help?",
    "What happens when there is no KV memory left?",
    "What does the scheduler decide?",
    "How do I get deterministic output?",
    "What is an epoch good for?",
    "What happens if one of the workers crashes?",
    "What if rank 0 crashes?",
    "How long does it take to notice that a worker died?",
    "Will I lose tokens when a worker is killed?",
    "What is the gateway's journal for?",
    "Which programs does moe-operator consist of?",
    "How do I start the server with 64 workers?",
    "How do I try the demo quickly?",
    "Show me how to send a request with curl.",
    "Can I use the OpenAI Python client?",
    "How can I monitor the server?",
    "Where do I see how many tokens each expert got?",
    "Can I use Mixtral with this server?",
    "Do I need a graphics card to run this?",
    "Who are you and what can you do?",
    "How many parameters do you consist of?",
    "hello, nice to meet you",
    "What is the capital of Portugal?",
    "thanks for the help",
]] + [
    ["What is expert parallelism?",
     "Expert parallelism places different experts on different workers. Each token is sent to the workers that hold "
     "its chosen experts, and their outputs come back and are added.",
     "And what happens when a worker dies?"],
    ["Hi!", "Hello! I am the demo model of moe-operator. Ask me something about mixture-of-experts models, expert "
     "parallelism or this server.", "I want to understand what an epoch is."],
]


@torch.no_grad()
def answer(model, tok, chat: list[str]) -> tuple[str, bool]:
    roles = [corpus.USER, corpus.ASSISTANT]
    messages = [{"role": roles[i % 2], "content": text} for i, text in enumerate(chat)]
    ids = tok.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    made = model.generate(**ids, max_new_tokens=MAX_TOKENS, do_sample=False)[0][ids["input_ids"].shape[1]:].tolist()
    return tok.decode(made, skip_special_tokens=True), made[-1] == tok.eos_token_id


@torch.no_grad()
def expert_share(model, tok, entries) -> torch.Tensor:
    """Returns the share of routes that each expert takes, as a multiple of the mean, [layers, experts]."""
    counts = torch.zeros(model.config.num_hidden_layers, model.config.num_experts)
    for entry in entries:
        ids = tok.apply_chat_template([{"role": corpus.USER, "content": (entry.written + entry.formed)[0]},
                                       {"role": corpus.ASSISTANT, "content": entry.answer}],
                                      return_tensors="pt", return_dict=True)["input_ids"]
        for layer, logits in enumerate(model(ids, output_router_logits=True).router_logits):
            chosen = torch.topk(logits.float(), model.config.num_experts_per_tok, dim=-1).indices
            counts[layer] += torch.bincount(chosen.flatten(), minlength=model.config.num_experts)
    return counts / counts.mean(1, keepdim=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=len(CHATS), help="how many of the questions to ask")
    args = parser.parse_args()
    torch.set_num_threads(1)
    tok = AutoTokenizer.from_pretrained(FOLDER)
    model = OlmoeForCausalLM.from_pretrained(FOLDER, dtype=torch.bfloat16).eval()
    ended = 0
    for chat in CHATS[:args.questions]:
        text, by_itself = answer(model, tok, chat)
        ended += by_itself
        print(f"Q: {' | '.join(chat[::2])}\nA: {text}{'' if by_itself else ' [did not end]'}\n", flush=True)
    print(f"ended by themselves: {ended} of {min(args.questions, len(CHATS))}")

    entries = corpus.read_entries(with_more=True)
    pairs = [(q, entry.answer) for entry in entries for q in entry.held_out]
    results = [answer(model, tok, [q]) for q, _ in pairs]
    exact = sum(text == wanted for (text, _), (_, wanted) in zip(results, pairs))
    print(f"held-out questions answered exactly: {exact} of {len(pairs)}; "
          f"ended by themselves: {sum(by_itself for _, by_itself in results)}")
    for (question, wanted), (text, _) in zip(pairs, results):
        if text != wanted:
            print(f"  {question} -> {text}")

    share = expert_share(model, tok, entries)
    print("share of routes per expert, as a multiple of the mean, over questions and answers of the corpus:")
    print("layer  least   most  below a tenth")
    for layer, row in enumerate(share):
        print(f"{layer:5}  {row.min():5.2f}  {row.max():5.2f}  {int((row < 0.1).sum()):5}")


if __name__ == "__main__":
    main()
