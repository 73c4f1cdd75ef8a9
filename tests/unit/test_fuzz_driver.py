# SPDX-License-Identifier: Apache-2.0
"""The fuzzer itself: the same seed, the same inputs; crashes, hangs and memory are found, kept, and can be replayed."""

from __future__ import annotations

import gc
import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nri_plugin.api import nri_pb2
from tests.fuzz import __main__ as command
from tests.fuzz import engine
from tests.fuzz.engine import Budget, Engine, Report, Target, Watchdog
from tests.fuzz.mutate import MAX_INPUT, Mutator
from tests.fuzz.seeds import hooksd_files, nri_calls
from tests.fuzz.streams import compare, cut
from tests.fuzz.structure import (
    shuffle_pieces,
    splice_after,
    splice_inside,
    splice_json,
    splice_pieces,
    splice_protobuf,
    split_frames,
    split_lines,
    split_protobuf,
    write_varint,
)
from tests.fuzz.targets import find_targets
from tests.fuzz.words import generalise
from tests.fuzz.worker import CurrentInput, main, read_current

SEEDS = [b"one\ntwo\nthree\n", b"four\n"]
LINES = splice_pieces(split_lines)
ENOUGH = Budget(60.0, 2000)


def target_of(run: Callable[[bytes], str], memory: int = 1 << 30) -> Target:
    return Target("test", lambda: list(SEEDS), run, LINES, (b"token",), lambda _size: memory)


def report_of(run: Callable[[bytes], str], memory: int = 1 << 30, seed: int = 1) -> Report:
    return Engine(target_of(run, memory), seed).run(ENOUGH)


def length_word(data: bytes) -> str:
    return f"{len(data).bit_length()}"


def test_same_seed_gives_the_same_inputs_and_another_gives_others() -> None:
    one, again, other = (report_of(length_word, seed=seed) for seed in (1, 1, 2))
    assert one.digest == again.digest
    assert one.outcomes == again.outcomes
    assert one.digest != other.digest
    assert one.executions == 2000


def test_run_ends_with_its_cpu_time() -> None:
    report = Engine(target_of(length_word), 1).run(Budget(0.2))
    assert report.failure is None
    assert 0.2 <= report.seconds < 1.0


def test_exception_is_a_crash_with_its_input_and_traceback() -> None:
    def crashes(data: bytes) -> str:
        if b"token" in data:
            raise KeyError("there it is")
        return ""

    failure = report_of(crashes).failure
    assert failure is not None
    assert failure.kind == "crash"
    assert b"token" in failure.data
    assert "KeyError: 'there it is'" in failure.text


def test_input_of_the_seeds_that_fails_ends_the_run_at_once() -> None:
    def crashes(_data: bytes) -> str:
        raise ValueError("always")

    report = report_of(crashes)
    assert report.executions == 1
    assert report.failure is not None
    assert report.failure.data == SEEDS[0]


def test_input_that_takes_too_long_is_a_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "MAX_INPUT_CPU_S", 0.05)

    def hangs(data: bytes) -> str:
        while b"token" in data:
            pass
        return ""

    gc.disable()  # a signal that comes in one of its callbacks is not the target's
    try:
        failure = report_of(hangs).failure
    finally:
        gc.enable()
    assert failure is not None
    assert failure.kind == "hang"
    assert b"token" in failure.data


def test_watchdog_keeps_quiet_between_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "MAX_INPUT_CPU_S", 0.05)
    watchdog = Watchdog()
    before = signal.getsignal(signal.SIGPROF)
    with watchdog.watching():
        watchdog.begin()
        watchdog.end()
        end = time.process_time() + 0.2
        while time.process_time() < end:
            pass
    assert signal.getsignal(signal.SIGPROF) == before


def test_input_that_takes_too_much_memory_is_found() -> None:
    failure = report_of(lambda data: str(len(bytearray(100_000 + len(data)))), memory=50_000).failure
    assert failure is not None
    assert failure.kind == "memory"
    assert "at the peak" in failure.text


def test_absurd_allocation_is_found() -> None:
    def allocates(_data: bytes) -> str:
        raise MemoryError("a size that a peer announced")

    failure = report_of(allocates).failure
    assert failure is not None
    assert failure.kind == "memory"


def test_memory_that_stays_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "peak_rss", iter(range(0, 1 << 40, 1 << 20)).__next__)
    failure = report_of(length_word).failure
    assert failure is not None
    assert failure.kind == "memory"
    assert "the process grew" in failure.text


def test_input_with_a_new_outcome_leads_to_more_of_its_kind() -> None:
    """Two tokens one after the other are far too rare to come at once."""
    depths: set[int] = set()

    def count(data: bytes) -> str:
        depths.add(data.count(b"token"))
        return str(data.count(b"token"))

    report_of(count)
    assert max(depths) > 5


