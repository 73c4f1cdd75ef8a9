# SPDX-License-Identifier: Apache-2.0
"""Putting podgate's hooks into a node's container runtimes, and taking them out again.

What is to be done is planned first, as values (plan.py), from what the node has (record, containerd, crio, podman);
then it is carried out step by step (files.py). The record of an installation is written before the first change, so
that what an interruption leaves is repaired by the next call.
"""
