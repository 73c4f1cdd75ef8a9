# SPDX-License-Identifier: Apache-2.0
# `make` alone lists the targets. Every target that needs the tools runs tools/setup first (at once when nothing changed).

PYTHON := .venv/bin/python
SCRIPTS := tools/setup tools/vm/init.sh .ci/run $(wildcard contrib/*.sh)
C_SOURCES = $(shell find bpf demo rthook bench tests/support tests/fuzz -name '*.[ch]' 2>/dev/null | sort)
BENCHMARKS = $(filter-out _%,$(basename $(notdir $(wildcard bench/*.py))))

# REQUIRE=kernel,container,vm turns the skips of tests for want of a capability into failures.
export REQUIRE

.DEFAULT_GOAL := help
.PHONY: help setup hook demo test test-vm lint fmt bench fuzz clean

help: ## list the targets
	@printf 'podgate: make TARGET\n\n'
	@sed -n 's/^\([a-z-]*\):.* ## \(.*\)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 12
	@printf '\nbenchmarks: %s\n' "$(BENCHMARKS)"

setup: ## install what is missing: packages, .venv, container runtimes (as root, Debian 12)
	@tools/setup

hook: setup ## build the OCI hook: build/podgate-hook
	@$(PYTHON) -m rthook.build build/podgate-hook

demo: setup ## show a policy in force before a container's first instruction
	@$(PYTHON) -m demo $(ARGS)

test: setup ## run the tests; REQUIRE=kernel,container fails instead of skipping; ARGS go to pytest
	@$(PYTHON) -m pytest $(ARGS)

test-vm: ## run the kernel's tests under Debian's kernels in qemu: KERNEL=6.1, 6.12 or 7.x; override: one built here, once
	@tools/setup vm $(filter override,$(KERNEL))
	@$(PYTHON) -m tools.vm $(if $(KERNEL),--kernel $(KERNEL)) $(ARGS)

lint: setup ## check style, types, import directions, scripts, C formatting, generated code
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports
	shellcheck $(SCRIPTS)
	clang-format --dry-run -Werror $(C_SOURCES)
	$(PYTHON) tools/gen_proto.py --check
	$(PYTHON) tools/gen_policy_docs.py --check

fmt: setup ## format the sources in place
	.venv/bin/ruff check --fix-only .
	.venv/bin/ruff format .
	clang-format -i $(C_SOURCES)

bench: setup ## run the benchmarks, or one: NAME=race DOOR=nri; ARGS go to it
ifneq ($(filter-out $(BENCHMARKS),$(NAME)),)
	@printf 'bench: no benchmark %s; there are: %s\n' '$(NAME)' '$(BENCHMARKS)' >&2; exit 2
else
	@set -e; for name in $(or $(NAME),$(BENCHMARKS)); do \
		printf 'bench: %s\n' "$$name"; \
		case $$name in attach_cost) tools/setup vm ;; esac; \
		case $$name in race | hook_faults) door="$(if $(DOOR),--door $(DOOR))" ;; *) door= ;; esac; \
		$(PYTHON) -m "bench.$$name" $$door $(ARGS); \
	done
endif

SECONDS ?= 600
fuzz: setup ## fuzz the parsers, Python and C: SECONDS of processor time each (600), NAME for one
	@$(PYTHON) -m tests.fuzz $(NAME) --seconds $(SECONDS) --jobs 2 $(ARGS)

clean: ## remove caches and what was built in the tree; downloads in the cache directory stay
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis build *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
