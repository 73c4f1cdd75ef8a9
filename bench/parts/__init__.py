# SPDX-License-Identifier: Apache-2.0
"""What the benchmarks are made of; none of it is a program of its own."""
