# SPDX-License-Identifier: Apache-2.0
"""What the tests, the demo and the benchmarks share: real container nodes, a CRI client, capability probes."""
