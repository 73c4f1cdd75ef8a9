# SPDX-License-Identifier: Apache-2.0
"""The node agent: policies, workloads, hooks, kernel, events and the interface in front of them."""
