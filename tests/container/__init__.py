# SPDX-License-Identifier: Apache-2.0
"""The whole way on real containerd nodes: runtime, NRI plugin, agent, kernel."""
