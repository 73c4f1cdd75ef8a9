# SPDX-License-Identifier: Apache-2.0
"""Text to policies.

Theory of operation. The text becomes nodes (`document`), each node is checked against the fields that the custom
resource has (`schemas`, from the field table) and read into the model by the reader of its part: `lists`,
`read_options`, `read_hooks` and `read_user_hooks`, and below these `read_args`, `selectors`, `read_matches`,
`read_filters` and `read_actions`. Faults are collected, not raised one by one: a reader returns None for what it
cannot read and goes on with the rest, and `parse_policies` raises at the end, so that a policy with a fault never
reaches anybody. What is not supported is an error by name, because a policy that is half obeyed guards less than its
author believes. Nothing here depends on the node: what does is `resolve`'s.
"""

from collections.abc import Callable
from dataclasses import replace
from types import MappingProxyType

from agent.policy import schemas
from agent.policy.context import Budget, Context
from agent.policy.digest import digest_policy
from agent.policy.document import Mapping, Node, parse_documents
from agent.policy.errors import Problems, quote
from agent.policy.fields import Fields, describe, one_of, open_fields
from agent.policy.labels import LabelSelectorReader
from agent.policy.lists import ListsReader
from agent.policy.model import Hook, Policy, PolicyKey, PolicyKind, PolicyMode
from agent.policy.read_filters import FilterReader
from agent.policy.read_hooks import KernelHookReader
from agent.policy.read_options import MODE, read_enforcers, read_options
from agent.policy.read_user_hooks import UserHookReader
from agent.policy.read_workloads import WorkloadReader
from agent.policy.spec import API_VERSION
from agent.policy.values import is_dns_label, is_dns_subdomain

# What kubectl takes for a namespaced object that names no namespace, with its default context.
DEFAULT_NAMESPACE = "default"

_KINDS = {kind.value: kind for kind in PolicyKind}
_SECTIONS = ("kprobes", "tracepoints", "uprobes", "usdts", "lsmhooks", "fentries")


def parse_policies(text: bytes, file: str) -> tuple[Policy, ...]:
    """The policies in a YAML or JSON text, in order; empty documents are skipped.

    `text` is at most `document.MAX_FILE_BYTES` of UTF-8, `file` is only for messages. Raises PolicyErrors with
    every fault that could be found.
    """
    problems = Problems()
    budget = Budget(problems)
    policies: dict[PolicyKey, Policy] = {}
    for node in parse_documents(text, file, problems):
        policy = _Reader(problems, budget).policy(node)
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

    def __init__(self, problems: Problems, budget: Budget) -> None:
        self._problems = problems
        self._budget = budget

    def policy(self, node: Node) -> Policy | None:
        """The policy of a document, None when something essential is missing (and was reported)."""
        fields = open_fields(node, schemas.DOCUMENT, self._problems)
        if fields is None:
            return None
        kind = fields.word("kind", "kind", _KINDS)
        if not self._check_version(fields) or kind is None:
            return None
        key = self._metadata(fields, kind)
        spec_node = fields.required("spec")
        spec = None if spec_node is None else open_fields(spec_node, schemas.SPEC, self._problems)
        if spec is None:
            return None
        policy = self._spec(spec, kind, key or PolicyKey(None, ""))
        return None if key is None else replace(policy, source=fields.source, text_digest=digest_policy(policy))

    def _check_version(self, fields: Fields) -> bool:
        scalar = fields.string("apiVersion", required=True)
        if scalar is None or scalar.text == API_VERSION:
            return scalar is not None
        self._problems.report(scalar.source, f"unknown apiVersion {quote(scalar.text)}", f"write {API_VERSION}")
        return False

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

    def _spec(self, spec: Fields, kind: PolicyKind, key: PolicyKey) -> Policy:
        context, enforcers = self._context(spec, kind)
        options = read_options(spec.items("options"), self._problems)
        mode = PolicyMode(options.pop(MODE, PolicyMode.ENFORCE.value))
        nodes = spec.node("nodeSelector")
        return Policy(
            kind=kind,
            name=key.name,
            namespace=key.namespace,
            hooks=self._hooks(spec, context),
            workloads=WorkloadReader(context).read(spec),
            source=spec.source,
            text_digest="",
            mode=mode,
            nodes=None if nodes is None else LabelSelectorReader(self._problems).read(nodes),
            enforcers=enforcers,
            options=MappingProxyType(options),
        )

    def _context(self, spec: Fields, kind: PolicyKind) -> tuple[Context, tuple[str, ...]]:
        """What all hooks are read with, and the calls of the enforcers."""
        lists = ListsReader(self._problems).read(spec.items("lists"))
        context = Context(self._problems, self._budget, kind, lists)
        enforcers = read_enforcers(spec.items("enforcers"), context)
        macros = self._macros(spec, context)
        return replace(context, macros=macros, has_enforcers=bool(spec.items("enforcers"))), enforcers

    def _macros(self, spec: Fields, context: Context) -> dict[str, Mapping]:
        """The selector macros. What of them does not depend on a hook is checked here, used or not."""
        node = spec.node("selectorsMacros")
        if node is None:
            return {}
        if not isinstance(node, Mapping):
            what = f"selectorsMacros must be a mapping and is {describe(node)}"
            self._problems.report(node.source, what, "write name: and the filters below it")
            return {}
        macros: dict[str, Mapping] = {}
        for name, entry in node.entries.items():
            fields = open_fields(entry.value, schemas.SELECTOR_MACRO, self._problems)
            if fields is not None and isinstance(entry.value, Mapping):
                _check_filters(fields, context)
                macros[name] = entry.value
        return macros

    def _hooks(self, spec: Fields, context: Context) -> tuple[Hook, ...]:
        kernel, user = KernelHookReader(context), UserHookReader(context)
        readers: dict[str, Callable[[Node, str], Hook | None]] = dict(
            zip(
                _SECTIONS,
                (kernel.kprobe, kernel.tracepoint, user.uprobe, user.usdt, kernel.lsm_hook, kernel.fentry),
                strict=True,
            )
        )
        found: list[Hook | None] = []
        for name, read in readers.items():
            found += [read(node, f"{name}[{number}]") for number, node in enumerate(spec.items(name))]
        # A section that is no list was reported.
        if not found and not any(spec.node(name) is not None and not spec.is_list(name) for name in _SECTIONS):
            given = next((name for name in _SECTIONS if spec.is_list(name)), "")
            spec.report(given, "the policy hooks nothing", f"list at least one hook under {one_of(_SECTIONS)}")
        return tuple(hook for hook in found if hook)


def _check_filters(fields: Fields, context: Context) -> None:
    reader = FilterReader(context)
    reader.pids(fields)
    reader.binaries(fields)
    reader.parent_binaries(fields)
    reader.namespaces(fields)
    reader.namespace_changes(fields)
    reader.capabilities(fields)
    reader.capability_changes(fields)
    WorkloadReader(context).match(fields)
