"""The part of a report that tells what is kept, computed and sent, and where."""

from collections.abc import Sequence

from m2fedsa.reporting.cards import row, section
from m2fedsa.reporting.charts import FUSED, shares, table
from m2fedsa.reporting.files import RunFiles
from m2fedsa.reporting.records import Side
from m2fedsa.reporting.summary import operations_of, views_of
from m2fedsa.reporting.units import operations, size

SERVER, PALE = "#94a3b8", "#93b4f5"

_TRAFFIC = {
    "warm start up": "#f59e0b",
    "warm start down": "#fbbf24",
    "rounds up": FUSED,
    "rounds down": PALE,
    "teaching up": "#0f766e",
    "teaching down": "#14b8a6",
}


def cost(run: RunFiles) -> str:
    """What is kept, computed and sent, and where."""
    ledger = run.result["ledger"] if run.result else {}
    traffic = run.traffic()
    parts = []
    if ledger:
        rows = [(name, _kept(entry["client"], entry["server"])) for name, entry in ledger.items()]
        parts.append(f"<div><h3>parameters kept, per modality</h3>{shares(rows)}</div>")
        rows = [(name, _work(entry["client"], entry["server"], views_of(run.config, name))) for name, entry in ledger.items()]
        parts.append(f"<div><h3>compute per sample and training step</h3>{shares(rows)}</div>")
        scale = float(max(entry["bytes"]["up"] + entry["bytes"]["down"] for entry in ledger.values()))
        rows = [(name, _sent(entry["bytes"]["up"], entry["bytes"]["down"])) for name, entry in ledger.items()]
        parts.append(f"<div><h3>sent per sample and training step</h3>{shares(rows, scale)}</div>")
    if traffic:
        whole = [("all clients, whole run", [(name, float(value), size(value), _TRAFFIC[name]) for name, value in traffic.items()])]
        parts.append(f"<div><h3>where the bytes went</h3>{shares(whole)}</div>")
    details = ""
    if ledger:
        head = ["modality", "client keeps", "of it trains", "server keeps", "of it trains", "whole", "client computes", "whole computes"]
        head += ["kept of a sample"] if any("kept" in entry for entry in ledger.values()) else []
        details = f"<details><summary>the ledger in figures</summary>{table(head, [_figures(name, run) for name in ledger])}</details>"
    return section("What it costs", row(*parts, kind="two"), details) if parts else ""


def _kept(client: Side, server: Side) -> Sequence[tuple[str, float, str, str]]:
    return [
        ("client, trained", client["trainable"]["bytes"], size(client["trainable"]["bytes"]), FUSED),
        ("client, frozen", client["frozen"]["bytes"], size(client["frozen"]["bytes"]), PALE),
        ("main server", _bytes(server), size(_bytes(server)), SERVER),
    ]


def _work(client: Side, server: Side, views: int) -> Sequence[tuple[str, float, str, str]]:
    head, here, there = client["flops"].get("head", 0.0), operations_of(client), operations_of(server)
    parts = [("client", here - head, operations(here - head), FUSED), ("main server", there, operations(there), SERVER)]
    often = {0: "in each step", 1: "once"}.get(views, f"once for each of {views} views")
    return [(f"client, head, {often}", head, operations(head), PALE), *parts] if head else parts


def _sent(up: int, down: int) -> Sequence[tuple[str, float, str, str]]:
    return [("up", up, size(up), FUSED), ("down", down, size(down), PALE)]


def _bytes(side: Side) -> int:
    return side["frozen"]["bytes"] + side["trainable"]["bytes"]


def _figures(name: str, run: RunFiles) -> list[str]:
    assert run.result is not None
    entry = run.result["ledger"][name]
    told = [name]
    for side in (entry["client"], entry["server"]):
        told += [size(_bytes(side)), f"{side['trainable']['parameters']:,}"]
    return [
        *told,
        size(_bytes(entry["whole"])),
        operations(operations_of(entry["client"])),
        operations(operations_of(entry["whole"])),
        *([size(entry["kept"] * views_of(run.config, name))] if "kept" in entry else []),
    ]
