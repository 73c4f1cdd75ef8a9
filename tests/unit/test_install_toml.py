# SPDX-License-Identifier: Apache-2.0
"""Switching NRI on in containerd's configuration: before and after as files, and what holds of any file."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rthook.install.containerd import KEYS, SECTION, ConfigFile, nri_section, parse_toml, switch_on, undo
from rthook.install.errors import ConfigEditError, ConfigSyntaxError, UnsupportedError

DATA = Path(__file__).resolve().parents[1] / "data/install/toml"
CASES = sorted(path.name.removesuffix(".before.toml") for path in DATA.glob("*.before.toml"))
MAJOR = {"1.7": 1, "2.x": 2, "unknown": None}

_HEADS = ("", "version = 2\n", "# a comment\nversion = 2 # two\n\n", "version = 3\n", 'oom_score = 0\nroot = "/x"\n')
_OTHERS = (
    "",
    '[debug]\n  level = "info" # or debug\n',
    '[plugins."io.containerd.gc.v1.scheduler"]\n  mutation_threshold = 50\n',
    '[plugins]\n\n  [plugins."io.containerd.runtime.v2.task"]\n    platforms = ["linux/amd64"]\n',
)
_VALUES = ("", "disable = true\n", "  disable = false # on\n", "disable_connections = true\n", "\tdisable=true#x\n\n")
_SECTIONS = ("", f'[plugins."{SECTION}"]\n', f"[plugins.'{SECTION}'] # NRI\n", f'\n  [plugins."{SECTION}"]\n')


@st.composite
def _configs(draw: st.DrawFn) -> str:
    section = draw(st.sampled_from(_SECTIONS))
    values = draw(st.sampled_from(_VALUES)) + draw(st.sampled_from(("", 'socket_path = "/x"\n'))) if section else ""
    tables = draw(st.permutations([section + values, draw(st.sampled_from(_OTHERS))]))
    text = draw(st.sampled_from(_HEADS)) + "".join(tables)
    text = text.replace("\n", draw(st.sampled_from(("\n", "\r\n"))))
    return text if draw(st.booleans()) else text.rstrip("\r\n")


def read(name: str) -> str:
    return (DATA / name).read_bytes().decode()


@pytest.mark.parametrize("case", CASES)
def test_before_and_after(case: str) -> None:
    before, after = read(f"{case}.before.toml"), read(f"{case}.after.toml")
    changed = switch_on([ConfigFile("config.toml", before)], MAJOR[case.partition("-")[0]])
    assert changed.get("config.toml", before) == after
    assert (before != after) == bool(changed)


def test_there_is_a_case_of_each_kind() -> None:
    assert {case.partition("-")[0] for case in CASES} == set(MAJOR)


@given(_configs(), st.sampled_from([1, 2, None]))
def test_any_file_is_on_afterwards_says_nothing_else_and_can_be_set_back(text: str, major: int | None) -> None:
    changed = switch_on([ConfigFile("f", text)], major).get("f", text)
    assert switch_on([ConfigFile("f", changed)], major) == {}
    assert _said(changed, KEYS) == _said(text, KEYS)
    assert _said(undo(ConfigFile("f", changed), text)) == _said(text)


def _said(text: str, without: tuple[str, ...] = ()) -> dict[str, Any]:
    """An empty section says what none says."""
    data = tomllib.loads(text)
    for name in (SECTION, "nri"):
        section = nri_section(data, name)
        for key in without:
            (section or {}).pop(key, None)
        if section == {}:
            del data["plugins"][name]
    return {key: value for key, value in data.items() if key != "plugins" or value}


@given(_configs())
def test_a_changed_line_is_one_with_our_keys(text: str) -> None:
    changed = switch_on([ConfigFile("f", text)], 1).get("f", text)
    kept = [line for line in changed.splitlines() if line in text.splitlines()]
    new = [line for line in changed.splitlines() if line not in text.splitlines()]
    assert all("disable" in line or "nri" in line or not line for line in new)
    assert len(kept) >= len([line for line in text.splitlines() if "disable" not in line])


def test_the_last_file_with_a_section_says_that_it_is_on() -> None:
    """In 1.7 its section replaces those before."""
    main = ConfigFile("a", f'version = 2\n[plugins."{SECTION}"]\ndisable = true\n')
    drop_in = ConfigFile("b", f'version = 2\n[plugins."{SECTION}"]\nsocket_path = "/x"\n')
    last = ConfigFile("c", "version = 2\n")
    changed = switch_on([main, drop_in, last], 1)
    assert changed == {
        "a": main.text.replace("true", "false"),
        "b": drop_in.text + "disable = false\n",
    }


def test_with_nri_on_by_default_only_what_switches_it_off_is_changed() -> None:
    main = ConfigFile("a", "version = 3\n")
    drop_in = ConfigFile("b", f'version = 3\n[plugins."{SECTION}"]\ndisable = true\n')
    assert switch_on([main, drop_in], 2) == {"b": drop_in.text.replace("true", "false")}


def test_only_keys_that_still_have_our_value_are_set_back() -> None:
    base = f'version = 2\n[plugins."{SECTION}"]\ndisable = true\ndisable_connections = true\n'
    text = base.replace("disable = true", "disable = false") + 'socket_path = "/theirs"\n'
    assert undo(ConfigFile("f", text), base) == base + 'socket_path = "/theirs"\n'


def test_an_appended_section_is_cut_out_again() -> None:
    base = "version = 2\n"
    (changed,) = switch_on([ConfigFile("f", base)], 1).values()
    theirs = '[debug]\nlevel = "info"\n'
    assert undo(ConfigFile("f", changed + theirs), base) == base + theirs


@pytest.mark.parametrize(
    ("data", "place"),
    [
        (b"version = 2\nroot = = 3\n", "f:2:8"),
        (b"version = 2\nversion = 3\n", "f:2:12"),
        (b'version = 2\nroot = """', "f:2:11"),
        (b"version = 2\nroot = '\xff'\n", "f:2:9"),
    ],
)
def test_what_is_no_toml_is_refused_with_its_place(data: bytes, place: str) -> None:
    with pytest.raises(ConfigSyntaxError) as caught:
        parse_toml("f", data)
    assert str(caught.value).startswith(place + ": ")


def test_a_list_of_disabled_plugins_is_the_users_to_change() -> None:
    file = ConfigFile("f", f'version = 2\ndisabled_plugins = ["{SECTION}"]\n')
    with pytest.raises(UnsupportedError, match="f: disabled_plugins names"):
        switch_on([file], 2)


def test_a_key_of_another_type_is_refused() -> None:
    file = ConfigFile("f", f'version = 2\n[plugins."{SECTION}"]\ndisable = "yes"\n')
    with pytest.raises(ConfigEditError, match="is no boolean"):
        switch_on([file], 1)
