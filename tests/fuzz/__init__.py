# SPDX-License-Identifier: Apache-2.0
"""Fuzzing of the parsers that take bytes from others: `python -m tests.fuzz [TARGET...] [--seconds N] [--seed N]`.

Python's (engine.py, targets.py)
    A target gives seeds, made by real encoders, and a function from bytes to a word for what came of them. The
    module's own errors are such words; any other exception is a crash. A worker (worker.py), a process for each
    target, takes an input, changes it (mutate.py, structure.py) and hands it over, until its CPU time is used up. An
    input with a word that is new joins the seeds: that is all the guidance there is. The same seed gives the same
    inputs in the same order; only their number depends on the machine.

    An input is a failure when it ends in an exception, takes longer than MAX_INPUT_CPU_S, or more memory than its
    target allows. The input at hand lies in a file that is mapped into the worker, so that it is known even when the
    worker dies or hangs in C code. What failed is kept below build/fuzz/TARGET, with the command that replays it.

The OCI hook's, in C (runner.py; the targets' names begin with c-)
    hook_fuzz.c is compiled with gcc's sanitizers and looks for new edges of the control flow by itself, so that
    nothing but the compiler is needed. corpus/TARGET/ has the inputs that it begins with; what it once found belongs
    there, too.
"""
