# SPDX-License-Identifier: Apache-2.0
"""The messages of the Container Runtime Interface that the agent asks with; written by tools/gen_proto.py."""
