# SPDX-License-Identifier: Apache-2.0
"""The public interface's messages, in files named as its clients import them; written by tools/gen_proto.py."""
