# SPDX-License-Identifier: Apache-2.0
"""Tracing policies, from text to frozen values. Pure: no files, no clocks, no kernel.

`document` turns YAML into nodes with positions, `reader` turns nodes into the values of `model`,
`errors` says what is wrong and where. Import the modules; this package itself imports nothing, so
that a process that only needs the model does not load a YAML parser.
"""
