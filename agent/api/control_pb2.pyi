# SPDX-License-Identifier: Apache-2.0
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union
from typing import Any as _Any

DESCRIPTOR: _descriptor.FileDescriptor

class AddPoliciesRequest(_message.Message):
    __slots__ = ("file", "text", "mode")
    FILE_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    file: str
    text: bytes
    mode: str
    def __init__(self, file: _Optional[str] = ..., text: _Optional[bytes] = ..., mode: _Optional[str] = ...) -> None: ...

class SetPolicyModeRequest(_message.Message):
    __slots__ = ("name", "namespace", "mode")
    NAME_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    name: str
    namespace: str
    mode: str
    def __init__(self, name: _Optional[str] = ..., namespace: _Optional[str] = ..., mode: _Optional[str] = ...) -> None: ...

class SetPolicyModeResponse(_message.Message):
    __slots__ = ("policy",)
    POLICY_FIELD_NUMBER: _ClassVar[int]
    policy: PolicyStatus
    def __init__(self, policy: _Optional[_Union[PolicyStatus, _Mapping[str, _Any]]] = ...) -> None: ...

class AddPoliciesResponse(_message.Message):
    __slots__ = ("policies",)
    POLICIES_FIELD_NUMBER: _ClassVar[int]
    policies: _containers.RepeatedCompositeFieldContainer[PolicyStatus]
    def __init__(self, policies: _Optional[_Iterable[_Union[PolicyStatus, _Mapping[str, _Any]]]] = ...) -> None: ...

class PolicyName(_message.Message):
    __slots__ = ("name", "namespace")
    NAME_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    name: str
    namespace: str
    def __init__(self, name: _Optional[str] = ..., namespace: _Optional[str] = ...) -> None: ...

class DeletePoliciesRequest(_message.Message):
    __slots__ = ("policies",)
    POLICIES_FIELD_NUMBER: _ClassVar[int]
    policies: _containers.RepeatedCompositeFieldContainer[PolicyName]
    def __init__(self, policies: _Optional[_Iterable[_Union[PolicyName, _Mapping[str, _Any]]]] = ...) -> None: ...

class DeletePoliciesResponse(_message.Message):
    __slots__ = ("policies",)
    POLICIES_FIELD_NUMBER: _ClassVar[int]
    policies: _containers.RepeatedCompositeFieldContainer[PolicyStatus]
    def __init__(self, policies: _Optional[_Iterable[_Union[PolicyStatus, _Mapping[str, _Any]]]] = ...) -> None: ...

class ListPoliciesRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListPoliciesResponse(_message.Message):
    __slots__ = ("policies",)
    POLICIES_FIELD_NUMBER: _ClassVar[int]
    policies: _containers.RepeatedCompositeFieldContainer[PolicyStatus]
    def __init__(self, policies: _Optional[_Iterable[_Union[PolicyStatus, _Mapping[str, _Any]]]] = ...) -> None: ...

class GetPolicyRequest(_message.Message):
    __slots__ = ("name", "namespace", "c")
    NAME_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    C_FIELD_NUMBER: _ClassVar[int]
    name: str
    namespace: str
    c: bool
    def __init__(self, name: _Optional[str] = ..., namespace: _Optional[str] = ..., c: _Optional[bool] = ...) -> None: ...

class GetPolicyResponse(_message.Message):
    __slots__ = ("policy", "document", "c")
    POLICY_FIELD_NUMBER: _ClassVar[int]
    DOCUMENT_FIELD_NUMBER: _ClassVar[int]
    C_FIELD_NUMBER: _ClassVar[int]
    policy: PolicyStatus
    document: bytes
    c: bytes
    def __init__(self, policy: _Optional[_Union[PolicyStatus, _Mapping[str, _Any]]] = ..., document: _Optional[bytes] = ..., c: _Optional[bytes] = ...) -> None: ...

