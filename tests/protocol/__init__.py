# SPDX-License-Identifier: Apache-2.0
"""The hook path's protocols over real sockets, against scripted peers."""
