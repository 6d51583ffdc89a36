"""What each party stores, reads and holds of an encoder: `m2fedsa cut` at RoBERTa-base size, then each side in a fresh process.

Random weights: bytes and memory do not depend on them. A side's process is measured from after its imports to after its first call: bytes
read are those that the system counts for all of its reads, memory is the most that it ever had resident, above what it had before.
The cut's own process is counted without the pages of the source that are only mapped. `--large` cuts a source of 5.2 GB in shards. Linux.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from measuring import conclude, options, table

os.environ.setdefault("OMP_NUM_THREADS", "1")

SIZES = {
    "base": {"vocab_size": 50265, "max_position_embeddings": 514},
    "large": {"vocab_size": 50265, "hidden_size": 2048, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 8192},
    "quick": {"vocab_size": 5000, "hidden_size": 192, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 768},
}
CUTS = {
    "base": ((1, "float32"), (1, "bfloat16"), (1, "int8"), (1, "int4"), (2, "float32"), (2, "int8"), (6, "float32")),
    "large": ((1, "int8"),),
    "quick": ((1, "float32"), (1, "int8"), (1, "int4")),
}
SIDE = """
import json, sys, time
from pathlib import Path
import torch
import transformers.models.roberta.modeling_roberta
from m2fedsa.models.cut import specify
from m2fedsa.models.slices import load_head, load_tail
torch.set_num_threads(1)

def told(path, key):
    return next(int(line.split()[1]) for line in Path(path).read_text().splitlines() if line.startswith(key))

folder, side = Path(sys.argv[1]), sys.argv[2]
torch.zeros(8, 8) @ torch.zeros(8, 8)
Path("/proc/self/clear_refs").write_text("5")
resident, read = told("/proc/self/status", "VmRSS"), told("/proc/self/io", "rchar")
began = time.process_time()
loaded = (load_head if side == "head" else load_tail)(folder)
seconds = time.process_time() - began
read = told("/proc/self/io", "rchar") - read
ids = torch.arange(2 * 32).reshape(2, 32) + 5
inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
with torch.no_grad():
    if side == "head":
        call = lambda: loaded(inputs)
    else:
        call = lambda: loaded(torch.zeros(2, 32, loaded.encoder.config.hidden_size), inputs["attention_mask"], specify(inputs))
    call()
    began = time.process_time()
    call()
    running = time.process_time() - began
peak = told("/proc/self/status", "VmHWM")
print(json.dumps({"read": read, "peak": 1024 * (peak - resident), "load": seconds, "call": running}))
"""
CUT = """
import json, sys, threading, time
from pathlib import Path
import m2fedsa.cutting, transformers.models.roberta.modeling_roberta
from m2fedsa.cutting import Choice, cut_encoder

def told(key):
    return next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))

before, most, done = told("RssAnon"), 0, False
def watch():
    global most
    while not done:
        most = max(most, told("RssAnon"))
        time.sleep(0.005)
thread = threading.Thread(target=watch)
thread.start()
found = cut_encoder(sys.argv[1], Choice(int(sys.argv[2]), sys.argv[3]), Path(sys.argv[4]))
done = True
thread.join()
said = {"parameters": found.origin.parameters, "whole": found.origin.bytes, "off": found.off}
print(json.dumps({**said, "own": 1024 * (most - before), "seconds": time.process_time()}))
"""


def source(folder: Path, size: str) -> Path:
    """A RoBERTa with random weights, as `save_pretrained` writes it."""
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()
    torch.manual_seed(0)
    config = transformers.RobertaConfig(type_vocab_size=1, layer_norm_eps=1e-5, **SIZES[size])
    transformers.RobertaModel(config).save_pretrained(folder, max_shard_size="1GB")
    return folder


def measured(script: str, *arguments: object) -> dict[str, Any]:
    """What a process of its own says of itself."""
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])


def one_cut(encoder: Path, block: int, dtype: str, folder: Path) -> dict[str, Any]:
    """One cut, and both of its sides."""
    record = {"block": block, "dtype": dtype, "cut": measured(CUT, encoder, block, dtype, folder)}
    for side in ("head", "tail"):
        if side == "tail" and dtype != "float32":
            continue
        files = sum(path.stat().st_size for path in (folder / side).iterdir())
        record[side] = {"files": files, **measured(SIDE, folder / side, side)}
    return record


def show(records: list[dict[str, Any]]) -> None:
    rows = []
    for record in records:
        whole = record["cut"]["whole"]
        for side in ("head", "tail"):
            if side in record:
                found = record[side]
                rows.append(
                    [
                        f"{side} k = {record['block']}",
                        record["dtype"],
                        f"{found['files'] / 1e6:.1f}",
                        f"{found['files'] / whole:.4f}",
                        f"{found['read'] / 1e6:.1f}",
                        f"{found['read'] / found['files']:.3f}",
                        f"{found['peak'] / 2**20:.0f}",
                        f"{found['peak'] / found['files']:.2f}",
                        f"{found['load']:.2f}",
                        f"{1000 * found['call']:.0f}",
                    ]
                )
    head = ["side", "type", "files MB", "/ whole", "read MB", "/ files", "peak MiB", "/ files", "load s", "call of 2 x 32 tokens ms"]
    table(head, rows)
    cuts = [
        [record["block"], record["dtype"], f"{record['cut']['own'] / 2**20:.0f}", f"{record['cut']['seconds']:.1f}"] for record in records
    ]
    print("\nthe cut itself")
    table(["k", "type", "peak of its own memory MiB", "processor s"], cuts)


def main(arguments: list[str] | None = None) -> None:
    parser = options(__doc__)
    parser.add_argument("--only", metavar="K-TYPE", action="append", help="only this cut, e.g. 1-int4; may be repeated")
    parser.add_argument("--large", action="store_true", help="a source of 5.2 GB in shards, cut once")
    given: argparse.Namespace = parser.parse_args(arguments)
    if not Path("/proc/self/io").exists():
        print("skipped: only Linux tells what a process reads and holds")
        return
    size = "quick" if given.quick else "large" if given.large else "base"
    records = []
    with tempfile.TemporaryDirectory() as folder:
        encoder = source(Path(folder) / "source", size)
        for block, dtype in CUTS[size]:
            if given.only and f"{block}-{dtype}" not in given.only:
                continue
            with tempfile.TemporaryDirectory() as place:
                records.append(one_cut(encoder, block, dtype, Path(place) / "cut"))
    show(records)
    conclude({"size": size, "cuts": records}, given.out)


if __name__ == "__main__":
    main()
