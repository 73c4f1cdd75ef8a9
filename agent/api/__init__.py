# SPDX-License-Identifier: Apache-2.0
"""Messages of the agent's own services, and the code generated from them."""
