# SPDX-License-Identifier: Apache-2.0
"""crun, the OCI runtime of cri-o: of this machine's own release, in CACHE/vm/crun, with the one library that nothing
else here needs.
"""

from __future__ import annotations

from pathlib import Path

from tools.fetch_runtimes import LIBRARIES, read_codename, run
from tools.vm.packages import Package, fetch

PACKAGES = (Package("crun"), Package("libyajl2"))
PROGRAM = "usr/bin/crun"
_DONE = "VERSION"


def fetch_crun(cache: Path) -> Path:
    """The program, downloaded if the cache does not have it. Raises VmError, FetchError."""
    root = cache / "vm/crun"
    if (root / _DONE).is_file():
        return root / PROGRAM
    release = read_codename()
    print(f"vm: downloading crun of {release}", flush=True)
    fetch((release, f"{release}-security"), PACKAGES, root)
    run(["patchelf", "--set-rpath", str(root / LIBRARIES), str(root / PROGRAM)])
    (root / _DONE).write_text(run([str(root / PROGRAM), "--version"]))
    return root / PROGRAM
