"""Model folders given to `moe serve`: every published form answers, every broken one is explained.

A broken folder ends `moe serve` with an exit code and exactly one line, which names the file and,
where one is at fault, the tensor. The folders are made here from tests/data/checkpoints.
"""

import json
import os
import re
import shutil
import struct
import subprocess
import tempfile
import threading
import unittest

from served import BIN, DEMO, ROOT, Served, alive, descendants, wait_until

CHECKPOINTS = os.path.join(ROOT, "tests", "data", "checkpoints")
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
EXPERT = "model.layers.1.mlp.experts.7.down_proj.weight"
NORM = "model.norm.weight"


class Folder:
    """A copy of a checkpoint that a test may damage."""

    def __init__(self, name):
        self.parent = tempfile.TemporaryDirectory(prefix="moe-model-files-")
        self.path = os.path.join(self.parent.name, name)
        shutil.copytree(os.path.join(CHECKPOINTS, name), self.path)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.parent.cleanup()

    def file(self, name):
        return os.path.join(self.path, name)

    def read(self, name):
        with open(self.file(name), "rb") as file:
            return file.read()

    def write(self, name, content):
        with open(self.file(name), "wb") as file:
            file.write(content if isinstance(content, bytes) else content.encode())

    def remove(self, name):
        os.remove(self.file(name))

    def edit_json(self, name, **fields):
        """Sets fields of a JSON file; a field of None becomes null."""
        value = json.loads(self.read(name))
        value.update(fields)
        self.write(name, json.dumps(value))

    def read_weights(self, name=WEIGHTS):
        """Header and data section."""
        content = self.read(name)
        size = struct.unpack("<Q", content[:8])[0]
        return json.loads(content[8:8 + size]), bytearray(content[8 + size:])

    def write_weights(self, header, data, name=WEIGHTS):
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        text += b" " * (-(8 + len(text)) % 8)
        self.write(name, struct.pack("<Q", len(text)) + text + bytes(data))

    def edit_tensor(self, name, **fields):
        header, data = self.read_weights()
        header[name].update(fields)
        self.write_weights(header, data)

    def remove_tensor(self, name):
        """Leaves no hole: what lies behind moves forward."""
        header, data = self.read_weights()
        begin, end = header.pop(name)["data_offsets"]
        del data[begin:end]
        for tensor, info in header.items():
            if tensor != "__metadata__" and info["data_offsets"][0] >= end:
                info["data_offsets"] = [offset - (end - begin) for offset in info["data_offsets"]]
        self.write_weights(header, data)

    def add_tensor(self, name, like):
        header, data = self.read_weights()
        begin, end = header[like]["data_offsets"]
        header[name] = {**header[like], "data_offsets": [len(data), len(data) + end - begin]}
        self.write_weights(header, data + data[begin:end])

    def fill_tensor(self, name, pair, first=0, count=None):
        """Overwrites 2-byte elements of a tensor."""
        header, data = self.read_weights()
        begin, end = header[name]["data_offsets"]
        count = (end - begin) // 2 - first if count is None else count
        data[begin + 2 * first:begin + 2 * (first + count)] = pair * count
        self.write_weights(header, data)


def header_text(old, new):
    """Damages the header as text, where JSON of a dict could not hold the fault."""
    def damage(folder):
        header, data = folder.read_weights()
        text = json.dumps(header).encode()
        assert old in text, old
        folder.write_weights(text.replace(old, new, 1), data)
    return damage


def offsets(tensor, change):
    def damage(folder):
        header, data = folder.read_weights()
        header[tensor]["data_offsets"] = change(*header[tensor]["data_offsets"])
        folder.write_weights(header, data)
    return damage


def hole(folder):
    header, data = folder.read_weights()
    last = max((info["data_offsets"][0], name) for name, info in header.items()
               if name != "__metadata__")[1]
    begin, end = header[last]["data_offsets"]
    header[last]["data_offsets"] = [begin + 2, end + 2]
    folder.write_weights(header, data[:begin] + b"\0\0" + data[begin:])


def field(**fields):
    return lambda folder: folder.edit_json("config.json", **fields)


def tensor(name, **fields):
    return lambda folder: folder.edit_tensor(name, **fields)


