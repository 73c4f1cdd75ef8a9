# SPDX-License-Identifier: Apache-2.0
from agent.grpc_api.tetragon import tetragon_pb2 as _tetragon_pb2
from google.protobuf import descriptor as _descriptor
from typing import ClassVar as _ClassVar

DESCRIPTOR: _descriptor.FileDescriptor
