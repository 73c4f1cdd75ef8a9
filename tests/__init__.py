# SPDX-License-Identifier: Apache-2.0
"""The tests; a package so that the demo and the benchmarks can use tests.support."""
