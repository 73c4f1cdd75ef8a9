# SPDX-License-Identifier: Apache-2.0
"""The committed protobuf modules are those that the .proto files give."""

from pathlib import Path

from tools.gen_proto import API_FOLDERS, find_stale, generate

ROOT = Path(__file__).resolve().parents[2]


def make_tree(root: Path) -> Path:
    """A tree with one small .proto; its path."""
    proto = root / API_FOLDERS[0] / "small.proto"
    proto.parent.mkdir(parents=True)
    proto.write_text('syntax = "proto3"; package small; message Inner {} message Outer { Inner inner = 1; }')
    return proto


def test_committed_modules_are_fresh() -> None:
    wanted = generate(ROOT)
    assert ROOT / "rthook/api/hook_pb2.pyi" in wanted
    assert find_stale(wanted) == []


def test_a_changed_proto_makes_its_modules_stale(tmp_path: Path) -> None:
    proto = make_tree(tmp_path)
    wanted = generate(tmp_path)
    for path, text in wanted.items():
        path.write_text(text)
    assert find_stale(wanted) == []
    proto.write_text(proto.read_text().replace("Outer", "Other"))
    names = [path.name for path in find_stale(generate(tmp_path))]
    assert names == ["small_pb2.py", "small_pb2.pyi"]


def test_stubs_have_type_arguments(tmp_path: Path) -> None:
    make_tree(tmp_path)
    (stub,) = [text for path, text in generate(tmp_path).items() if path.suffix == ".pyi"]
    assert "_Mapping[str, _Any]" in stub
