# SPDX-License-Identifier: Apache-2.0
"""Text to policies.

Theory of operation. The text becomes nodes (`document`), each node is checked against the fields that the custom
resource has (`schemas`) and read into the model. Faults are collected, not raised one by one: a reader returns None
for what it cannot read and goes on with the rest, and `parse_policies` raises at the end, so that a policy with
a fault never reaches anybody. What is not supported is an error by name, because a policy that is half obeyed
guards less than its author believes.
"""

from agent.policy import schemas
from agent.policy.digest import digest_content
from agent.policy.document import Node, Scalar, parse_documents
from agent.policy.errors import Problems, quote
from agent.policy.fields import Fields, nearest, one_of, open_fields, read_word
from agent.policy.labels import LabelSelectorReader
from agent.policy.model import (
    Arg,
    ArgType,
    LabelSelector,
    Policy,
    PolicyKey,
    PolicyKind,
    Selector,
    Source,
    SyscallHook,
)
from agent.policy.selectors import MAX_ARG_INDEX, SelectorReader
from agent.policy.syscalls import NUMBERS, bare_name, parse_call
from agent.policy.values import is_dns_label, is_dns_subdomain

API_VERSION = "cilium.io/v1alpha1"
# What kubectl takes for a namespaced object that names no namespace, with its default context.
DEFAULT_NAMESPACE = "default"

_KINDS = {kind.value: kind for kind in PolicyKind}
_ARG_TYPES = {arg_type.value: arg_type for arg_type in ArgType}


def parse_policies(text: bytes, file: str) -> tuple[Policy, ...]:
    """The policies in a YAML or JSON text, in order; empty documents are skipped.

    `text` is at most `document.MAX_FILE_BYTES` of UTF-8, `file` is only for messages. Raises PolicyErrors with
    every fault that could be found.
    """
    problems = Problems()
    policies: dict[PolicyKey, Policy] = {}
    for node in parse_documents(text, file, problems):
        policy = _Reader(problems).policy(node)
        if policy is not None:
            _check_unique(policy, policies, problems)
            policies[policy.key] = policy
    problems.check()
    return tuple(policies.values())


def _check_unique(policy: Policy, policies: dict[PolicyKey, Policy], problems: Problems) -> None:
    if first := policies.get(policy.key):
        what = f"the policy {policy.key} is in the file twice (first in line {first.source.line})"
        problems.report(policy.source, what, "give it another name")


class _Reader:
    """Reads one document."""

    def __init__(self, problems: Problems) -> None:
        self._problems = problems

    def policy(self, node: Node) -> Policy | None:
        """The policy of a document, None when something essential is missing (and was reported)."""
        fields = open_fields(node, schemas.DOCUMENT, self._problems)
        if fields is None:
            return None
        kind = self._kind(fields)
        if not self._check_version(fields) or kind is None:
            return None
        key = self._metadata(fields, kind)
        spec = fields.required("spec")
        spec_fields = None if spec is None else open_fields(spec, schemas.SPEC, self._problems)
        if spec_fields is None:
            return None
        hooks = self._hooks(spec_fields)
        pods = self._pod_selector(spec_fields)
        if key is None:
            return None
        digest = digest_content(kind, key.name, key.namespace, hooks, pods)
        return Policy(kind, key.name, key.namespace, hooks, pods, fields.source, digest)

    def _check_version(self, fields: Fields) -> bool:
        scalar = fields.string("apiVersion", required=True)
        if scalar is None or scalar.text == API_VERSION:
            return scalar is not None
        self._problems.report(scalar.source, f"unknown apiVersion {quote(scalar.text)}", f"write {API_VERSION}")
        return False

    def _kind(self, fields: Fields) -> PolicyKind | None:
        scalar = fields.string("kind", required=True)
        return None if scalar is None else read_word(scalar, "kind", _KINDS, ("PodInfo",), self._problems)

    def _metadata(self, fields: Fields, kind: PolicyKind) -> PolicyKey | None:
        node = fields.required("metadata")
        metadata = None if node is None else open_fields(node, schemas.METADATA, self._problems)
        if metadata is None:
            return None
        name = metadata.string("name", required=True)
        namespace = self._namespace(metadata, kind)
        if name is None:
            return None
        if not is_dns_subdomain(name.text):
            advice = "write at most 253 lower case letters, digits, '-' and '.', as in a DNS name"
            self._problems.report(name.source, f"{quote(name.text)} is not a policy's name", advice)
        return PolicyKey(namespace, name.text)

    def _namespace(self, metadata: Fields, kind: PolicyKind) -> str | None:
        scalar = metadata.string("namespace")
        if scalar is None or not scalar.text:
            return DEFAULT_NAMESPACE if kind is PolicyKind.NAMESPACED else None
        if kind is PolicyKind.CLUSTER:
            what = "a TracingPolicy is cluster-wide and has no namespace"
            advice = "leave it out or use kind TracingPolicyNamespaced"
            self._problems.report(metadata.key_source("namespace"), what, advice)
            return None
        if not is_dns_label(scalar.text):
            what = f"{quote(scalar.text)} is not a namespace's name"
            advice = "write at most 63 lower case letters, digits and '-'"
            self._problems.report(scalar.source, what, advice)
        return scalar.text

    def _pod_selector(self, spec: Fields) -> LabelSelector | None:
        node = spec.node("podSelector")
        return None if node is None else LabelSelectorReader(self._problems).read(node)

    def _hooks(self, spec: Fields) -> tuple[SyscallHook, ...]:
        items = spec.items("kprobes")
        if not items and (spec.node("kprobes") is None or spec.is_list("kprobes")):
            what = "the policy has no kprobes"
            self._problems.report(spec.key_source("kprobes"), what, "list at least one system call under kprobes")
        hooks = [_HookReader(self._problems).hook(item) for item in items]
        return tuple(hook for hook in hooks if hook)


