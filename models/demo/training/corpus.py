"""Reads the corpus and makes training documents from it.

The corpus files hold questions with their answers, written for this project. This
module turns them into chats: it forms definition questions from terms, varies the wording,
and joins several turns. Everything random comes from the generator that the caller passes.
"""

import dataclasses
import hashlib
import pathlib
import random
import re

CORPUS_FOLDER = pathlib.Path(__file__).resolve().parent / "corpus"
CHAT_FILE = "08_chats.txt"
MORE_FILE = "09_more_questions.txt"

SINGULAR_FORMS = [
    "What is {t}?", "what is {t}", "Explain {t}.", "Can you explain {t}?", "Define {t}.",
    "Describe {t}.", "Tell me about {t}.", "What does {t} mean?", "What do you mean by {t}?",
    "Can you tell me what {t} is?", "I want to know what {t} is.", "Do you know what {t} is?",
    "What exactly is {t}?", "Please explain {t} to me.", "Give me a definition of {t}.",
    "What is meant by {t}?", "Explain {t} in simple words.", "So what is {t}?", "{t}?", "{t}",
    "What can you tell me about {t}?", "What's {t}?", "How would you explain {t}?",
    "Explain what {t} is.", "I have heard of {t}. What is it?",
]
PLURAL_FORMS = [
    "What are {t}?", "what are {t}", "Explain {t}.", "Can you explain {t}?", "Define {t}.",
    "Describe {t}.", "Tell me about {t}.", "What does {t} mean?", "What do you mean by {t}?",
    "Can you tell me what {t} are?", "I want to know what {t} are.", "What exactly are {t}?",
    "Please explain {t} to me.", "Give me a definition of {t}.", "What is meant by {t}?",
    "Explain {t} in simple words.", "So what are {t}?", "{t}?", "{t}",
    "What can you tell me about {t}?", "How would you explain {t}?", "Explain what {t} are.",
]
# Wrappers put around a whole question.
WRAPPERS = [
    "Please tell me: {q}", "Hi! {q}", "Hello, {q}", "Hi, {l}", "Quick question: {l}",
    "I have a question. {q}", "{q} Thanks!", "{q} Please answer briefly.", "Can you help me? {q}",
    "I wonder: {l}", "Hey, {l}", "Tell me, {l}", "{q} Please.", "Question: {q}", "Sorry, {l}",
    "My question is: {q}", "I would like to know: {l}", "Good morning. {q}", "{q} Explain it to me.",
]
FOLLOW_UP_WRAPPERS = ["And {l}", "Okay, {l}", "Ok. {q}", "Thanks. {q}", "I see. {q}", "Next question: {q}",
                      "Then {l}", "Good. {q}", "Another question: {q}", "Now {l}"]
SYSTEM_PROMPTS = [
    "You are a helpful assistant.", "You are a helpful assistant", "Answer briefly.", "Be concise.",
    "You are the demo model of moe-operator.", "You answer questions about mixture-of-experts serving.",
    "You are an expert in distributed systems.", "Answer in one sentence.", "You are a friendly chatbot.",
    "You are a helpful, respectful and honest assistant.", "Help the user.", "You are an AI assistant.",
]

USER, ASSISTANT, SYSTEM = "user", "assistant", "system"


@dataclasses.dataclass
class Entry:
    """One answer with all its questions."""
    answer: str
    written: list[str]    # questions as written, used in training
    formed: list[str]     # definition questions made from the entry's terms
    held_out: list[str]   # questions as written that training never sees


