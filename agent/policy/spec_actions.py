# SPDX-License-Identifier: Apache-2.0
"""The field table of actions."""

from agent.policy.model import SIGKILL, ActionKind, RateScope
from agent.policy.spec_types import BOOLEAN, INTEGER, MAX_ADDRESS, MAX_U32, STRING, Field, ListOf, Rule, Struct
from agent.policy.spec_words import words

# _NSIG of x86_64, include/uapi/asm-generic/signal.h.
MAX_SIGNAL = 64
# MAX_ERRNO of include/linux/err.h.
MAX_ERRNO = 4095


_NEW_PLACES = " + ".join(f"(has(self.{name}) ? 1 : 0)" for name in ("argNewSymbol", "argNewAddr", "argNewOffset"))

ACTION_SELECTOR = Struct(
    "ActionSelector",
    "an action",
    "One thing that is done when the selector matches.",
    (
        Field(
            "action",
            STRING,
            "`Post` makes an event, which every match does anyway unless `NoPost` is there; it is written for its "
            "parameters. `Sigkill` and `Signal` send a signal to the calling process. `Override` has the call return "
            "an error without being carried out. `NotifyEnforcer` and `CleanupEnforcerNotification` tell the "
            "`enforcers` and take it back. `TrackSock` makes the process the owner of a socket: tracepoints and "
            "functions of the kernel that look at that socket are asked of it from then on, whatever runs; "
            "`UntrackSock` forgets it. `GetUrl` and `DnsLookup` make the agent ask a server. `Set` writes a USDT "
            "probe's argument.",
            required=True,
            enum=words(ActionKind),
            note="A node that cannot do `Override` at a hook refuses the policy.",
        ),
        Field(
            "argError",
            INTEGER,
            "`Override`, `NotifyEnforcer`: the error that the call returns, as `-1` for EPERM.",
            minimum=-MAX_ERRNO,
            maximum=MAX_ERRNO,
            note="Both signs are understood.",
        ),
        Field(
            "argSig",
            INTEGER,
            f"`Signal`, `NotifyEnforcer`: the signal's number ({SIGKILL} is SIGKILL).",
            minimum=0,
            maximum=MAX_SIGNAL,
        ),
        Field(
            "argSock",
            INTEGER,
            "`TrackSock`, `UntrackSock`: the argument that is the socket, a `sock` or `socket`, by its `index`.",
            minimum=0,
            maximum=MAX_U32,
        ),
        Field(
            "argUrl",
            STRING,
            "`GetUrl`: what to fetch; required there.",
            pattern="^(https?://.+)?$",
            note="Done by the agent, bounded in number and time, and only where the agent is told to allow it.",
        ),
        Field(
            "argFqdn",
            STRING,
            "`DnsLookup`: the name to look up; required there.",
            note="Done by the agent, bounded in number and time, and only where the agent is told to allow it.",
        ),
        Field(
            "argIndex",
            INTEGER,
            "`Set`: the argument to write, by its `index`.",
            minimum=0,
            maximum=MAX_U32,
        ),
        Field("argValue", INTEGER, "`Set`: the 32 bits to write.", minimum=0, maximum=MAX_U32),
        Field(
            "argRegs",
            ListOf(STRING),
            "`Override` of a uprobe: registers and what to put into them (`rax=11`, `rip=8(%rsp)`).",
        ),
        Field("argNewSymbol", STRING, "`Override` of a uprobe: the symbol to go on at."),
        Field(
            "argNewAddr",
            INTEGER,
            "`Override` of a uprobe: the virtual address to go on at.",
            minimum=0,
            maximum=MAX_ADDRESS,
        ),
        Field(
            "argNewOffset",
            INTEGER,
            "`Override` of a uprobe: the offset in the file to go on at.",
            minimum=0,
            maximum=MAX_ADDRESS,
        ),
        Field(
            "rateLimit",
            STRING,
            "`Post`: the least time between two equal events: a number of seconds, or one with `s`, `m` or `h`.",
            pattern="^([0-9]{1,10}[smh]?)?$",
        ),
        Field(
            "rateLimitScope",
            STRING,
            "`Post`: whose events are compared: those of one thread (when absent), of one process, or all.",
            enum=words(RateScope),
        ),
        Field("kernelStackTrace", BOOLEAN, "`Post`: the event has the kernel's stack.", default=False),
        Field("userStackTrace", BOOLEAN, "`Post`: the event has the process's stack.", default=False),
        Field(
            "imaHash",
            BOOLEAN,
            "`Post` of an LSM hook: the event has the file's IMA digest.",
            default=False,
            note="Refused when the policy is added: the kernel gives it only to programs that may sleep.",
        ),
        Field("argFd", INTEGER, "Of an action that no longer exists.", refused="no action uses it any more"),
        Field("argName", INTEGER, "Of an action that no longer exists.", refused="no action uses it any more"),
    ),
    (
        Rule("self.action != 'Signal' || has(self.argSig)", "Signal needs argSig, the signal's number"),
        Rule(f"{_NEW_PLACES} <= 1", "give one of argNewSymbol, argNewAddr and argNewOffset"),
    ),
)