class PolicyStatus(_message.Message):
    __slots__ = ("name", "namespace", "kind", "state", "error", "hooks", "containers", "notes", "source", "change", "milliseconds", "mode", "actions", "selectors", "id", "not_enforced", "kernel_memory_bytes", "attached")
    class ActionsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    HOOKS_FIELD_NUMBER: _ClassVar[int]
    CONTAINERS_FIELD_NUMBER: _ClassVar[int]
    NOTES_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    CHANGE_FIELD_NUMBER: _ClassVar[int]
    MILLISECONDS_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    ACTIONS_FIELD_NUMBER: _ClassVar[int]
    SELECTORS_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    NOT_ENFORCED_FIELD_NUMBER: _ClassVar[int]
    KERNEL_MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    ATTACHED_FIELD_NUMBER: _ClassVar[int]
    name: str
    namespace: str
    kind: str
    state: str
    error: str
    hooks: _containers.RepeatedScalarFieldContainer[str]
    containers: int
    notes: _containers.RepeatedScalarFieldContainer[str]
    source: str
    change: str
    milliseconds: int
    mode: str
    actions: _containers.ScalarMap[str, int]
    selectors: _containers.RepeatedCompositeFieldContainer[SelectorStatus]
    id: int
    not_enforced: _containers.RepeatedCompositeFieldContainer[NotEnforced]
    kernel_memory_bytes: int
    attached: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, name: _Optional[str] = ..., namespace: _Optional[str] = ..., kind: _Optional[str] = ..., state: _Optional[str] = ..., error: _Optional[str] = ..., hooks: _Optional[_Iterable[str]] = ..., containers: _Optional[int] = ..., notes: _Optional[_Iterable[str]] = ..., source: _Optional[str] = ..., change: _Optional[str] = ..., milliseconds: _Optional[int] = ..., mode: _Optional[str] = ..., actions: _Optional[_Mapping[str, int]] = ..., selectors: _Optional[_Iterable[_Union[SelectorStatus, _Mapping[str, _Any]]]] = ..., id: _Optional[int] = ..., not_enforced: _Optional[_Iterable[_Union[NotEnforced, _Mapping[str, _Any]]]] = ..., kernel_memory_bytes: _Optional[int] = ..., attached: _Optional[_Iterable[str]] = ...) -> None: ...

class NotEnforced(_message.Message):
    __slots__ = ("section", "name", "reason", "source")
    SECTION_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    section: str
    name: str
    reason: str
    source: str
    def __init__(self, section: _Optional[str] = ..., name: _Optional[str] = ..., reason: _Optional[str] = ..., source: _Optional[str] = ...) -> None: ...

class SelectorStatus(_message.Message):
    __slots__ = ("function", "selector", "label", "at_return", "actions")
    class ActionsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    FUNCTION_FIELD_NUMBER: _ClassVar[int]
    SELECTOR_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    AT_RETURN_FIELD_NUMBER: _ClassVar[int]
    ACTIONS_FIELD_NUMBER: _ClassVar[int]
    function: str
    selector: int
    label: str
    at_return: bool
    actions: _containers.ScalarMap[str, int]
    def __init__(self, function: _Optional[str] = ..., selector: _Optional[int] = ..., label: _Optional[str] = ..., at_return: _Optional[bool] = ..., actions: _Optional[_Mapping[str, int]] = ...) -> None: ...

class GetStatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class HookStatus(_message.Message):
    __slots__ = ("kind", "name", "through", "programs", "instructions", "missed")
    KIND_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    THROUGH_FIELD_NUMBER: _ClassVar[int]
    PROGRAMS_FIELD_NUMBER: _ClassVar[int]
    INSTRUCTIONS_FIELD_NUMBER: _ClassVar[int]
    MISSED_FIELD_NUMBER: _ClassVar[int]
    kind: str
    name: str
    through: _containers.RepeatedScalarFieldContainer[str]
    programs: int
    instructions: int
    missed: int
    def __init__(self, kind: _Optional[str] = ..., name: _Optional[str] = ..., through: _Optional[_Iterable[str]] = ..., programs: _Optional[int] = ..., instructions: _Optional[int] = ..., missed: _Optional[int] = ...) -> None: ...

class Failure(_message.Message):
    __slots__ = ("site", "error", "count")
    SITE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    site: str
    error: int
    count: int
    def __init__(self, site: _Optional[str] = ..., error: _Optional[int] = ..., count: _Optional[int] = ...) -> None: ...

