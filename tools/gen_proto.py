# SPDX-License-Identifier: Apache-2.0
"""Regenerate the protobuf modules that are committed beside their ``.proto`` files.

    .venv/bin/python tools/gen_proto.py            write them
    .venv/bin/python tools/gen_proto.py --check    exit 1 and name the stale ones

Paths are given to protoc relative to the repository's root, so that the modules import each other as packages
(``from nri_plugin.api import nri_pb2``). Two things are changed in what protoc writes: the licence line comes first,
and ``_Mapping`` gets type arguments, without which ``mypy --strict`` refuses the stubs.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

import click

ROOT = Path(__file__).resolve().parent.parent
API_FOLDERS = ("nri_plugin/api", "rthook/api", "agent/api", "tests/support")
LICENCE = "# SPDX-License-Identifier: Apache-2.0\n"


def find_protos(root: Path) -> list[str]:
    """The .proto files under the API folders, relative to `root`, sorted."""
    return sorted(str(path.relative_to(root)) for folder in API_FOLDERS for path in (root / folder).glob("*.proto"))


def run_protoc(root: Path, protos: list[str], out: Path) -> None:
    """Write the modules and stubs of `protos` under `out`; ClickException when protoc fails (it has printed why)."""
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{root}", f"--python_out={out}", f"--pyi_out={out}"]
    done = subprocess.run([*command, *(str(root / proto) for proto in protos)], check=False)
    if done.returncode:
        raise click.ClickException(f"protoc ended with status {done.returncode}")


def add_type_arguments(stub: str) -> str:
    """The stub with ``_Mapping`` written as ``_Mapping[str, _Any]`` where it has no arguments."""
    imports, separator, body = stub.partition("\nDESCRIPTOR")
    body, count = re.subn(r"\b_Mapping\b(?!\[)", "_Mapping[str, _Any]", body)
    return imports + ("from typing import Any as _Any\n" if count else "") + separator + body


def finish(path: Path) -> str:
    """The text to commit for one file that protoc wrote."""
    text = path.read_text(encoding="utf-8")
    return LICENCE + (add_type_arguments(text) if path.suffix == ".pyi" else text)


def generate(root: Path) -> dict[Path, str]:
    """What each generated file should hold, by its path in the tree at `root`."""
    protos = find_protos(root)
    with tempfile.TemporaryDirectory() as name:
        out = Path(name)
        run_protoc(root, protos, out)
        return {root / path.relative_to(out): finish(path) for path in sorted(out.rglob("*_pb2.py*"))}


def find_stale(wanted: dict[Path, str]) -> list[Path]:
    """The files that are missing or differ from what they should hold."""
    return [path for path, text in wanted.items() if not path.exists() or path.read_text(encoding="utf-8") != text]


@click.command(help=__doc__.split("\n")[0] if __doc__ else None)
@click.option("--check", is_flag=True, help="Write nothing; exit 1 and name the files that are stale.")
def main(check: bool) -> None:
    """Write or check the generated files of this repository."""
    wanted = generate(ROOT)
    stale = find_stale(wanted)
    for path in stale:
        click.echo(f"{'stale' if check else 'wrote'}: {path.relative_to(ROOT)}")
        if not check:
            path.write_text(wanted[path], encoding="utf-8")
    sys.exit(1 if check and stale else 0)


if __name__ == "__main__":
    main()
