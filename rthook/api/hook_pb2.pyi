# SPDX-License-Identifier: Apache-2.0
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union
from typing import Any as _Any

DESCRIPTOR: _descriptor.FileDescriptor

class Kind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    KIND_CONTAINER: _ClassVar[Kind]
    KIND_SANDBOX: _ClassVar[Kind]

class Phase(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PHASE_UNSPECIFIED: _ClassVar[Phase]
    PHASE_HELD: _ClassVar[Phase]
    PHASE_RUNNING: _ClassVar[Phase]
KIND_CONTAINER: Kind
KIND_SANDBOX: Kind
PHASE_UNSPECIFIED: Phase
PHASE_HELD: Phase
PHASE_RUNNING: Phase

class Container(_message.Message):
    __slots__ = ("id", "name", "pod_name", "pod_namespace", "pod_uid", "pod_labels", "cgroups_path", "pid", "image", "sandbox_id", "phase", "kind", "cgroup_parent")
    class PodLabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    POD_NAME_FIELD_NUMBER: _ClassVar[int]
    POD_NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    POD_UID_FIELD_NUMBER: _ClassVar[int]
    POD_LABELS_FIELD_NUMBER: _ClassVar[int]
    CGROUPS_PATH_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    SANDBOX_ID_FIELD_NUMBER: _ClassVar[int]
    PHASE_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    CGROUP_PARENT_FIELD_NUMBER: _ClassVar[int]
    id: str
    name: str
    pod_name: str
    pod_namespace: str
    pod_uid: str
    pod_labels: _containers.ScalarMap[str, str]
    cgroups_path: str
    pid: int
    image: str
    sandbox_id: str
    phase: Phase
    kind: Kind
    cgroup_parent: str
    def __init__(self, id: _Optional[str] = ..., name: _Optional[str] = ..., pod_name: _Optional[str] = ..., pod_namespace: _Optional[str] = ..., pod_uid: _Optional[str] = ..., pod_labels: _Optional[_Mapping[str, str]] = ..., cgroups_path: _Optional[str] = ..., pid: _Optional[int] = ..., image: _Optional[str] = ..., sandbox_id: _Optional[str] = ..., phase: _Optional[_Union[Phase, str]] = ..., kind: _Optional[_Union[Kind, str]] = ..., cgroup_parent: _Optional[str] = ...) -> None: ...

class BindRequest(_message.Message):
    __slots__ = ("container",)
    CONTAINER_FIELD_NUMBER: _ClassVar[int]
    container: Container
    def __init__(self, container: _Optional[_Union[Container, _Mapping[str, _Any]]] = ...) -> None: ...

class BindResponse(_message.Message):
    __slots__ = ("cgroup_id", "workload_id", "policies", "bind_us")
    CGROUP_ID_FIELD_NUMBER: _ClassVar[int]
    WORKLOAD_ID_FIELD_NUMBER: _ClassVar[int]
    POLICIES_FIELD_NUMBER: _ClassVar[int]
    BIND_US_FIELD_NUMBER: _ClassVar[int]
    cgroup_id: int
    workload_id: int
    policies: int
    bind_us: int
    def __init__(self, cgroup_id: _Optional[int] = ..., workload_id: _Optional[int] = ..., policies: _Optional[int] = ..., bind_us: _Optional[int] = ...) -> None: ...

class UnbindRequest(_message.Message):
    __slots__ = ("container_id",)
    CONTAINER_ID_FIELD_NUMBER: _ClassVar[int]
    container_id: str
    def __init__(self, container_id: _Optional[str] = ...) -> None: ...

class UnbindResponse(_message.Message):
    __slots__ = ("was_bound",)
    WAS_BOUND_FIELD_NUMBER: _ClassVar[int]
    was_bound: bool
    def __init__(self, was_bound: _Optional[bool] = ...) -> None: ...

class SynchronizeRequest(_message.Message):
    __slots__ = ("containers", "keep")
    CONTAINERS_FIELD_NUMBER: _ClassVar[int]
    KEEP_FIELD_NUMBER: _ClassVar[int]
    containers: _containers.RepeatedCompositeFieldContainer[Container]
    keep: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, containers: _Optional[_Iterable[_Union[Container, _Mapping[str, _Any]]]] = ..., keep: _Optional[_Iterable[str]] = ...) -> None: ...