def test_every_input_is_noted_before_it_is_run() -> None:
    noted: list[bytes] = []

    def run(data: bytes) -> str:
        assert noted[-1] == data
        return ""

    assert Engine(target_of(run), 1, noted.append).run(ENOUGH).failure is None
    assert len(noted) == 2000


def test_input_at_hand_can_be_read_from_outside(tmp_path: Path) -> None:
    assert read_current(tmp_path) == b""
    current = CurrentInput(tmp_path)
    current.note(b"longer than the next")
    current.note(b"next")
    assert read_current(tmp_path) == b"next"
    current.note(bytes(MAX_INPUT))
    assert read_current(tmp_path) == bytes(MAX_INPUT)


def test_inputs_are_bounded_however_often_they_are_changed() -> None:
    mutator = Mutator(random.Random(1), (b"t" * 5000,), LINES)
    seeds = [b"x" * MAX_INPUT, b"y\n" * (MAX_INPUT // 2)]
    assert max(len(mutator.mutate(seeds)) for _ in range(300)) == MAX_INPUT


def test_empty_input_can_be_changed() -> None:
    mutator = Mutator(random.Random(1), (), LINES)
    assert any(mutator.mutate([b""]) for _ in range(50))


def test_pieces_of_both_inputs_are_kept_whole() -> None:
    rng = random.Random(1)
    pieces = {piece for _ in range(200) for piece in shuffle_pieces(rng, [b"a", b"b", b"c"], [b"d"])}
    assert pieces == {b"a", b"b", b"c", b"d"}
    assert shuffle_pieces(rng, [], []) == []


def test_frames_are_cut_by_their_length_and_keep_it() -> None:
    split = split_frames(2, lambda header: header[1])
    stream = b"A\x03xyzB\x00C\x05cut"
    assert split(stream) == [b"A\x03xyz", b"B\x00", b"C\x05cut"]
    rng = random.Random(1)
    splice = splice_inside(split, 2, 1, 1, lambda _rng, data, other: data + other + b"!")
    assert splice(rng, b"A\x01x", b"B\x01y") == b"A\x03xy!"
    assert splice(rng, b"", b"B\x01y") == b""


def test_first_bytes_stay_or_come_from_the_other_input() -> None:
    splice = splice_after(1, lambda _rng, data, _other: data + b"!")
    rng = random.Random(1)
    assert {splice(rng, b"1a", b"2b") for _ in range(100)} == {b"1a!", b"2a!"}


def test_protobuf_is_cut_into_fields_and_stays_a_message() -> None:
    payload = dict(nri_calls())["StartContainer"]
    fields = split_protobuf(payload)
    assert b"".join(fields) == payload
    assert len(fields) == 2
    rng, lengths = random.Random(1), set()
    for _ in range(300):
        changed = splice_protobuf(rng, payload, payload)
        lengths.add(len(changed))
        assert b"".join(split_protobuf(changed)) == changed
    assert len(lengths) > 20
    assert nri_pb2.StartContainerRequest.FromString(b"".join(reversed(fields))).pod.name == "web-0"


@pytest.mark.parametrize("junk", [b"", b"\x80", b"\x0a\x05ab", b"\xff" * 20, b"\x0b\x00", b"\x09\x01"])
def test_what_is_no_protobuf_is_one_piece(junk: bytes) -> None:
    assert b"".join(split_protobuf(junk)) == junk


@pytest.mark.parametrize("number", [0, 127, 128, 300, 1 << 32])
def test_varint_is_written_as_it_is_read(number: int) -> None:
    field = b"\x08" + write_varint(number)
    assert split_protobuf(field + b"\x10\x01") == [field, b"\x10\x01"]


def test_json_stays_json_and_changes() -> None:
    rng, seeds = random.Random(1), hooksd_files()
    changed = {splice_json(rng, seeds[0], seeds[1]) for _ in range(200)}
    assert len(changed) > 50
    assert all(isinstance(json.loads(data), dict) for data in changed)
    assert splice_json(rng, b"{", seeds[0]) == b"{"
    assert splice_json(rng, b"[" * 100_000, seeds[0]) == b"[" * 100_000


def test_cut_input_is_the_input() -> None:
    rng = random.Random(1)
    pieces = [(data, cut(data)) for data in (rng.randbytes(size) for size in range(300))]
    assert all(b"".join(parts) == data for data, parts in pieces)
    assert any(len(parts) == len(data) for data, parts in pieces[50:])
    assert cut(pieces[99][0]) == pieces[99][1]


def test_parser_that_depends_on_how_its_input_is_cut_is_found() -> None:
    def feed(pieces: list[bytes]) -> tuple[str, object]:
        return "read", [len(piece) for piece in pieces]

    with pytest.raises(Exception, match=r"read, .* became read, "):
        compare(feed, bytes(100))


def test_word_holds_nothing_that_varies() -> None:
    assert generalise("container a1b2: status 0x1fe, 'text' of \"me\"") == "status #, # of #"


def test_every_target_takes_its_own_seeds() -> None:
    for target in find_targets().values():
        seeds = target.seeds()
        assert any("Error" not in target.run(data).partition(";")[0] for data in seeds), target.name
        assert max(map(len, seeds)) < MAX_INPUT


def run_command(tmp_path: Path, *words: str) -> int:
    return command.main([*words, "--folder", str(tmp_path)])


def test_command_prints_the_numbers_and_keeps_the_slowest_input(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(tmp_path, "mux", "failure-rule", "--executions", "300", "--jobs", "2") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("seed 1; ")
    assert [line.partition(":")[0] for line in lines[1:]] == ["mux", "failure-rule"]
    assert all("300 inputs in " in line and " outcomes, slowest " in line for line in lines[1:])
    assert (tmp_path / "mux" / "slowest").is_file()  # which may be the empty one
    assert json.loads((tmp_path / "mux" / "report.json").read_text())["executions"] == 300


def failed_report(kind: str = "crash") -> dict[str, Any]:
    numbers = {"executions": 1, "seconds": 0.0, "outcomes": {}, "slowest": 0.0, "peak": 0, "growth": 0}
    return {"target": "mux", **numbers, "failure": {"kind": kind, "text": "Traceback", "data": b"\xffbad".hex()}}


def test_failing_input_is_kept_and_the_command_to_replay_it_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "run_worker", lambda *_: failed_report())
    assert run_command(tmp_path, "mux") == 1
    last = capsys.readouterr().out.splitlines()[-1]
    (kept,) = (tmp_path / "mux").glob("crash-*")
    assert last.endswith(f"-m tests.fuzz mux --replay {kept}")
    assert kept.read_bytes() == b"\xffbad"


def test_worker_that_dies_failed_with_the_input_at_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(*_args: object, **_options: object) -> subprocess.CompletedProcess[str]:
        CurrentInput(tmp_path).note(b"the last")
        return subprocess.CompletedProcess([], -signal.SIGSEGV, "", "Fatal Python error")

    monkeypatch.setattr(subprocess, "run", die)
    report = command.run_worker("mux", tmp_path, command.Options(1.0, 0, 1, tmp_path))
    assert report["failure"]["kind"] == "crash"
    assert bytes.fromhex(report["failure"]["data"]) == b"the last"
    assert "status -11" in report["failure"]["text"]
    assert "the worker is gone" in command.describe(report, tmp_path)


def test_worker_that_never_ends_hangs_with_the_input_at_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(*_args: object, timeout: float, **_options: object) -> subprocess.CompletedProcess[str]:
        CurrentInput(tmp_path).note(b"the last")
        raise subprocess.TimeoutExpired([], timeout)

    monkeypatch.setattr(subprocess, "run", hang)
    failure = command.run_worker("mux", tmp_path, command.Options(1.0, 0, 1, tmp_path))["failure"]
    assert (failure["kind"], bytes.fromhex(failure["data"])) == ("hang", b"the last")


def test_worker_writes_its_report_as_the_last_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.fuzz.worker.limit_address_space", int)
    monkeypatch.setattr("logging.basicConfig", dict)
    monkeypatch.setattr("sys.argv", ["worker", "mux", str(tmp_path), "--seconds=1", "--executions=50", "--seed=3"])
    assert main() == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (report["target"], report["executions"], report["failure"]) == ("mux", 50, None)
    assert (tmp_path / "slowest").exists()


def test_replay_runs_one_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = tmp_path / "kept"
    kept.write_bytes(b"\0\0\0\1\xff\xff\xff\xff")
    assert run_command(tmp_path, "mux", "--replay", str(kept)) == 0
    assert "RemoteProtocolError: a mux frame of # bytes announced, limit #" in capsys.readouterr().out


def test_replay_of_a_failing_input_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def crashes(_data: bytes) -> str:
        raise KeyError("again")

    monkeypatch.setattr(command, "find_targets", lambda: {"mux": target_of(crashes)})
    (tmp_path / "kept").write_bytes(b"")
    assert run_command(tmp_path, "mux", "--replay", str(tmp_path / "kept")) == 1
    assert "KeyError: 'again'" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["nothing"], "no target nothing; there are: mux, "),
        (["--replay", "x"], "--replay takes exactly one target"),
        (["c-rule", "--replay", "x"], "--replay takes exactly one target"),
        (["c-rule", "--executions", "5"], "--executions is not for targets in C"),
        (["mux", "--seconds", "0"], "must be above 0"),
        (["mux", "--jobs", "0"], "must be above 0"),
    ],
)
def test_wrong_usage_is_explained(words: list[str], reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        command.main(words)
    assert caught.value.code == 2
    assert reason in capsys.readouterr().err


def test_address_space_limit_lets_an_absurd_allocation_fail() -> None:
    script = "from tests.fuzz.engine import limit_address_space as l; l(); bytearray(1 << 30)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert "MemoryError" in done.stderr