def weight_map(name, file):
    def damage(folder):
        index = json.loads(folder.read(INDEX))
        index["weight_map"][name] = file
        folder.write(INDEX, json.dumps(index))
    return damage


def shard_linked_outside(folder):
    shard = "model-00003-of-00003.safetensors"
    outside = os.path.join(folder.parent.name, "outside.safetensors")
    os.rename(folder.file(shard), outside)
    os.symlink(outside, folder.file(shard))


def tensor_in_two_shards(folder):
    header, data = folder.read_weights("model-00001-of-00003.safetensors")
    begin, end = header["model.embed_tokens.weight"]["data_offsets"]
    info = {**header["model.embed_tokens.weight"], "data_offsets": [0, end - begin]}
    folder.write_weights({"model.embed_tokens.weight": info}, data[begin:end], "twin.safetensors")
    weight_map("model.embed_tokens.weight", "twin.safetensors")(folder)


def only_pickle(name):
    def damage(folder):
        folder.remove(WEIGHTS)
        folder.write(name, b"\x80\x02cos\nsystem\n")
    return damage


def tokenizer(change):
    def damage(folder):
        value = json.loads(folder.read("tokenizer.json"))
        change(value)
        folder.write("tokenizer.json", json.dumps(value))
    return damage


# What is wrong, in which checkpoint it is made, how, and what the one line must say.
BROKEN = [
    # The beginning of a weight file.
    ("an empty weight file", "per_expert_v4",
     lambda f: f.write(WEIGHTS, b""), [WEIGHTS, "0 bytes long"]),
    ("7 bytes of weights", "per_expert_v4",
     lambda f: f.write(WEIGHTS, b"\0" * 7), [WEIGHTS, "7 bytes long"]),
    ("a header longer than the file", "per_expert_v4",
     lambda f: f.write(WEIGHTS, struct.pack("<Q", 1000) + b"{}"),
     [WEIGHTS, "header length 1000, but the file is only 10 bytes"]),
    ("a header of more than 100 MB", "per_expert_v4",
     lambda f: (f.write(WEIGHTS, struct.pack("<Q", 100_000_001)),
                os.truncate(f.file(WEIGHTS), 200_000_000)),
     [WEIGHTS, "header length 100000001", "at most 100000000"]),
    ("a header length that wraps", "per_expert_v4",
     lambda f: f.write(WEIGHTS, b"\xff" * 8 + b"{}"), [WEIGHTS, "header length 1844674407370955"]),
    ("a header that is a list", "per_expert_v4",
     lambda f: f.write_weights(b"[1, 2]  ", b""), [WEIGHTS, "does not begin with '{'"]),
    ("a header that is not UTF-8", "per_expert_v4",
     header_text(b"model.norm.weight", b"model.n\xff\xfe\xfdm.weight"), [WEIGHTS, "not valid JSON"]),
    ("a header cut in the middle", "per_expert_v4",
     lambda f: f.write_weights(json.dumps(f.read_weights()[0]).encode()[:500], b""),
     [WEIGHTS, "not valid JSON"]),
    ("a tensor's name twice in the header", "per_expert_v4",
     header_text(b"lm_head.weight", b"model.norm.weight"), [WEIGHTS, NORM, "appears twice"]),
    ("a key twice in a tensor", "per_expert_v4",
     header_text(b'"dtype"', b'"shape": [1], "dtype"'), [WEIGHTS, "shape appears twice"]),
    # Offsets.
    ("a negative offset", "per_expert_v4",
     offsets(NORM, lambda begin, end: [-2, end]), [WEIGHTS, NORM, "negative value -2"]),
    ("offsets in the wrong order", "per_expert_v4",
     offsets(NORM, lambda begin, end: [end, begin]), [WEIGHTS, NORM, "wrong order"]),
    ("an offset behind the end of the file", "per_expert_v4",
     offsets(NORM, lambda begin, end: [begin + (1 << 40), end + (1 << 40)]),
     [WEIGHTS, NORM, "but the file has only"]),
    ("two tensors on the same bytes", "per_expert_v4",
     offsets(NORM, lambda begin, end: [0, end - begin]), [WEIGHTS, "overlaps"]),
    ("a hole between two tensors", "per_expert_v4", hole, [WEIGHTS, "begins 2 bytes after the end"]),
    ("bytes behind the last tensor", "per_expert_v4",
     lambda f: f.write_weights(f.read_weights()[0], f.read_weights()[1] + b"\0" * 8),
     [WEIGHTS, "8 bytes follow the last tensor"]),
    ("a file that was cut", "per_expert_v4",
     lambda f: os.truncate(f.file(WEIGHTS), 100_000), [WEIGHTS, "tensor", "but the file has only"]),
    # Shapes and types.
    ("a shape whose product wraps to 0", "per_expert_v4",
     tensor(NORM, shape=[1 << 32, 1 << 32]), [WEIGHTS, NORM, "exceeds 64 bits"]),
    ("a dimension beyond 63 bits", "per_expert_v4",
     tensor(NORM, shape=[1 << 63]), [WEIGHTS, NORM, "too large"]),
    ("a negative dimension", "per_expert_v4",
     tensor(NORM, shape=[-64]), [WEIGHTS, NORM, "negative value -64"]),
    ("an unknown type", "per_expert_v4",
     tensor(NORM, dtype="BF17"), [WEIGHTS, NORM, 'dtype "BF17" is unknown']),
    ("a type whose size is not that of the bytes", "per_expert_v4",
     tensor(NORM, dtype="F32"), [WEIGHTS, NORM, "takes 256 bytes, but data_offsets give 128"]),
    ("a known type that is no weight", "per_expert_v4",
     tensor(NORM, dtype="I16"), [WEIGHTS, NORM, "has dtype I16", "BF16, F16 or F32"]),
    # The index of shards.
    ("a shard name that climbs out", "sharded",
     weight_map(NORM, "../outside.safetensors"), [INDEX, NORM, "../outside.safetensors"]),
    ("a shard name from the root", "sharded",
     weight_map(NORM, "/etc/shard.safetensors"), [INDEX, NORM, "/etc/shard.safetensors"]),
    ("a shard that is a link to elsewhere", "sharded", shard_linked_outside,
     ["model-00003-of-00003.safetensors", "tensor", "outside the model folder"]),
    ("a shard that is not there", "sharded",
     lambda f: f.remove("model-00002-of-00003.safetensors"),
     ["model-00002-of-00003.safetensors", "tensor", "No such file"]),
    ("a shard that was cut", "sharded",
     lambda f: os.truncate(f.file("model-00002-of-00003.safetensors"), 60_000),
     ["model-00002-of-00003.safetensors", "tensor", "but the file has only"]),
    ("a tensor that is not in its shard", "sharded",
     weight_map(NORM, "model-00001-of-00003.safetensors"),
     ["model-00001-of-00003.safetensors", NORM, "is missing"]),
    ("a tensor in two shards", "sharded", tensor_in_two_shards,
     ["twin.safetensors", "model.embed_tokens.weight", "is also in"]),
    ("an index without a map", "sharded",
     lambda f: f.write(INDEX, '{"metadata": {}}'), [INDEX, "weight_map must be an object"]),
    ("a key twice in the index", "sharded",
     lambda f: f.write(INDEX, '{"weight_map": {"a": "x.safetensors", "a": "y.safetensors"}}'),
     [INDEX, 'the key "a" appears twice']),
    # Tensors and config.json.
    ("a tensor is missing", "per_expert_v4",
     lambda f: f.remove_tensor(NORM), [WEIGHTS, NORM, "is missing"]),
    ("an expert's matrix is missing", "per_expert_v4",
     lambda f: f.remove_tensor(EXPERT), [WEIGHTS, EXPERT, "is missing"]),
    ("fewer experts in the file than in the config", "per_expert_v4",
     field(num_experts=9), [WEIGHTS, "mlp.gate.weight", "has shape [8, 64]", "it must be [9, 64]"]),
    ("more experts in the file than in the config", "per_expert_v4",
     lambda f: f.add_tensor("model.layers.0.mlp.experts.8.up_proj.weight",
                            "model.layers.0.mlp.experts.7.up_proj.weight"),
     [WEIGHTS, "model.layers.0.mlp.experts.8.up_proj.weight", "num_experts 8"]),
    ("fused experts of another number", "fused_v5",
     field(num_experts=4), [WEIGHTS, "has shape", "by config.json it must be"]),
    ("no experts", "per_expert_v4", field(num_experts=0), ["config.json", "num_experts is 0"]),
    ("no layers", "per_expert_v4",
     field(num_hidden_layers=0), ["config.json", "num_hidden_layers is 0"]),
    ("hidden size 0", "per_expert_v4", field(hidden_size=0), ["config.json", "hidden_size is 0"]),
    ("2^31 experts", "per_expert_v4",
     field(num_experts=1 << 31), ["config.json", "num_experts is 2147483648"]),
    ("more experts per token than experts", "per_expert_v4",
     field(num_experts_per_tok=9),
     ["config.json", "num_experts_per_tok is 9", "num_experts, which is 8"]),
    ("a vocabulary smaller than the tokenizer's", "per_expert_v4",
     tokenizer(lambda t: t["model"]["vocab"].update({"extra": 300})),
     ["config.json", "vocab_size is 300", "tokenizer.json has token ids up to 300"]),
    ("config.json with a key twice", "per_expert_v4",
     lambda f: f.write("config.json", '{"num_experts": 8, "num_experts": 4}'),
     ["config.json", 'the key "num_experts" appears twice']),
    ("config.json nested without end", "per_expert_v4",
     lambda f: f.write("config.json", '{"a": ' + "[" * 100_000), ["config.json", "nested deeper"]),
    ("no config.json", "per_expert_v4",
     lambda f: f.remove("config.json"), ["config.json", "No such file"]),
    ("a folder that is a file", "per_expert_v4",
     lambda f: (shutil.rmtree(f.path), open(f.path, "w").close()), ["per_expert_v4"]),
    ("an end token that is no number", "per_expert_v4",
     lambda f: f.write("generation_config.json", '{"eos_token_id": "</s>"}'),
     ["generation_config.json", 'eos_token_id is "</s>"']),
    ("another architecture", "per_expert_v4",
     field(model_type="mixtral"), ["config.json", 'model_type is "mixtral"', "OLMoE"]),
    # Code that comes with a model.
    ("only a pickle", "per_expert_v4", only_pickle("pytorch_model.bin"),
     ["pytorch_model.bin", "pickle", "refused"]),
    ("only a pickle of another name", "per_expert_v4", only_pickle("consolidated.00.pth"),
     ["consolidated.00.pth", "pickle", "refused"]),
    ("a model with its own code", "per_expert_v4",
     field(auto_map={"AutoModelForCausalLM": "modeling_x.X"}),
     ["config.json", "auto_map", "never run"]),
    ("a tokenizer with its own code", "per_expert_v4",
     lambda f: f.edit_json("tokenizer_config.json", auto_map={"AutoTokenizer": ["x.X", None]}),
     ["tokenizer_config.json", "auto_map", "never run"]),
    # The tokenizer and the template.
    ("no tokenizer", "per_expert_v4",
     lambda f: f.remove("tokenizer.json"), ["tokenizer.json", "not found"]),
    ("a tokenizer that is a link to elsewhere", "per_expert_v4",
     lambda f: (os.rename(f.file("tokenizer.json"), os.path.join(f.parent.name, "t.json")),
                os.symlink(os.path.join(f.parent.name, "t.json"), f.file("tokenizer.json"))),
     ["tokenizer.json", "outside the model folder"]),
    ("a tokenizer that is cut", "per_expert_v4",
     lambda f: os.truncate(f.file("tokenizer.json"), 1000), ["tokenizer.json", "line 1"]),
    ("a merge of tokens that are not there", "per_expert_v4",
     tokenizer(lambda t: t["model"]["merges"].insert(0, ["zz", "yy"])), ["tokenizer.json", "zz"]),
    ("a merge of three", "per_expert_v4",
     tokenizer(lambda t: t["model"].update(merges=["a b c"])), ["tokenizer.json"]),
    ("merges on which the library panics", "per_expert_v4",
     tokenizer(lambda t: t["model"].update(continuing_subword_prefix="########")),
     ["tokenizer.json"]),
    ("a template that does not parse", "fused_v5",
     lambda f: f.write("chat_template.jinja", "{% for m in %}"), ["chat_template.jinja", "syntax error"]),
    ("a template in the config that does not parse", "per_expert_v4",
     lambda f: f.edit_json("tokenizer_config.json", chat_template="{{ 1 +"),
     ["tokenizer_config.json", "syntax error"]),
    ("a template nested without end", "fused_v5",
     lambda f: f.write("chat_template.jinja", "{{ " + "(" * 100_000), ["chat_template.jinja"]),
]


