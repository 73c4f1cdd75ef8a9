# SPDX-License-Identifier: Apache-2.0
"""The main job, shown: pods whose first instruction violates a policy, on a real containerd."""
