# SPDX-License-Identifier: Apache-2.0
"""Switching NRI on in containerd's configuration. Pure: text to text, comments and formatting kept.

How containerd reads it (config.LoadConfig in its sources; tried with 1.7.24 and 2.1.9):

- The file, then what it imports, then what those import: later files win. In 1.7 a plugin's section in a later file
  replaces the whole section of earlier ones, defaults included; in 2.x they are merged by key.
- A file without a version has version 1, where a plugin's section is named by its short id. 2.x does not look there.
- NRI is off by default before 2.0, and on since. `disable_connections` refuses plugins that are not pre-installed.

So every `true` of the two keys is made `false`, and where the default is off, the last file with a section says so.
"""

from __future__ import annotations

import copy
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tomlkit
from tomlkit.items import AbstractTable

from rthook.install.errors import ConfigEditError, ConfigSyntaxError, UnsupportedError

SECTION = "io.containerd.nri.v1.nri"
SECTION_V1 = "nri"
DISABLE = "disable"
KEYS = (DISABLE, "disable_connections")
NRI_DEFAULTS: Mapping[str, Any] = {
    "disable_connections": False,
    "socket_path": "/var/run/nri/nri.sock",
    "plugin_path": "/opt/nri/plugins",
    "plugin_config_path": "/etc/nri/conf.d",
}
FIRST_WITH_NRI = (1, 7)
NRI_ON_SINCE = 2
# For a containerd that has no configuration at all: version 2 is read by 1.x and 2.x alike.
CREATED = f"""\
# Written by podgate hooks install.
version = 2

[plugins."{SECTION}"]
  disable = false
"""

_PLACE = re.compile(
    r"^(?P<reason>.*) \(at (?:line (?P<line>\d+), column (?P<column>\d+)|end of document)\)$", re.DOTALL
)
_Data = dict[str, Any]


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """A file's path on the host and its text."""

    path: str
    text: str