class GetStatusResponse(_message.Message):
    __slots__ = ("pid", "version", "containers", "bindings", "policies", "outcomes", "counters", "failed_helpers", "hooks", "events_pid", "missed_calls", "rss_bytes", "events_restarts", "starts", "unannounced", "hook_coverage_ratio", "stages", "reconciled", "quarantined", "unannounced_treatment", "cri_socket", "decided_without_agent", "sandboxes", "policy_states")
    class OutcomesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    class CountersEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    class StartsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    class UnannouncedEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    class ReconciledEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    class DecidedWithoutAgentEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    class PolicyStatesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    PID_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    CONTAINERS_FIELD_NUMBER: _ClassVar[int]
    BINDINGS_FIELD_NUMBER: _ClassVar[int]
    POLICIES_FIELD_NUMBER: _ClassVar[int]
    OUTCOMES_FIELD_NUMBER: _ClassVar[int]
    COUNTERS_FIELD_NUMBER: _ClassVar[int]
    FAILED_HELPERS_FIELD_NUMBER: _ClassVar[int]
    HOOKS_FIELD_NUMBER: _ClassVar[int]
    EVENTS_PID_FIELD_NUMBER: _ClassVar[int]
    MISSED_CALLS_FIELD_NUMBER: _ClassVar[int]
    RSS_BYTES_FIELD_NUMBER: _ClassVar[int]
    EVENTS_RESTARTS_FIELD_NUMBER: _ClassVar[int]
    STARTS_FIELD_NUMBER: _ClassVar[int]
    UNANNOUNCED_FIELD_NUMBER: _ClassVar[int]
    HOOK_COVERAGE_RATIO_FIELD_NUMBER: _ClassVar[int]
    STAGES_FIELD_NUMBER: _ClassVar[int]
    RECONCILED_FIELD_NUMBER: _ClassVar[int]
    QUARANTINED_FIELD_NUMBER: _ClassVar[int]
    UNANNOUNCED_TREATMENT_FIELD_NUMBER: _ClassVar[int]
    CRI_SOCKET_FIELD_NUMBER: _ClassVar[int]
    DECIDED_WITHOUT_AGENT_FIELD_NUMBER: _ClassVar[int]
    SANDBOXES_FIELD_NUMBER: _ClassVar[int]
    POLICY_STATES_FIELD_NUMBER: _ClassVar[int]
    pid: int
    version: str
    containers: int
    bindings: int
    policies: int
    outcomes: _containers.ScalarMap[str, int]
    counters: _containers.ScalarMap[str, int]
    failed_helpers: _containers.RepeatedCompositeFieldContainer[Failure]
    hooks: _containers.RepeatedCompositeFieldContainer[HookStatus]
    events_pid: int
    missed_calls: int
    rss_bytes: int
    events_restarts: int
    starts: _containers.ScalarMap[str, int]
    unannounced: _containers.ScalarMap[str, int]
    hook_coverage_ratio: float
    stages: _containers.RepeatedCompositeFieldContainer[Stage]
    reconciled: _containers.ScalarMap[str, int]
    quarantined: int
    unannounced_treatment: str
    cri_socket: str
    decided_without_agent: _containers.ScalarMap[str, int]
    sandboxes: int
    policy_states: _containers.ScalarMap[str, int]
    def __init__(self, pid: _Optional[int] = ..., version: _Optional[str] = ..., containers: _Optional[int] = ..., bindings: _Optional[int] = ..., policies: _Optional[int] = ..., outcomes: _Optional[_Mapping[str, int]] = ..., counters: _Optional[_Mapping[str, int]] = ..., failed_helpers: _Optional[_Iterable[_Union[Failure, _Mapping[str, _Any]]]] = ..., hooks: _Optional[_Iterable[_Union[HookStatus, _Mapping[str, _Any]]]] = ..., events_pid: _Optional[int] = ..., missed_calls: _Optional[int] = ..., rss_bytes: _Optional[int] = ..., events_restarts: _Optional[int] = ..., starts: _Optional[_Mapping[str, int]] = ..., unannounced: _Optional[_Mapping[str, int]] = ..., hook_coverage_ratio: _Optional[float] = ..., stages: _Optional[_Iterable[_Union[Stage, _Mapping[str, _Any]]]] = ..., reconciled: _Optional[_Mapping[str, int]] = ..., quarantined: _Optional[int] = ..., unannounced_treatment: _Optional[str] = ..., cri_socket: _Optional[str] = ..., decided_without_agent: _Optional[_Mapping[str, int]] = ..., sandboxes: _Optional[int] = ..., policy_states: _Optional[_Mapping[str, int]] = ...) -> None: ...

class Stage(_message.Message):
    __slots__ = ("door", "stage", "count", "p50_us", "p99_us", "max_us", "timeout_us", "headroom_us", "last_success_us", "outcomes", "buckets", "sum_us")
    class OutcomesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    DOOR_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    P50_US_FIELD_NUMBER: _ClassVar[int]
    P99_US_FIELD_NUMBER: _ClassVar[int]
    MAX_US_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_US_FIELD_NUMBER: _ClassVar[int]
    HEADROOM_US_FIELD_NUMBER: _ClassVar[int]
    LAST_SUCCESS_US_FIELD_NUMBER: _ClassVar[int]
    OUTCOMES_FIELD_NUMBER: _ClassVar[int]
    BUCKETS_FIELD_NUMBER: _ClassVar[int]
    SUM_US_FIELD_NUMBER: _ClassVar[int]
    door: str
    stage: str
    count: int
    p50_us: int
    p99_us: int
    max_us: int
    timeout_us: int
    headroom_us: int
    last_success_us: int
    outcomes: _containers.ScalarMap[str, int]
    buckets: _containers.RepeatedScalarFieldContainer[int]
    sum_us: int
    def __init__(self, door: _Optional[str] = ..., stage: _Optional[str] = ..., count: _Optional[int] = ..., p50_us: _Optional[int] = ..., p99_us: _Optional[int] = ..., max_us: _Optional[int] = ..., timeout_us: _Optional[int] = ..., headroom_us: _Optional[int] = ..., last_success_us: _Optional[int] = ..., outcomes: _Optional[_Mapping[str, int]] = ..., buckets: _Optional[_Iterable[int]] = ..., sum_us: _Optional[int] = ...) -> None: ...
