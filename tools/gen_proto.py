# SPDX-License-Identifier: Apache-2.0
"""Regenerate the protobuf modules that are committed beside their ``.proto`` files.

    .venv/bin/python tools/gen_proto.py            write them
    .venv/bin/python tools/gen_proto.py --check    exit 1 and name the stale ones

Paths are given to protoc relative to the repository's root, so that the modules import each other as packages
(``from nri_plugin.api import nri_pb2``). The files of FOREIGN import each other as other projects' files import them,
relative to a folder of ours; there the modules' imports of each other are completed afterwards. Two more things are
changed in what protoc writes: the licence line comes first, and ``_Mapping`` gets type arguments, without which
``mypy --strict`` refuses the stubs.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

import click

ROOT = Path(__file__).resolve().parent.parent
API_FOLDERS = ("nri_plugin/api", "rthook/api", "agent/api", "agent/cri/api", "tests/support")
# Folder of ours → folder below it as `import "tetragon/tetragon.proto"` names it.
FOREIGN = {"agent/grpc_api": "tetragon"}
LICENCE = "# SPDX-License-Identifier: Apache-2.0\n"


def find_protos(base: Path, *folders: str) -> list[str]:
    """The .proto files in `folders` below `base`, relative to it, sorted."""
    return sorted(str(path.relative_to(base)) for folder in folders for path in (base / folder).glob("*.proto"))


def run_protoc(base: Path, protos: list[str], out: Path) -> None:
    """Write the modules and stubs of `protos` under `out`; ClickException when protoc fails (it has printed why)."""
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{base}", f"--python_out={out}", f"--pyi_out={out}"]
    done = subprocess.run([*command, *(str(base / proto) for proto in protos)], check=False)
    if done.returncode:
        raise click.ClickException(f"protoc ended with status {done.returncode}")


def complete_imports(text: str, folder: str, package: str) -> str:
    """``from tetragon import x_pb2`` as the package that `folder` is here."""
    return re.sub(rf"^from {re.escape(folder)} import ", f"from {package} import ", text, flags=re.MULTILINE)


def add_type_arguments(stub: str) -> str:
    """The stub with ``_Mapping`` written as ``_Mapping[str, _Any]`` where it has no arguments."""
    imports, separator, body = stub.partition("\nDESCRIPTOR")
    body, count = re.subn(r"\b_Mapping\b(?!\[)", "_Mapping[str, _Any]", body)
    return imports + ("from typing import Any as _Any\n" if count else "") + separator + body


def finish(path: Path) -> str:
    """The text to commit for one file that protoc wrote."""
    text = path.read_text(encoding="utf-8")
    return LICENCE + (add_type_arguments(text) if path.suffix == ".pyi" else text)


def generate_below(base: Path, protos: list[str]) -> dict[Path, str]:
    """What each file generated from `protos` should hold, by its path below `base`; nothing for no protos."""
    if not protos:
        return {}
    with tempfile.TemporaryDirectory() as name:
        out = Path(name)
        run_protoc(base, protos, out)
        return {base / path.relative_to(out): finish(path) for path in sorted(out.rglob("*_pb2.py*"))}


def generate(root: Path) -> dict[Path, str]:
    """What each generated file should hold, by its path in the tree at `root`."""
    wanted = generate_below(root, find_protos(root, *API_FOLDERS))
    for base, folder in FOREIGN.items():
        package = f"{base}/{folder}".replace("/", ".")
        for path, text in generate_below(root / base, find_protos(root / base, folder)).items():
            wanted[path] = complete_imports(text, folder, package)
    return wanted


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
