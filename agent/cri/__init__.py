# SPDX-License-Identifier: Apache-2.0
"""The container runtime's own knowledge of containers and pods, asked over the Container Runtime Interface.

errors, model, headers, frames, messages and http2 are pure: bytes in, values out. channel and client do the IO.
"""