class Refusal(_message.Message):
    __slots__ = ("container_id", "reason")
    CONTAINER_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    container_id: str
    reason: str
    def __init__(self, container_id: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class SynchronizeResponse(_message.Message):
    __slots__ = ("bound", "forgotten", "refused")
    BOUND_FIELD_NUMBER: _ClassVar[int]
    FORGOTTEN_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    bound: int
    forgotten: int
    refused: _containers.RepeatedCompositeFieldContainer[Refusal]
    def __init__(self, bound: _Optional[int] = ..., forgotten: _Optional[int] = ..., refused: _Optional[_Iterable[_Union[Refusal, _Mapping[str, _Any]]]] = ...) -> None: ...

class HookRequest(_message.Message):
    __slots__ = ("stage", "runtime", "state")
    STAGE_FIELD_NUMBER: _ClassVar[int]
    RUNTIME_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    stage: str
    runtime: str
    state: bytes
    def __init__(self, stage: _Optional[str] = ..., runtime: _Optional[str] = ..., state: _Optional[bytes] = ...) -> None: ...

class HookResponse(_message.Message):
    __slots__ = ("cgroup_id", "workload_id", "policies", "bind_us")
    CGROUP_ID_FIELD_NUMBER: _ClassVar[int]
    WORKLOAD_ID_FIELD_NUMBER: _ClassVar[int]
    POLICIES_FIELD_NUMBER: _ClassVar[int]
    BIND_US_FIELD_NUMBER: _ClassVar[int]
    cgroup_id: int
    workload_id: int
    policies: int
    bind_us: int
    def __init__(self, cgroup_id: _Optional[int] = ..., workload_id: _Optional[int] = ..., policies: _Optional[int] = ..., bind_us: _Optional[int] = ...) -> None: ...

class AnnounceRequest(_message.Message):
    __slots__ = ("id", "name", "pod_name", "pod_namespace", "pod_uid", "image", "cgroups_path", "root_dir", "annotations")
    class AnnotationsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    POD_NAME_FIELD_NUMBER: _ClassVar[int]
    POD_NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    POD_UID_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    CGROUPS_PATH_FIELD_NUMBER: _ClassVar[int]
    ROOT_DIR_FIELD_NUMBER: _ClassVar[int]
    ANNOTATIONS_FIELD_NUMBER: _ClassVar[int]
    id: str
    name: str
    pod_name: str
    pod_namespace: str
    pod_uid: str
    image: str
    cgroups_path: str
    root_dir: str
    annotations: _containers.ScalarMap[str, str]
    def __init__(self, id: _Optional[str] = ..., name: _Optional[str] = ..., pod_name: _Optional[str] = ..., pod_namespace: _Optional[str] = ..., pod_uid: _Optional[str] = ..., image: _Optional[str] = ..., cgroups_path: _Optional[str] = ..., root_dir: _Optional[str] = ..., annotations: _Optional[_Mapping[str, str]] = ...) -> None: ...

class StageStats(_message.Message):
    __slots__ = ("stage", "buckets", "sum_us", "max_us", "timeout_us", "last_success_us", "outcomes")
    class OutcomesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    STAGE_FIELD_NUMBER: _ClassVar[int]
    BUCKETS_FIELD_NUMBER: _ClassVar[int]
    SUM_US_FIELD_NUMBER: _ClassVar[int]
    MAX_US_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_US_FIELD_NUMBER: _ClassVar[int]
    LAST_SUCCESS_US_FIELD_NUMBER: _ClassVar[int]
    OUTCOMES_FIELD_NUMBER: _ClassVar[int]
    stage: str
    buckets: _containers.RepeatedScalarFieldContainer[int]
    sum_us: int
    max_us: int
    timeout_us: int
    last_success_us: int
    outcomes: _containers.ScalarMap[str, int]
    def __init__(self, stage: _Optional[str] = ..., buckets: _Optional[_Iterable[int]] = ..., sum_us: _Optional[int] = ..., max_us: _Optional[int] = ..., timeout_us: _Optional[int] = ..., last_success_us: _Optional[int] = ..., outcomes: _Optional[_Mapping[str, int]] = ...) -> None: ...

class ReportRequest(_message.Message):
    __slots__ = ("door", "stages")
    DOOR_FIELD_NUMBER: _ClassVar[int]
    STAGES_FIELD_NUMBER: _ClassVar[int]
    door: str
    stages: _containers.RepeatedCompositeFieldContainer[StageStats]
    def __init__(self, door: _Optional[str] = ..., stages: _Optional[_Iterable[_Union[StageStats, _Mapping[str, _Any]]]] = ...) -> None: ...

class ReportResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