def parse_toml(path: str, data: bytes) -> tuple[str, _Data]:
    """The text and what it says; ConfigSyntaxError with the place."""
    try:
        text = data.decode()
        return text, tomllib.loads(text)
    except UnicodeDecodeError as error:
        before = data[: error.start]
        line, column = before.count(b"\n") + 1, error.start - before.rfind(b"\n")
        raise ConfigSyntaxError(path, line, column, "not UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        found = _PLACE.match(str(error))
        reason = found["reason"] if found else str(error)
        lines = text.split("\n")
        end = (len(lines), len(lines[-1]) + 1)
        line, column = (int(found["line"]), int(found["column"])) if found and found["line"] else end
        raise ConfigSyntaxError(path, line, column, reason) from error


def import_patterns(data: _Data) -> tuple[str, ...]:
    imports = data.get("imports", [])
    return tuple(item for item in imports if isinstance(item, str)) if isinstance(imports, list) else ()


def nri_section(data: _Data, name: str = SECTION) -> _Data | None:
    """None when the file has no such section."""
    plugins = data.get("plugins")
    section = plugins.get(name) if isinstance(plugins, dict) else None
    return section if isinstance(section, dict) else None


def switch_on(files: Sequence[ConfigFile], major: int | None) -> dict[str, str]:
    """The files that must change: path to new text. `files` in the order of loading, the main one first.

    `major` is containerd's, None when it is not known. ConfigEditError, UnsupportedError.
    """
    data = [tomllib.loads(file.text) for file in files]
    version = data[0].get("version", 1)
    off_by_default = major < NRI_ON_SINCE if major is not None else version < 3
    name = SECTION_V1 if version == 1 and off_by_default else SECTION
    for file, content in zip(files, data, strict=True):
        _refuse_disabled_plugin(file, content)
    changes = [_true_keys(file, content, name) for file, content in zip(files, data, strict=True)]
    if off_by_default:
        owner = max((i for i, content in enumerate(data) if nri_section(content, name) is not None), default=0)
        section = nri_section(data[owner], name) or {}
        if section.get(DISABLE) is not False:
            changes[owner] = tuple(dict.fromkeys((DISABLE, *changes[owner])))
    return {
        file.path: set_keys(file, name, dict.fromkeys(keys, False))
        for file, keys in zip(files, changes, strict=True)
        if keys
    }


def _refuse_disabled_plugin(file: ConfigFile, data: _Data) -> None:
    listed = data.get("disabled_plugins", [])
    for name in (SECTION, SECTION_V1):
        if name in listed:
            what = f"{file.path}: disabled_plugins names {name!r}"
            raise UnsupportedError(what, "take it out of that list: no other key switches the plugin on")


def _true_keys(file: ConfigFile, data: _Data, name: str) -> tuple[str, ...]:
    section = nri_section(data, name) or {}
    for key in KEYS:
        if not isinstance(section.get(key, False), bool):
            raise ConfigEditError(file.path, f"{key} of {name} is no boolean", "correct it")
    return tuple(key for key in KEYS if section.get(key) is True)


def set_keys(file: ConfigFile, name: str, values: dict[str, bool | None]) -> str:
    """The text with keys of a plugin's section set, or with None, removed, and an emptied section with them.

    ConfigEditError when that cannot be done, and the text is as it was.
    """
    wanted = _expected(tomllib.loads(file.text), name, values)
    for edit in (_append_section, _cut_section, _edit_document):
        text = edit(file.text, name, values)
        if text is not None and _says(text, wanted):
            return text
    settings = ", ".join(f"{key} = {str(value).lower()}" for key, value in values.items() if value is not None)
    reason = "its form cannot be kept while it is edited"
    raise ConfigEditError(file.path, reason, f'set {settings} in [plugins."{name}"] by hand')


def _expected(data: _Data, name: str, values: dict[str, bool | None]) -> _Data:
    wanted = copy.deepcopy(data)
    section = wanted.setdefault("plugins", {}).setdefault(name, {})
    for key, value in values.items():
        if value is None:
            section.pop(key, None)
        else:
            section[key] = value
    return wanted


def _says(text: str, wanted: _Data) -> bool:
    """An emptied section and a missing one say the same."""
    try:
        return _without_empty(tomllib.loads(text)) == _without_empty(wanted)
    except tomllib.TOMLDecodeError:
        return False


def _without_empty(data: _Data) -> _Data:
    plugins = {name: section for name, section in data.get("plugins", {}).items() if section != {}}
    return {key: value for key, value in data.items() if key != "plugins"} | ({"plugins": plugins} if plugins else {})


def _append_section(text: str, name: str, values: dict[str, bool | None]) -> str | None:
    """A section at the end, where the file has none; None when it has one."""
    if nri_section(tomllib.loads(text), name) is not None:
        return None
    gap = _newline(text) * (0 if not text else 1 if text.endswith("\n") else 2)
    return text + gap + _render_section(text, name, values)


def _cut_section(text: str, name: str, values: dict[str, bool | None]) -> str | None:
    """The section that _append_section wrote goes as a whole, with the blank line before it."""
    block = _render_section(text, name, dict.fromkeys(values, False))
    for cut in (_newline(text) + block, block):
        if text.count(cut) == 1:
            return text.replace(cut, "")
    return None


def _render_section(text: str, name: str, values: dict[str, bool | None]) -> str:
    lines = [f'[plugins."{name}"]', *(f"  {key} = {str(value).lower()}" for key, value in values.items())]
    return "".join(line + _newline(text) for line in lines)


def _newline(text: str) -> str:
    return "\r\n" if "\r\n" in text else "\n"


def _edit_document(text: str, name: str, values: dict[str, bool | None]) -> str | None:
    """None when the text does not survive being read and written, or has nothing to edit."""
    document = tomlkit.parse(text)
    plugins = document.get("plugins")
    if tomlkit.dumps(document) != text or plugins is None:
        return None
    section = plugins.setdefault(name, {})
    for key, value in values.items():
        if value is not None:
            section[key] = value
        elif key in section:
            del section[key]
    if isinstance(section, AbstractTable) and not section:
        del plugins[name]
    return str(tomlkit.dumps(document))


def undo(file: ConfigFile, base: str) -> str:
    """The text with our keys as they are in `base`, where they still have the value that we gave them."""
    now, before = tomllib.loads(file.text), tomllib.loads(base)
    text = file.text
    for name in (SECTION, SECTION_V1):
        section, old = nri_section(now, name), nri_section(before, name) or {}
        ours = [key for key in KEYS if section is not None and section.get(key) is False and old.get(key) is not False]
        if ours:
            text = set_keys(ConfigFile(file.path, text), name, {key: old.get(key) for key in ours})
    return text
