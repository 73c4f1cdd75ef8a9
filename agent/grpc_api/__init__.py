# SPDX-License-Identifier: Apache-2.0
"""The public gRPC interface in front of the agent, in a process of its own: importing grpc costs 20 MB."""
