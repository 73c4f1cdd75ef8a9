# SPDX-License-Identifier: Apache-2.0
"""The hook path: from a runtime's message to the kernel's record and the reply. Nothing else happens inline."""
