# SPDX-License-Identifier: Apache-2.0
"""Benchmarks: one program a question, `python -m bench.NAME`; its last line of output is one JSON object."""
