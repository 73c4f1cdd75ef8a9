# SPDX-License-Identifier: Apache-2.0
"""Images: a valid OCI layout, the same bytes for the same input, and programs that do what they say."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import signal
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

from tests.support.image import FIRST, PAUSE, Image, ImageError, build_image, compile_program, image_key, pack_image
from tests.support.wait import wait_until

SAMPLE = Image("localhost/sample:2", ("/tool",), {"tool": Path("/unused")}, {"bin/alias": "tool"})


def read_tar(data: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return {entry.name: found.read() for entry in tar if (found := tar.extractfile(entry)) is not None}


def read_blob(files: dict[str, bytes], descriptor: dict[str, Any]) -> bytes:
    """The blob that a descriptor points at; its digest is checked."""
    blob = files["blobs/sha256/" + descriptor["digest"].removeprefix("sha256:")]
    assert hashlib.sha256(blob).hexdigest() == descriptor["digest"].removeprefix("sha256:")
    assert len(blob) == descriptor["size"]
    return blob


def test_layout_leads_from_the_index_to_the_program() -> None:
    files = read_tar(pack_image(SAMPLE, {"tool": b"ELF"}))
    entry = json.loads(files["index.json"])["manifests"][0]
    assert entry["annotations"]["io.containerd.image.name"] == "localhost/sample:2"
    manifest = json.loads(read_blob(files, entry))
    config = json.loads(read_blob(files, manifest["config"]))
    layer = gzip.decompress(read_blob(files, manifest["layers"][0]))
    assert config["config"]["Entrypoint"] == ["/tool"]
    assert config["rootfs"]["diff_ids"] == ["sha256:" + hashlib.sha256(layer).hexdigest()]
    with tarfile.open(fileobj=io.BytesIO(layer)) as tar:
        assert tar.getmember("tool").mode == 0o755
        assert tar.getmember("bin/alias").linkname == "tool"


def test_same_input_gives_the_same_bytes() -> None:
    assert pack_image(SAMPLE, {"tool": b"ELF"}) == pack_image(SAMPLE, {"tool": b"ELF"})


def test_key_follows_the_sources(tmp_path: Path) -> None:
    source = tmp_path / "program.c"
    source.write_text("one")
    image = Image("localhost/x:1", (), {"x": source})
    before = image_key(image)
    source.write_text("two")
    assert image_key(image) != before


def test_built_image_is_kept_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PODGATE_CACHE", str(tmp_path))
    first = build_image(PAUSE)
    made = first.stat().st_mtime_ns
    assert build_image(PAUSE).stat().st_mtime_ns == made
    assert [path.name for path in (tmp_path / "images").iterdir()] == [first.name]


def test_source_that_does_not_compile_is_named(tmp_path: Path) -> None:
    source = tmp_path / "broken.c"
    source.write_text("int main(")
    with pytest.raises(ImageError, match=r"broken\.c") as caught:
        compile_program(source, tmp_path / "out")
    assert "error" in caught.value.reason


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("first") / "first"
    compile_program(FIRST.programs["first"], target)
    return target


@pytest.mark.parametrize(("arguments", "code"), [((), 0), (("storm", "3"), 0), (("loop", "3"), 0)])
def test_first_program_reports_the_first_call(first: Path, arguments: tuple[str, ...], code: int) -> None:
    done = subprocess.run([first, *arguments], capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("Bad file descriptor\n", code)


@pytest.mark.parametrize("arguments", [("storm",), ("storm", "x"), ("dance", "1"), ("loop", "1", "2"), ("loop", "")])
def test_first_program_refuses_wrong_arguments(first: Path, arguments: tuple[str, ...]) -> None:
    assert subprocess.run([first, *arguments], capture_output=True, check=False).returncode == 2


def test_first_program_makes_the_call_before_anything_else(first: Path) -> None:
    """The entry point's code starts with the constants of lseek(-1, 0, SEEK_SET) and the syscall instruction."""
    data = first.read_bytes()
    call = bytes.fromhex("b808000000 48c7c7ffffffff 31f6 31d2 0f05")
    entry = int.from_bytes(data[24:32], "little")
    offset = data.index(call)
    # The text segment is mapped at a page boundary: file offset and address agree in the low 12 bits.
    assert entry % 4096 == offset % 4096


def ignores(pid: int, number: signal.Signals) -> bool:
    """Whether a process ignores a signal (SigIgn of proc(5))."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    mask = next(int(line.split()[1], 16) for line in lines if line.startswith("SigIgn:"))
    return bool(mask >> (number - 1) & 1)


def test_pause_ends_with_code_zero_when_told_to(tmp_path: Path) -> None:
    compile_program(PAUSE.programs["pause"], tmp_path / "pause")
    with subprocess.Popen([tmp_path / "pause"]) as process:
        wait_until(lambda: ignores(process.pid, signal.SIGCHLD), 5, "pause to have set up its signals")
        process.send_signal(signal.SIGTERM)
        assert process.wait(5) == 0