class _HookReader:
    """Reads one kprobe."""

    def __init__(self, problems: Problems) -> None:
        self._problems = problems

    def hook(self, node: Node) -> SyscallHook | None:
        fields = open_fields(node, schemas.KPROBE, self._problems)
        if fields is None:
            return None
        syscall = self._call(fields)
        self._check_return(fields)
        types: dict[int, ArgType | None] = {}
        args = [self._arg(item, types) for item in fields.items("args")]
        reader = SelectorReader(types, self._problems)
        selectors = [reader.read(item) for item in fields.items("selectors")] or [Selector()]
        if syscall is None:
            return None
        return SyscallHook(
            parse_call(syscall.text) or "",
            syscall.text,
            tuple(arg for arg in args if arg),
            tuple(selector for selector in selectors if selector),
            fields.source,
        )

    def _call(self, fields: Fields) -> Scalar | None:
        call = fields.string("call", required=True)
        is_syscall = fields.boolean("syscall", default=True)
        if is_syscall is False:
            what = "syscall: false, a hook on a kernel function, is not supported yet"
            self._problems.report(fields.key_source("syscall"), what, "name a system call and leave syscall out")
        elif call is not None and parse_call(call.text) is None:
            self._report_call(call)
        return call

    def _report_call(self, call: Scalar) -> None:
        if call.text.startswith("list:"):
            what, advice = "a list as call is not supported yet", "write one kprobe for each system call"
        elif call.text.startswith("__") and "_sys_" in call.text and not call.text.startswith("__x64_sys_"):
            what = f"{quote(call.text)}, a system call of another architecture, is not supported yet"
            advice = "write the bare name for the native x86_64 call"
        else:
            what = f"unknown system call {quote(call.text)}"
            found = nearest(bare_name(call.text), NUMBERS, count=3)
            advice = f"did you mean {one_of(found)}?" if found else "write the name of an x86_64 system call"
        self._problems.report(call.source, what, advice)

    def _check_return(self, fields: Fields) -> None:
        if fields.boolean("return", default=False):
            what = "return: true is not supported yet"
            self._problems.report(fields.key_source("return"), what, "leave it out")

    def _arg(self, node: Node, types: dict[int, ArgType | None]) -> Arg | None:
        """One argument; notes its type in `types`."""
        fields = open_fields(node, schemas.ARG, self._problems)
        if fields is None:
            return None
        index = fields.integer("index", 0, MAX_ARG_INDEX, required=True)
        arg_type = self._type(fields)
        size_arg = self._size_arg(fields, index, arg_type)
        if index is None:
            return None
        if index in types:
            what = f"argument {index} is declared twice"
            self._problems.report(fields.key_source("index"), what, "keep one of them")
            return None
        types[index] = arg_type
        return None if arg_type is None else Arg(index, arg_type, size_arg)

    def _type(self, fields: Fields) -> ArgType | None:
        scalar = fields.string("type", required=True)
        if scalar is None:
            return None
        return read_word(scalar, "argument type", _ARG_TYPES, schemas.UNSUPPORTED_ARG_TYPES, self._problems)

    def _size_arg(self, fields: Fields, index: int | None, arg_type: ArgType | None) -> int | None:
        """The 0-based argument that holds the length; in the policy it counts from 1, and 0 means none."""
        number = fields.integer("sizeArgIndex", 0, MAX_ARG_INDEX + 1)
        source = fields.key_source("sizeArgIndex")
        if arg_type is None:
            return None
        if arg_type is not ArgType.CHAR_BUF:
            if number:
                self._problems.report(source, f"sizeArgIndex has no meaning for type {arg_type.value}", "leave it out")
            return None
        if not number:
            self._report_no_size(fields, source)
            return None
        if number - 1 == index:
            what = "sizeArgIndex names the buffer itself"
            self._problems.report(source, what, "it counts from 1: write the length's index plus one")
        return number - 1

    def _report_no_size(self, fields: Fields, source: Source) -> None:
        if fields.node("sizeArgIndex") is None or fields.integer("sizeArgIndex", 0, 0) == 0:
            what = "a char_buf needs sizeArgIndex, the argument with its length"
            self._problems.report(source, what, "it counts from 1: write the length's index plus one")
