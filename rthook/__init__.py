# SPDX-License-Identifier: Apache-2.0
"""What runtime hooks share: the client of the agent's socket and its errors."""
