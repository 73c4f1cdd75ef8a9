# SPDX-License-Identifier: Apache-2.0
"""What the reader makes of actions and their parameters."""

from typing import Any

import pytest

from agent.policy.model import Action, ActionKind, RateScope
from tests.support.policy_text import errors_of, kprobe_text, read_policy, read_selector


def _action(action: dict[str, Any], **spec: Any) -> Action:
    """One action of a system call."""
    kprobe = {"call": "openat", "selectors": [{"matchActions": [action]}]}
    (found,) = read_policy(kprobes=[kprobe], **spec).hooks[0].selectors[0].actions
    return found


_ENFORCERS = [{"calls": ["openat"]}]


@pytest.mark.parametrize(
    ("action", "expected"),
    [
        ({"action": "Post"}, Action(ActionKind.POST)),
        ({"action": "Post", "rateLimit": "5"}, Action(ActionKind.POST, rate_ms=5000)),
        ({"action": "Post", "rateLimit": "5s"}, Action(ActionKind.POST, rate_ms=5000)),
        ({"action": "Post", "rateLimit": "5m"}, Action(ActionKind.POST, rate_ms=300_000)),
        ({"action": "Post", "rateLimit": "2h"}, Action(ActionKind.POST, rate_ms=7_200_000)),
        (
            {"action": "Post", "rateLimit": "1", "rateLimitScope": "global"},
            Action(ActionKind.POST, rate_ms=1000, rate_scope=RateScope.GLOBAL),
        ),
        ({"action": "Post", "rateLimitScope": "thread", "argError": 0, "argUrl": ""}, Action(ActionKind.POST)),
        (
            {"action": "Post", "kernelStackTrace": True, "userStackTrace": True},
            Action(ActionKind.POST, kernel_stack=True, user_stack=True),
        ),
        ({"action": "NoPost"}, Action(ActionKind.NO_POST)),
        ({"action": "Sigkill"}, Action(ActionKind.SIGKILL)),
        ({"action": "Signal", "argSig": 64}, Action(ActionKind.SIGNAL, 64)),
        ({"action": "Override", "argError": -1}, Action(ActionKind.OVERRIDE, error=1)),
        ({"action": "Override", "argError": 4095}, Action(ActionKind.OVERRIDE, error=4095)),
        ({"action": "NotifyEnforcer", "argError": -1}, Action(ActionKind.NOTIFY_ENFORCER, error=1)),
        ({"action": "NotifyEnforcer", "argError": 0, "argSig": 9}, Action(ActionKind.NOTIFY_ENFORCER, 9)),
        ({"action": "CleanupEnforcerNotification"}, Action(ActionKind.CLEANUP_ENFORCER)),
        ({"action": "GetUrl", "argUrl": "http://a/b?c"}, Action(ActionKind.GET_URL, text="http://a/b?c")),
        ({"action": "DnsLookup", "argFqdn": "A.example."}, Action(ActionKind.DNS_LOOKUP, text="A.example.")),
    ],
)
def test_actions(action: dict[str, Any], expected: Action) -> None:
    assert _action(action, enforcers=_ENFORCERS) == expected


@pytest.mark.parametrize("number", [0, 65, -1])
def test_signals_are_1_to_64(number: int) -> None:
    (error,) = errors_of(kprobe_text(selectors=[{"matchActions": [{"action": "Signal", "argSig": number}]}]))
    assert error.what == "argSig is out of range"


def test_several_signals_and_requests_may_stand_in_one_selector() -> None:
    actions: list[dict[str, Any]] = [{"action": "Signal", "argSig": number} for number in (1, 64)]
    actions += [{"action": "GetUrl", "argUrl": f"http://a/{number}"} for number in (1, 2)]
    found = read_selector({"matchActions": actions})
    assert found.signals == (1, 64)
    assert [action.text for action in found.actions[2:]] == ["http://a/1", "http://a/2"]


def _uprobe_action(action: dict[str, Any]) -> Action:
    uprobe = {"path": "/a", "symbols": ["f"], "selectors": [{"matchActions": [{"action": "Override", **action}]}]}
    return read_policy(uprobes=[uprobe]).hooks[0].selectors[0].actions[0]


@pytest.mark.parametrize(
    ("action", "expected"),
    [
        (
            {"argRegs": ["rax=11", "rip=(%rsp)", "rsp=8%rsp", "rbx = -0x1", "r15=%rdi", "rcx=-8(%rbp)"]},
            Action(
                ActionKind.OVERRIDE,
                registers=("rax=11", "rip=(%rsp)", "rsp=8%rsp", "rbx=-0x1", "r15=%rdi", "rcx=-8(%rbp)"),
            ),
        ),
        ({"argNewSymbol": "other"}, Action(ActionKind.OVERRIDE, new_symbol="other")),
        ({"argNewAddr": 4096, "argNewSymbol": ""}, Action(ActionKind.OVERRIDE, new_address=4096)),
        ({"argNewOffset": 16, "argRegs": []}, Action(ActionKind.OVERRIDE, new_offset=16)),
    ],
)
def test_override_of_a_uprobe(action: dict[str, Any], expected: Action) -> None:
    assert _uprobe_action(action) == expected


def test_set_names_the_place_of_an_argument() -> None:
    usdt = {
        "path": "/a",
        "provider": "p",
        "name": "n",
        "args": [{"index": 3, "type": "string"}, {"index": 2, "type": "int32"}],
        "selectors": [{"matchActions": [{"action": "Set", "argIndex": 2, "argValue": 0xFFFFFFFF}]}],
    }
    action = read_policy(usdts=[usdt]).hooks[0].selectors[0].actions[0]
    assert action == Action(ActionKind.SET, position=1, value=0xFFFFFFFF)


def test_sockets_are_tracked_by_the_argument() -> None:
    hook = {
        "call": "tcp_connect",
        "syscall": False,
        "args": [{"index": 2, "type": "sock"}],
        "selectors": [{"matchActions": [{"action": "TrackSock", "argSock": 2}]}],
    }
    assert read_policy(kprobes=[hook]).hooks[0].selectors[0].actions == (Action(ActionKind.TRACK_SOCK, sock=2),)


def test_digest_of_a_file_is_known_at_some_hooks() -> None:
    for hook in ("file_open", "bprm_check_security", "mmap_file"):
        entry = {"hook": hook, "selectors": [{"matchActions": [{"action": "Post", "imaHash": True}]}]}
        assert read_policy(lsmhooks=[entry]).hooks[0].selectors[0].actions[0].ima_hash


def test_policy_enforces_at_the_return_too() -> None:
    kprobe = {
        "call": "openat",
        "return": True,
        "returnArg": {"type": "int"},
        "selectors": [{"matchReturnActions": [{"action": "Sigkill"}]}],
    }
    policy = read_policy(kprobes=[kprobe])
    assert policy.enforces
    assert policy.hooks[0].return_selectors == ((0, policy.hooks[0].selectors[0]),)
