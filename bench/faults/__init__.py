# SPDX-License-Identifier: Apache-2.0
"""What hook_faults is made of: a guarded node, the faults that it meets, the starts that go on meanwhile, the count."""
