# SPDX-License-Identifier: Apache-2.0
"""The event path, in a process of its own: ring buffer, decoder, names for numbers, JSON lines. It cannot slow the
hook path.
"""
