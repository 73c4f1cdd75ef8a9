# SPDX-License-Identifier: Apache-2.0
"""The header cache: built once, rebuilt when damaged, refused where others may write."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from agent.kernel import headers
from agent.kernel.btf_c import Roots
from agent.kernel.header_roots import KERNEL_ROOTS
from agent.kernel.headers import KEEP_TREES, HeaderError, ensure_tree
from tests.support.btf_blob import BtfBlob
from tests.support.kernel_facts import btf_in
from tests.support.probes import probe_root

KCONFIG = Path("include/linux/kconfig.h")
NOBODY = 65534


def kernel_btf(marker: int = 0) -> bytes:
    """A BTF with every required root as a struct of one member; `marker` makes it another one."""
    blob = BtfBlob()
    number = blob.integer("int", 4)
    for name in KERNEL_ROOTS.required:
        blob.composite(name, 4, [(f"member{marker}", number, 0)])
    return blob.build()


@pytest.fixture
def btf(tmp_path: Path) -> Path:
    path = tmp_path / "vmlinux"
    path.write_bytes(kernel_btf())
    return path


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "var" / "headers"


def identity(tree: Path) -> tuple[int, int]:
    """What changes when the tree is built anew."""
    return tree.stat().st_ino, (tree / KCONFIG).stat().st_mtime_ns


def overwrite(tree: Path) -> None:
    (tree / KCONFIG).write_text("#error\n")


def empty(tree: Path) -> None:
    (tree / KCONFIG).write_text("")


def remove(tree: Path) -> None:
    (tree / KCONFIG).unlink()


def remove_manifest(tree: Path) -> None:
    (tree / "MANIFEST").unlink()


def cut_manifest(tree: Path) -> None:
    manifest = tree / "MANIFEST"
    kept = manifest.read_text().splitlines()[:1]
    shutil.rmtree(tree / "arch")
    manifest.write_text(kept[0])


def add_file(tree: Path) -> None:
    (tree / "include/linux/planted.h").write_text("#define u64 char\n")


def replace_by_link(tree: Path) -> None:
    copy = tree.parent.parent / "kconfig.h"
    shutil.copy(tree / KCONFIG, copy)
    (tree / KCONFIG).unlink()
    (tree / KCONFIG).symlink_to(copy)


def open_to_others(tree: Path) -> None:
    tree.chmod(0o777)


def replace_by_file(tree: Path) -> None:
    shutil.rmtree(tree)
    tree.write_text("")


DAMAGES: tuple[Callable[[Path], None], ...] = (
    overwrite,
    empty,
    remove,
    remove_manifest,
    cut_manifest,
    add_file,
    replace_by_link,
    open_to_others,
    replace_by_file,
)


def test_builds_a_private_tree_from_the_btf(cache: Path, btf: Path) -> None:
    tree = ensure_tree(cache, btf_in(btf.parent))
    assert "int member0;" in (tree / "include/podgate_btf.h").read_text()
    assert (tree / KCONFIG).is_file()
    assert (cache.stat().st_mode & 0o777, tree.stat().st_mode & 0o777) == (0o700, 0o700)
    assert list(cache.iterdir()) == [tree]


def test_second_call_does_not_build(cache: Path, btf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = ensure_tree(cache, btf_in(btf.parent))
    before = identity(first)
    monkeypatch.delattr(headers, "declare")
    assert ensure_tree(cache, btf_in(btf.parent)) == first
    assert identity(first) == before


def test_another_btf_gets_another_tree(cache: Path, btf: Path) -> None:
    first = ensure_tree(cache, btf_in(btf.parent))
    btf.write_bytes(kernel_btf(1))
    assert ensure_tree(cache, btf_in(btf.parent)) != first


def test_another_kernel_release_gets_another_tree(cache: Path, btf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = ensure_tree(cache, btf_in(btf.parent))
    uname = os.uname()
    other = os.uname_result((uname.sysname, uname.nodename, "7.1.0-other", uname.version, uname.machine))
    monkeypatch.setattr(os, "uname", lambda: other)
    assert ensure_tree(cache, btf_in(btf.parent)) != first


def test_other_roots_get_another_tree(cache: Path, btf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = ensure_tree(cache, btf_in(btf.parent))
    monkeypatch.setattr(headers, "KERNEL_ROOTS", Roots(KERNEL_ROOTS.required))
    assert ensure_tree(cache, btf_in(btf.parent)) != first


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_tree_is_rebuilt(cache: Path, btf: Path, damage: Callable[[Path], None]) -> None:
    tree = ensure_tree(cache, btf_in(btf.parent))
    whole = {p.relative_to(tree): p.read_text() for p in tree.rglob("*") if p.is_file()}
    damage(tree)
    assert ensure_tree(cache, btf_in(btf.parent)) == tree
    assert {p.relative_to(tree): p.read_text() for p in tree.rglob("*") if p.is_file()} == whole
    assert not (tree / KCONFIG).is_symlink()
    assert tree.stat().st_mode & 0o777 == 0o700


def test_concurrent_builders_agree(cache: Path, btf: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        trees = set(pool.map(lambda _: ensure_tree(cache, btf_in(btf.parent)), range(8)))
    assert len(trees) == 1
    assert list(cache.iterdir()) == list(trees)


def test_builders_that_find_a_damaged_tree_agree(cache: Path, btf: Path) -> None:
    overwrite(ensure_tree(cache, btf_in(btf.parent)))
    with ThreadPoolExecutor(4) as pool:
        (tree,) = set(pool.map(lambda _: ensure_tree(cache, btf_in(btf.parent)), range(8)))
    assert "#error" not in (tree / KCONFIG).read_text()


def test_old_trees_are_pruned(cache: Path, btf: Path) -> None:
    trees = []
    for age in range(KEEP_TREES + 2):
        btf.write_bytes(kernel_btf(age))
        trees.append(ensure_tree(cache, btf_in(btf.parent)))
        os.utime(trees[-1], (age, age))
    assert set(cache.iterdir()) == set(trees[-KEEP_TREES:])


def test_abandoned_work_is_removed_and_fresh_work_is_not(
    cache: Path, btf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ensure_tree(cache, btf_in(btf.parent))
    (cache / ".new-abandoned").mkdir()
    btf.write_bytes(kernel_btf(1))
    ensure_tree(cache, btf_in(btf.parent))
    assert (cache / ".new-abandoned").is_dir()
    later = time.time() + 3700
    monkeypatch.setattr(time, "time", lambda: later)
    btf.write_bytes(kernel_btf(2))
    ensure_tree(cache, btf_in(btf.parent))
    assert not (cache / ".new-abandoned").exists()


@pytest.mark.parametrize("mode", [0o770, 0o702, 0o777])
def test_cache_that_others_can_write_to_is_refused(cache: Path, btf: Path, mode: int) -> None:
    cache.mkdir(parents=True)
    cache.chmod(mode)
    with pytest.raises(HeaderError, match="only root can write to"):
        ensure_tree(cache, btf_in(btf.parent))
    assert list(cache.iterdir()) == []


def test_cache_of_another_user_is_refused(cache: Path, btf: Path) -> None:
    if missing := probe_root():
        pytest.skip(missing)
    cache.mkdir(parents=True, mode=0o700)
    os.chown(cache, NOBODY, NOBODY)
    with pytest.raises(HeaderError, match="not safe"):
        ensure_tree(cache, btf_in(btf.parent))


def test_cache_that_others_can_replace_is_refused_unless_sticky(cache: Path, btf: Path) -> None:
    cache.mkdir(parents=True, mode=0o700)
    cache.parent.chmod(0o777)
    with pytest.raises(HeaderError, match=f"by way of {cache.parent}"):
        ensure_tree(cache, btf_in(btf.parent))
    cache.parent.chmod(0o1777)
    assert ensure_tree(cache, btf_in(btf.parent)).parent == cache


def test_link_to_an_unsafe_cache_is_refused(cache: Path, btf: Path, tmp_path: Path) -> None:
    open_cache = tmp_path / "open"
    open_cache.mkdir()
    open_cache.chmod(0o777)
    cache.parent.mkdir()
    cache.symlink_to(open_cache)
    with pytest.raises(HeaderError, match=str(open_cache)):
        ensure_tree(cache, btf_in(btf.parent))


def test_cache_that_is_a_file_is_an_error(cache: Path, btf: Path) -> None:
    cache.parent.mkdir()
    cache.write_text("")
    with pytest.raises(HeaderError, match="cannot be used"):
        ensure_tree(cache, btf_in(btf.parent))


@pytest.mark.parametrize("data", [b"", b"junk" * 100, kernel_btf()[:-1]])
def test_unusable_btf_is_an_error_that_names_it(cache: Path, btf: Path, data: bytes) -> None:
    btf.write_bytes(data)
    with pytest.raises(HeaderError, match=r"the BTF of vmlinux cannot be read: BTF: .*; report the kernel's version"):
        ensure_tree(cache, btf_in(btf.parent))
    assert list(cache.iterdir()) == []


def test_btf_without_what_programs_read_is_an_error(cache: Path, btf: Path) -> None:
    btf.write_bytes(BtfBlob().build())
    with pytest.raises(HeaderError, match=r"no headers can be made from the kernel's BTF: .* does not describe "):
        ensure_tree(cache, btf_in(btf.parent))
    assert list(cache.iterdir()) == []


def test_unreadable_btf_is_an_error(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "vmlinux").mkdir()
    with pytest.raises(HeaderError, match=r"vmlinux: EISDIR .*; the agent needs to read BTF"):
        ensure_tree(cache, btf_in(tmp_path))


def test_without_btf_the_error_says_where_it_looked_and_what_to_do(cache: Path, tmp_path: Path) -> None:
    with pytest.raises(HeaderError) as caught:
        ensure_tree(cache, btf_in(tmp_path, root=tmp_path))
    text = str(caught.value)
    assert f"the kernel has no BTF ({tmp_path}/vmlinux), and no file has it" in text
    assert f"{tmp_path}/boot/vmlinux-6.12.0-test, " in text
    assert "CONFIG_DEBUG_INFO_BTF" in text
    assert "--btf" in text
