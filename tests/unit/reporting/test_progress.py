import io
import re
from pathlib import Path

import pytest
from tests.unit.reporting import invented

from m2fedsa.reporting.progress import Live, Part, fitting, view
from m2fedsa.reporting.summary import result_sentences


class Terminal(io.StringIO):
    def isatty(self):
        return True


def watched(stream, rounds=3):
    progress = view(invented.config(rounds=rounds), stream)
    progress.started(invented.facts())
    progress.client_done(1, 20, "warm start")
    progress.warm_started(invented.warm_start())
    for number in range(1, rounds + 1):
        progress.client_done(20, 20)
        failure = {"client": "client-03", "kind": "DivergedError", "message": "loss of image is nan at step 4"}
        progress.round_done(
            invented.record(number, [failure] if number == 2 else [], evaluated=number != 2, phase="fusion" if number < 3 else "transfer")
        )
    progress.finished(invented.result(rounds), Path("runs/digits-1"))
    return stream.getvalue()


def test_speaks_before_anything_else_is_known():
    stream = io.StringIO()
    view(invented.config(rounds=7, seed=4), stream)
    assert (
        stream.getvalue()
        == "m2fedsa      digits · 20 clients · 3 frozen encoders cut after block 1 (image, audio, text) · 7 rounds · seed 4\n"
    )


def test_plain_lines_tell_everything():
    lines = watched(io.StringIO()).splitlines()
    number = sum(client["train"] for client in invented.facts()["clients"].values())
    assert lines[1] == f"clients      10 clients with image+audio+text, 10 with one or two · {number:,} training samples"
    assert lines[2].startswith("warm start   fused 0.80   image 0.48  audio 0.60  text 0.41")
    assert lines[2].endswith("1,200 samples once, 3.10 MB up")
    assert re.fullmatch(
        r"round 1/3    fused 0.80   image 0.48  audio 0.60  text 0.41   loss 0.82 \(image 1.55  audio 1.15  text 1.67\)   fusion  "
        r"   up 12.4 MB  down 12.4 MB    2.1 s   ~4 s left",
        lines[3],
    )
    assert "fused  –  " in lines[4]
    assert lines[5].split() == ["without", "client-03:", "loss", "of", "image", "is", "nan", "at", "step", "4"]
    assert lines[6].startswith("transfer ")
    assert "left" not in lines[7]
    assert (
        lines[8]
        == "done in 48 s. Fused 0.832 against 0.621 for the best single modality (audio), 0.815 for a linear head on frozen features."
    )
    # 3 × (40,000 + 9,000) of 3 × (640,000 + 29,000) bytes; per visit 0.3 of 7.5 MFLOP, 0.06 of which once in three rounds: 0.26 / 7.5.
    assert lines[9] == "A client keeps 147 kB of 2.01 MB and computes 3.5 % of the work of training the whole."
    # Of each modality: 49,000 of 669,000 bytes; 0.1 of 2.5 MFLOP, 0.02 of which once: 0.26 / 7.5 as well.
    assert [line.split()[0] for line in lines[10:13]] == ["image", "audio", "text"]
    assert lines[10].endswith("  keeps 49.0 kB of 669 kB (7.3 %), computes 3.5 %, sends 8.00 kB and receives 7.00 kB per sample and step")
    assert lines[13] == "report: runs/digits-1/report.html      again: m2fedsa run runs/digits-1/config.toml"


def test_who_failed_in_warm_start_or_at_the_end_is_told_once():
    stream = io.StringIO()
    progress = view(invented.config(rounds=1), stream)
    failed = [{"client": f"client-0{number}", "kind": "DivergedError", "message": f"reason {number}"} for number in range(3)]
    progress.warm_started({**invented.warm_start(), "failures": failed[:1]})
    progress.round_done(invented.record(1, failed[1:2]))
    progress.finished({**invented.result(1), "failures": failed[1:]})
    told = [line.split(maxsplit=1)[1] for line in stream.getvalue().splitlines() if line.lstrip().startswith("without ")]
    assert told == ["client-00: reason 0", "client-01: reason 1", "client-02: reason 2"]
    assert stream.getvalue().index("reason 2") < stream.getvalue().index("done in")


def test_the_command_for_the_same_again_can_be_typed():
    stream = io.StringIO()
    view(invented.config(rounds=1), stream).finished(invented.result(1), Path("my runs/digits 1"))
    assert stream.getvalue().rstrip().endswith("again: m2fedsa run 'my runs/digits 1/config.toml'")


def test_plain_lines_hold_no_control_characters():
    assert not re.search(r"[\x00-\x09\x0b-\x1f]", watched(io.StringIO()))


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_terminal_lines_fit(monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "xterm")
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", watched(Terminal())).replace("\r", "\n")
    rounds = [line for line in text.splitlines() if re.match(r"round \d/3 ", line)]
    assert len(rounds) == 3
    assert all(len(line) <= columns and "fused" in line for line in rounds)


def test_terminal_is_left_in_order(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    text = watched(Terminal())
    assert text.rfind("\x1b[?25h") > text.rfind("\x1b[?25l")  # the cursor is shown again


def test_dumb_terminals_get_plain_lines(monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    assert not isinstance(view(invented.config(), Terminal()), Live)


def test_a_line_loses_its_least_important_parts_first():
    parts = [Part("aaaa"), Part("bb", 2), Part("cc", 1), Part("dd", 2)]
    assert "".join(part.text for part in fitting(parts, 8)) == "aaaabbcc"
    assert "".join(part.text for part in fitting(parts, 7)) == "aaaacc"
    assert "".join(part.text for part in fitting(parts, 1)) == "aaaa"
    assert fitting(parts, None) == parts


def test_a_run_that_ends_below_its_warm_start_says_so():
    settings = invented.config(optimizer={"learning_rate": 0.003})
    (told,) = [line for line in result_sentences(invented.result(fused=0.7), settings) if "lost" in line]
    assert "learn more slowly (--set optimizer.learning_rate=0.0003), or set evaluation.keep_best=true" in told
    assert not [line for line in result_sentences(invented.result(fused=0.81), settings) if "lost" in line]
    alone = invented.config(federation={"rounds": 0})
    assert not [line for line in result_sentences(invented.result(fused=0.7), alone) if "lost" in line]
