# SPDX-License-Identifier: Apache-2.0
"""How large what a hook says may be. Lengths of names are in characters."""

from __future__ import annotations

MAX_NAME = 253  # DNS-1123 subdomain: the longest name that Kubernetes gives anything
MAX_ID = 256  # container ids have 64 characters; room for other runtimes
MAX_IMAGE = 4096  # a registry's limit on a repository name is 255, on a tag 128; there are mirrors with longer paths
MAX_PATH = 4096  # PATH_MAX, its NUL included
MAX_PID = 1 << 22  # PID_MAX_LIMIT (include/linux/threads.h)
MAX_LABELS_BYTES = 256 << 10  # of one pod; the API server's own limit is on annotations, as large
# The same as JSON text: a label needs no escapes, quotes and separators are at most as long as keys and values.
MAX_LABELS_TEXT = 2 * MAX_LABELS_BYTES

# Whoever may write a pod's annotations has 256 KiB for them (TotalAnnotationSizeLimitB of the API server), and a
# runtime copies them into both documents. As JSON a byte takes at most 6 (\u003c), and cri-o writes all of them once
# more as JSON within JSON, 7 a byte: 3.25 MiB. A pod that is annotated to the limit must not be unreadable for it.
MAX_STATE = 4 << 20
MAX_CONFIG = 4 << 20
