# SPDX-License-Identifier: Apache-2.0
"""Container images made here, without a registry: OCI image layouts in a tar file, ready for `ctr images import`.

Three images: the pod sandbox's pause process, the first-instruction program, and busybox. Their programs are compiled
with gcc (freestanding C) or copied from the system (the statically linked busybox). Built tars are kept in the cache
directory under the hash of everything that goes into them.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.names import cache_dir, project_dir

CC = ("gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-static", "-nostdlib", "-ffreestanding", "-fno-stack-protector")
FOLDERS = ("bin", "dev", "etc", "proc", "root", "run", "sys", "tmp")
PASSWD = b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n"
MEDIA = "application/vnd.oci.image."


@dataclass(frozen=True, slots=True)
class Image:
    """What an image holds. `programs` maps a path in the image to a C source or to an executable on this machine."""

    reference: str
    entrypoint: tuple[str, ...]
    programs: Mapping[str, Path]
    links: Mapping[str, str] = field(default_factory=dict)


class ImageError(Exception):
    """A program of an image could not be built; carries the source and what the compiler said."""

    def __init__(self, source: Path, reason: str) -> None:
        super().__init__(source, reason)
        self.source = source
        self.reason = reason

    def __str__(self) -> str:
        return f"cannot build {self.source}: {self.reason}"


BUSYBOX_APPLETS = "sh sleep cat ls echo date true false id ps grep stat touch nc env mkdir rm head tail od kill dd seq"
PAUSE = Image("localhost/pause:1", ("/pause",), {"pause": project_dir() / "tests/support/programs/pause.c"})
FIRST = Image("localhost/first:1", ("/first",), {"first": project_dir() / "demo/first_instruction.c"})
FORKS = Image("localhost/forks:1", ("/forks",), {"forks": project_dir() / "bench/programs/forks.c"})
BUSYBOX = Image(
    "localhost/bb:1",
    (),
    {"bin/busybox": Path("/bin/busybox")},
    {f"bin/{applet}": "busybox" for applet in BUSYBOX_APPLETS.split()},
)


def compile_program(source: Path, target: Path) -> None:
    """Compile a freestanding C source into the static executable `target`; ImageError with gcc's words."""
    done = subprocess.run([*CC, "-o", target, source], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ImageError(source, done.stderr.strip())


def build_image(image: Image) -> Path:
    """The path of the image's tar file, built now unless the cache has one made of the same inputs."""
    folder = cache_dir() / "images"
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{image_key(image)}.tar"
    if not target.exists():
        write_atomically(target, pack_image(image, {path: _program(source) for path, source in image.programs.items()}))
    return target


def image_key(image: Image) -> str:
    """A hash of everything that decides the image's content: this module, the sources, the names."""
    digest = hashlib.sha256(Path(__file__).read_bytes())
    digest.update(json.dumps([image.reference, image.entrypoint, sorted(image.links.items())]).encode())
    for path, source in sorted(image.programs.items()):
        digest.update(path.encode() + b"\0" + source.read_bytes())
    return digest.hexdigest()[:32]


def write_atomically(target: Path, data: bytes) -> None:
    """Write a file so that another process sees it whole or not at all."""
    fd, scratch = tempfile.mkstemp(dir=target.parent)
    with os.fdopen(fd, "wb") as out:
        out.write(data)
    Path(scratch).rename(target)


def _program(source: Path) -> bytes:
    """The executable's bytes: compiled if `source` is C, else the file as it is."""
    if source.suffix != ".c":
        return source.read_bytes()
    with tempfile.TemporaryDirectory(prefix="podgate-cc-") as folder:
        compile_program(source, Path(folder) / "program")
        return (Path(folder) / "program").read_bytes()


def pack_image(image: Image, programs: Mapping[str, bytes]) -> bytes:
    """The OCI image layout of one image with one layer, as a tar (image-spec, image-layout.md)."""
    layer = _pack_layer(image, programs)
    packed = gzip.compress(layer, 1, mtime=0)
    config = _json(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Entrypoint": list(image.entrypoint), "Env": ["PATH=/bin"], "WorkingDir": "/"},
            "rootfs": {"type": "layers", "diff_ids": [_digest(layer)]},
        }
    )
    manifest = _json(
        {
            "schemaVersion": 2,
            "mediaType": MEDIA + "manifest.v1+json",
            "config": _descriptor("config.v1+json", config),
            "layers": [_descriptor("layer.v1.tar+gzip", packed)],
        }
    )
    files = {"oci-layout": _json({"imageLayoutVersion": "1.0.0"}), "index.json": _index(image, manifest)}
    files |= {f"blobs/sha256/{_digest(blob)[7:]}": blob for blob in (config, manifest, packed)}
    return _tar(files)


def _index(image: Image, manifest: bytes) -> bytes:
    """index.json. containerd's importer names the image by the annotation, others by the reference name."""
    entry = _descriptor("manifest.v1+json", manifest) | {
        "platform": {"architecture": "amd64", "os": "linux"},
        "annotations": {
            "io.containerd.image.name": image.reference,
            "org.opencontainers.image.ref.name": image.reference.rpartition(":")[2],
        },
    }
    return _json({"schemaVersion": 2, "mediaType": MEDIA + "index.v1+json", "manifests": [entry]})


def _pack_layer(image: Image, programs: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for folder in FOLDERS:
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if folder == "tmp" else 0o755
            tar.addfile(entry)
        for path, data in programs.items():
            _add_file(tar, path, data, 0o755)
        for path, target in image.links.items():
            entry = tarfile.TarInfo(path)
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            tar.addfile(entry)
        _add_file(tar, "etc/passwd", PASSWD, 0o644)
        _add_file(tar, "etc/group", b"root:x:0:\n", 0o644)
    return buffer.getvalue()


def _tar(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for path, data in files.items():
            _add_file(tar, path, data, 0o644)
    return buffer.getvalue()


def _add_file(tar: tarfile.TarFile, path: str, data: bytes, mode: int) -> None:
    entry = tarfile.TarInfo(path)
    entry.size, entry.mode = len(data), mode
    tar.addfile(entry, io.BytesIO(data))


def _descriptor(kind: str, blob: bytes) -> dict[str, object]:
    return {"mediaType": MEDIA + kind, "digest": _digest(blob), "size": len(blob)}


def _digest(blob: bytes) -> str:
    return "sha256:" + hashlib.sha256(blob).hexdigest()


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True).encode()