def _digest(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def _form_questions(term: str, forms: list[str]) -> list[str]:
    return [form.format(t=term) for form in forms]


def read_entries(with_more: bool) -> list[Entry]:
    """Returns all entries, with or without the questions of MORE_FILE.

    About one entry in three keeps a question of the other files back for the evaluation.
    """
    entries = []
    for path in sorted(CORPUS_FOLDER.glob("*.txt")):
        if path.name in (CHAT_FILE, MORE_FILE):
            continue
        for block in re.split(r"\n\s*\n", path.read_text()):
            written, formed, answer = [], [], None
            for line in block.splitlines():
                if not line.strip() or line.startswith("# "):
                    continue
                tag, text = line.split(": ", 1)
                text = text.strip()
                if tag == "Q":
                    written.append(text)
                elif tag == "T":
                    for term in text.split(" | "):
                        formed += _form_questions(term, SINGULAR_FORMS)
                elif tag == "P":
                    for term in text.split(" | "):
                        formed += _form_questions(term, PLURAL_FORMS)
                elif tag == "A":
                    answer = text
                else:
                    raise ValueError(f"{path.name}: unknown tag {tag!r}")
            if answer is None:
                if written or formed:
                    raise ValueError(f"{path.name}: a block without an answer: {written or formed}")
                continue
            held_out = []
            if len(written) >= 4 and _digest(answer) % 3 == 0:
                num_held_out = max(1, len(written) // 8)
                held_out = sorted(written, key=_digest)[:num_held_out]
                written = [q for q in written if q not in held_out]
            entries.append(Entry(answer, written, formed, held_out))
    if with_more:
        _add_more_questions(entries)
    _check(entries)
    return entries


def _add_more_questions(entries: list[Entry]) -> None:
    owner = {q: e for e in entries for q in e.written + e.formed + e.held_out}
    for line in (CORPUS_FOLDER / MORE_FILE).read_text().splitlines():
        if line.startswith("= "):
            entry = owner[line[2:].strip()]
        elif line.startswith("Q: "):
            question = line[3:].strip()
            if question.lower().rstrip("?.! ") not in [q.lower().rstrip("?.! ") for q in entry.held_out]:
                entry.written.append(question)


def _check(entries: list[Entry]) -> None:
    owner: dict[str, int] = {}
    doubtful = set()
    for idx, entry in enumerate(entries):
        for question in entry.written + entry.formed + entry.held_out:
            if owner.setdefault(question.lower().rstrip("?.! "), idx) != idx:
                doubtful.add(question)
    if doubtful:
        raise ValueError(f"questions with two answers: {sorted(doubtful)}")


def read_chats() -> list[list[tuple[str, str]]]:
    """Returns the written conversations as lists of (role, text)."""
    chats = []
    for block in re.split(r"\n\s*\n", (CORPUS_FOLDER / CHAT_FILE).read_text()):
        turns = []
        for line in block.splitlines():
            if line.startswith("U: "):
                turns.append((USER, line[3:].strip()))
            elif line.startswith("A: "):
                turns.append((ASSISTANT, line[3:].strip()))
        if turns:
            chats.append(turns)
    return chats


def lower_first(text: str) -> str:
    first = text.split(" ", 1)[0]
    return text if first.isupper() and len(first) > 1 or first == "I" else text[:1].lower() + text[1:]


def _misspell(text: str, rng: random.Random) -> str:
    letters = list(text)
    for _ in range(rng.choice([1, 1, 2])):
        if len(letters) < 6:
            break
        at = rng.randrange(1, len(letters) - 2)
        kind = rng.random()
        if kind < 0.4:
            letters[at], letters[at + 1] = letters[at + 1], letters[at]
        elif kind < 0.8:
            del letters[at]
        else:
            letters.insert(at, letters[at])
    return "".join(letters)


def vary(question: str, rng: random.Random, follow_up: bool = False) -> str:
    """Returns the question in another wording: wrapped, lower case, without its mark, misspelt."""
    text = question
    draw = rng.random()
    if follow_up and draw < 0.35:
        text = rng.choice(FOLLOW_UP_WRAPPERS).format(q=text, l=lower_first(text))
    elif draw < 0.25 and len(text) > 8:
        text = rng.choice(WRAPPERS).format(q=text, l=lower_first(text))
    draw = rng.random()
    if draw < 0.2:
        text = text.lower()
    elif draw < 0.3:
        text = lower_first(text)
    elif draw < 0.4:
        text = text[:1].upper() + text[1:]
    draw = rng.random()
    if draw < 0.2:
        text = text.rstrip("?.!")
    elif draw < 0.25 and text[-1:] not in "?.!":
        text += "?"
    if rng.random() < 0.08:
        text = _misspell(text, rng)
    if rng.random() < 0.05 and text.count(" ") > 3:
        words = text.split(" ")
        del words[rng.randrange(len(words))]
        text = " ".join(words)
    return text


def draw_question(entry: Entry, rng: random.Random) -> str:
    if entry.formed and (not entry.written or rng.random() < 0.4):
        return rng.choice(entry.formed)
    return rng.choice(entry.written)


def draw_chat(entries: list[Entry], chats: list, rng: random.Random) -> list[tuple[str, str]]:
    """Returns one conversation: a single question, several unrelated ones, or a written chat."""
    turns: list[tuple[str, str]] = []
    if rng.random() < 0.15:
        turns.append((SYSTEM, rng.choice(SYSTEM_PROMPTS)))
    draw = rng.random()
    if draw < 0.15:
        written = rng.choice(chats)
        num_turns = 2 * rng.randint(1, len(written) // 2)
        for idx, (role, text) in enumerate(written[:num_turns]):
            turns.append((role, vary(text, rng, idx > 0) if role == USER else text))
        return turns
    num_questions = 1 if draw < 0.65 else rng.choice([2, 2, 3, 4])
    for idx in range(num_questions):
        entry = rng.choice(entries)
        turns.append((USER, vary(draw_question(entry, rng), rng, idx > 0)))
        turns.append((ASSISTANT, entry.answer))
    return turns


def draw_plain(entries: list[Entry], rng: random.Random) -> tuple[str, str]:
    """Returns (prompt, continuation) of a text without chat marks, for the completions API."""
    entry = rng.choice(entries)
    draw = rng.random()
    if draw < 0.5:
        return "", entry.answer
    question = vary(draw_question(entry, rng), rng)
    if draw < 0.8:
        return f"Q: {question}\nA: ", entry.answer
    return f"{question}\n", entry.answer


def all_text(entries: list[Entry], chats: list) -> list[str]:
    """Returns the text that the tokenizer is trained on; nothing held out is in it."""
    texts = []
    for entry in entries:
        texts += [entry.answer] * 4 + entry.written * 2
        texts += entry.formed[:2] + entry.formed[3:4]
    for chat in chats:
        texts += [text for _, text in chat]
    texts += [w.format(q="", l="") for w in WRAPPERS + FOLLOW_UP_WRAPPERS] + SYSTEM_PROMPTS
    return texts