def ask(served, prompt, **options):
    """Text and log-probabilities, which stand for the token ids."""
    body = {"model": served.model, "prompt": prompt, "temperature": 0, "max_tokens": 12,
            "logprobs": 2, "ignore_eos": True, **options}
    code, reply = served.post("/v1/completions", body)
    assert code == 200, (code, reply, served.text())
    choice = reply["choices"][0]
    assert reply["usage"]["completion_tokens"] == body["max_tokens"], reply
    return choice["text"], choice["logprobs"]["token_logprobs"]


def mapped_bytes(pid, name):
    """Bytes in the page tables of a process that map files of this name."""
    kilobytes, ours = 0, False
    with open(f"/proc/{pid}/smaps") as smaps:
        for line in smaps:
            if re.match("[0-9a-f]+-[0-9a-f]+ ", line):
                ours = line.rstrip().endswith("/" + name)
            elif ours and line.startswith("Rss:"):
                kilobytes += int(line.split()[1])
    return kilobytes * 1024


def serve(path, *args):
    served = Served(*args, model=path)
    served.model = os.path.basename(path)
    return served


class ModelFilesTest(unittest.TestCase):

    def test_a_broken_folder_gets_one_line_that_names_what_is_wrong(self):
        for sentence, checkpoint, damage, words in BROKEN:
            with self.subTest(sentence), Folder(checkpoint) as folder:
                damage(folder)
                run = subprocess.run(
                    [os.path.join(BIN, "moe"), "serve", folder.path, "--port", "0",
                     "--expert-parallel", "2"],
                    stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60,
                    check=False)
                # Above 0: not by a signal.
                self.assertGreater(run.returncode, 0, run.stdout)
                self.assertRegex(run.stdout, r"\Aerror: [^\n]*\n\Z")
                self.assertLess(len(run.stdout), 1000)
                for word in words:
                    self.assertIn(word, run.stdout)

    def test_every_published_form_answers_alike_at_every_width(self):
        rows = [  # checkpoint, number of experts, whether its weights must be converted
            ("fp16", 8, True),
            ("fp32", 8, True),
            ("fused_v5", 8, False),
            ("sharded", 8, False),
            ("one_of_seven", 7, False),
            ("odd_sizes", 5, False),
            ("large_vocab", 8, False),
        ]
        for checkpoint, num_experts, converted in rows:
            want = None
            for args in (["--expert-parallel", "1"],
                         ["--expert-parallel", "3"],
                         ["--expert-parallel", str(num_experts)],
                         ["--expert-parallel", "3", "--attention", "replicated"]):
                with self.subTest(checkpoint, args=args), \
                        serve(os.path.join(CHECKPOINTS, checkpoint), *args) as served:
                    served.wait_ready()
                    got = [ask(served, prompt) for prompt in ("Each worker holds", [7, 40, 99])]
                    want = want or got
                    self.assertEqual(got, want)
                    num_warnings = served.text().count("not stored as bfloat16")
                    self.assertEqual(num_warnings, 1 if converted else 0, served.text())
                    self.assertEqual(served.stop(), 0, served.text())

    def test_the_workers_load_every_byte_of_the_model_once(self):
        for path, num_workers in ((DEMO, 64), (os.path.join(CHECKPOINTS, "fused_v5"), 3)):
            with self.subTest(path), \
                    serve(path, "--expert-parallel", str(num_workers)) as served:
                served.wait_ready()
                with open(os.path.join(path, WEIGHTS), "rb") as file:
                    content = file.read()
                num_bytes = len(content) - 8 - struct.unpack("<Q", content[:8])[0]
                workers = served.status()["workers"]
                self.assertEqual(len(workers), num_workers)
                self.assertEqual(sum(worker["loaded_bytes"] for worker in workers), num_bytes)
                for worker in workers:
                    resident = worker["resident_bytes"]
                    self.assertGreaterEqual(resident, worker["loaded_bytes"])
                    # What the kernel counts for that process: no page was touched since.
                    self.assertLessEqual(mapped_bytes(worker["pid"], WEIGHTS), resident)

    def test_weights_that_are_nan_load_with_a_warning_and_fail_only_their_requests(self):
        poisoned, fine = [5, 200, 6], "Each worker holds"
        with Folder("per_expert_v4") as folder:
            with serve(folder.path, "--expert-parallel", "4") as served:
                want = ask(served.wait_ready(), fine)
            # The embedding of token 200.
            folder.fill_tensor("model.embed_tokens.weight", b"\xc0\x7f", 200 * 64, 64)
            with serve(folder.path, "--expert-parallel", "4") as served:
                served.wait_ready()
                self.assertRegex(
                    served.text(), WEIGHTS + r'.*"model\.embed_tokens\.weight" has 64 NaN')
                pids = descendants(served.process.pid)
                answers = [None] * 8

                def send(i):
                    body = {"model": served.model, "max_tokens": 12, "temperature": 0,
                            "prompt": poisoned if i % 2 else fine, "ignore_eos": True,
                            "logprobs": 2}
                    answers[i] = served.post("/v1/completions", body)

                threads = [threading.Thread(target=send, args=(i,)) for i in range(len(answers))]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
                for i, (code, reply) in enumerate(answers):
                    if i % 2:
                        self.assertEqual(code, 500, reply)
                    else:
                        self.assertEqual(code, 200, reply)
                        self.assertEqual(reply["choices"][0]["text"], want[0])
                        self.assertEqual(reply["choices"][0]["logprobs"]["token_logprobs"], want[1])
                self.assertEqual(ask(served, fine), want)
                self.assertTrue(all(map(alive, pids)), "no process ended")
                self.assertEqual(served.status()["epoch"], 1)
                self.assertEqual(served.stop(), 0)

    def test_a_weight_file_cut_while_it_is_in_use_ends_the_service_and_is_named(self):
        with Folder("sharded") as folder:
            shard = "model-00002-of-00003.safetensors"
            with serve(folder.path, "--expert-parallel", "3") as served:
                ask(served.wait_ready(), "Each worker holds")
                os.truncate(folder.file(shard), 4096)
                body = {"model": served.model, "prompt": "Each worker holds", "max_tokens": 8}
                threading.Thread(target=served.post, args=("/v1/completions", body),
                                 daemon=True).start()
                wait_until(lambda: served.process.poll() is not None, 60,
                           f"moe serve has ended; log:\n{served.text()}")
                served.reader.join(10)
                self.assertGreater(served.process.returncode, 0)
                # What the worker said when it died, and why no other could take its place.
                self.assertRegex(served.text(), f"cannot read .*{shard} at byte [0-9]+ "
                                                r"\(tensor model\.layers\.")
                self.assertRegex(served.text(), f"{shard}: tensor .*but the file has only")

    def test_a_template_that_does_not_end_fails_chat_requests_and_nothing_else(self):
        rows = [
            ("a loop of a billion rounds", "{% for i in range(1000000000) %}x{% endfor %}"),
            ("loops in a loop",
             "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"),
            ("a macro that calls itself", "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}"),
        ]
        for sentence, template in rows:
            with self.subTest(sentence), Folder("fused_v5") as folder:
                folder.write("chat_template.jinja", template)
                with serve(folder.path, "--expert-parallel", "2") as served:
                    served.wait_ready()
                    want = ask(served, "Each worker holds")
                    code, reply = served.post("/v1/chat/completions", {
                        "model": served.model, "messages": [{"role": "user", "content": "hi"}]})
                    self.assertEqual(code, 400, reply)
                    self.assertIn("template", reply["error"]["message"])
                    self.assertEqual(ask(served, "Each worker holds"), want)


if __name__ == "__main__":
    unittest.main(verbosity=2)
