# SPDX-License-Identifier: Apache-2.0
"""How much longer everything may take than on this machine itself: PODGATE_PATIENCE, 1 without it.

A guest of `make test-vm` emulates its processor, and is slower by a factor that no test has to know.
"""

from __future__ import annotations

import os
from typing import Final

PATIENCE: Final = float(os.environ.get("PODGATE_PATIENCE", "1"))
