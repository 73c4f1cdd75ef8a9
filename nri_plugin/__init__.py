# SPDX-License-Identifier: Apache-2.0
"""The NRI plugin: holds a container's start until the agent has bound it."""
