# make help lists what there is. What the targets need is installed by themselves: into .venv from the package index, and
# from Debian where this is Debian and you are root or may sudo; else one line says what is missing.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
SECONDS ?= 60
TARGET ?=
BASE ?=
BEFORE ?=
SUITE ?= bookworm
STAGE ?= orchestrator
TAG ?= $(shell sed -n 's/^__version__ = "\(.*\)"$$/\1/p' orchestratord/__init__.py)
MINUTES ?= 10
WORKERS ?= 2

PROMETHEUS_RULE := k8s/overlays/operator/prometheus-rule.yaml

.DEFAULT_GOAL := help
.PHONY: help run test tools image test-image fuzz bench soak soak-scale screenshots lint format rules clean \
	kubernetes debian-run debian-test debian-kubernetes debian-screenshots debian-bench debian-soak-scale debian-image

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: debian-run $(VENV)/.installed ## Run everything on this machine: orchestrator, Prometheus, profiler (ARGS=... adds options)
	$(BIN)/twistd --nodaemon --pidfile= orchestrator --all-in-one $(ARGS)

# Each worker has the tests of one file at a time, in the order of the files. coverage measures the workers from their start
# on: what is imported first counts too. Of some tests only there is no telling what all would reach.
test: debian-test kubernetes lint $(VENV)/.installed-checkov ## Lint, type-check and test everything, or ARGS=tests/... alone (WORKERS=2: files at a time; 0: in one process)
	$(BIN)/coverage erase
	COVERAGE_PROCESS_START=pyproject.toml $(BIN)/pytest --numprocesses=$(WORKERS) --dist=loadfile --no-loadscope-reorder $(ARGS)
	$(BIN)/coverage combine -q
	$(BIN)/coverage report $(if $(ARGS),--fail-under=0)

# For .ci/run, which then has them at work beside each other. checkov's environment is one of its own: both at a time.
tools: debian-test debian-image debian-kubernetes ## Install what test, fuzz and test-image need, and nothing else
	$(MAKE) --jobs=3 $(VENV)/.installed-fuzz $(VENV)/.installed-checkov kubernetes
	$(MAKE) $(VENV)/.installed-image

kubernetes: debian-kubernetes ## Build the kube-apiserver and kube-scheduler of the tests, once (4 minutes, 150 MB in ~/.cache)
	tests/kubernetes/build >/dev/null

fuzz: $(VENV)/.installed-fuzz ## Fuzz for SECONDS=60 in all, or one TARGET=connection|express|node_tokens|promql|query|report|spool; a crash says how to run it again
	$(BIN)/python -m tests.fuzz --seconds $(SECONDS) $(TARGET)

image: debian-image $(VENV)/.installed-image ## Build the image and its bill of materials into dist/ (TAG=..., BASE=an image, STAGE=profiler)
	BASE='$(BASE)' TAG='$(TAG)' SUITE='$(SUITE)' STAGE='$(STAGE)' image/build

test-image: debian-test $(VENV)/.installed-test image ## Build the image, run it as Kubernetes would, and test it
	$(BIN)/pytest image

bench: debian-bench $(VENV)/.installed-bench $(if $(BEFORE),build/before-$(BEFORE)/bin/twistd) ## Measure every case beside its peers and write BENCHMARKS.md (CASE=... for one; BEFORE=COMMIT compares with that version only)
	$(BIN)/python -m tests.benchmarks $(if $(CASE),--case $(CASE)) $(if $(BEFORE),--before build/before-$(BEFORE)/bin/twistd) $(ARGS)

# An earlier version in an environment of its own, installed from what git has of it.
build/before-%/bin/twistd:
	rm -rf build/before-$* && mkdir -p build/before-$*/source
	git archive $* | tar -x -C build/before-$*/source
	$(PYTHON) -m venv build/before-$*
	build/before-$*/bin/pip install --quiet --disable-pip-version-check build/before-$*/source

soak: debian-run $(VENV)/.installed ## Report from 5,000 nodes while faults happen at random (MINUTES=10; SEED=... repeats; WRITE=1 writes docs/RELIABILITY.md)
	$(BIN)/python -m tests.soak --minutes $(MINUTES) $(if $(SEED),--seed $(SEED)) $(if $(WRITE),--write) $(ARGS)

soak-scale: debian-soak-scale $(VENV)/.installed ## Report to three orchestrators before real stores while all of them fail (STORE=prometheus|victoria-metrics, SEED=..., WRITE=1 writes docs/SCALING.md)
	$(BIN)/python -m tests.scale $(if $(STORE),--store $(STORE)) $(if $(SEED),--seed $(SEED)) $(if $(WRITE),--write) $(ARGS)

screenshots: debian-test debian-screenshots $(VENV)/.installed-test ## Take the pictures in docs/pictures anew, of the real thing under a fleet that might be one
	$(BIN)/python -m tests.pictures

lint: $(VENV)/.installed-test ## ruff, mypy --strict, and the layers of the packages
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

format: $(VENV)/.installed-test ## Let ruff format the code
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

# The rules of a rules file are a PrometheusRule's `spec`: the head of the manifest stays, what follows is made anew.
rules: ## Bring etc/prometheus/rules.yml into the manifest for the Prometheus Operator
	sed -i '/^spec:$$/q' $(PROMETHEUS_RULE)
	sed '/./s/^/  /' etc/prometheus/rules.yml >> $(PROMETHEUS_RULE)

clean: ## Remove what the other targets made
	rm -rf $(VENV) build dist *.egg-info .coverage .coverage.* .hypothesis .mypy_cache .pytest_cache .ruff_cache

# The editable installation links single files: a new one calls for a new installation. The folders of compiled files are
# made before the stamp, lest the first import look like a new file.
SOURCES := $(shell find orchestratord plugins -type d ! -name __pycache__)
COMPILED := $(BIN)/python -m compileall -q orchestratord plugins

$(VENV)/bin/pip:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: setup.cfg pyproject.toml $(SOURCES) | debian-run $(VENV)/bin/pip
	$(BIN)/pip install --quiet --disable-pip-version-check --editable .
	$(COMPILED)
	touch $@

$(VENV)/.installed-test: setup.cfg pyproject.toml $(SOURCES) | debian-test $(VENV)/bin/pip
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[test]'
	$(COMPILED)
	touch $@ $(VENV)/.installed

# It pins half of the package index: an environment of its own.
$(VENV)/.installed-checkov: | debian-test $(VENV)/bin/pip
	$(PYTHON) -m venv $(VENV)/checkov
	$(VENV)/checkov/bin/pip install --quiet --disable-pip-version-check 'checkov >=3.2, <4'
	touch $@

$(VENV)/.installed-fuzz: setup.cfg pyproject.toml $(SOURCES) | debian-test $(VENV)/bin/pip
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[test,fuzz]'
	$(COMPILED)
	touch $@ $(VENV)/.installed $(VENV)/.installed-test

$(VENV)/.installed-image: setup.cfg | debian-image $(VENV)/bin/pip
	$(BIN)/pip install --quiet --disable-pip-version-check 'cyclonedx-python-lib[json-validation] >=11, <12'
	touch $@

$(VENV)/.installed-bench: setup.cfg pyproject.toml $(SOURCES) | debian-bench $(VENV)/bin/pip
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[bench]'
	$(COMPILED)
	touch $@ $(VENV)/.installed

# Each word is PROGRAM:PACKAGE; a path is a file that must be there, and a name that is no program is a module that Python
# must have.
debian-run: WANTED = $(PYTHON):python3 ensurepip:python3-venv prometheus:prometheus setpriv:util-linux
debian-run: NICE = bpftrace:bpftrace
debian-test: WANTED = $(PYTHON):python3 ensurepip:python3-venv git:git prometheus:prometheus promtool:prometheus \
	setpriv:util-linux victoria-metrics:victoria-metrics bpftrace:bpftrace kubectl:kubernetes-client systemd-analyze:systemd unshare:util-linux \
	curl:curl openssl:openssl faketime:faketime ip:iproute2 nft:nftables \
	chromium:chromium /usr/share/fonts/truetype/dejavu/DejaVuSans.ttf:fonts-dejavu-core \
	haproxy:haproxy jq:jq go:golang-go gcc:gcc /usr/include/stdio.h:libc6-dev curl-config:libcurl4-openssl-dev /usr/include/jansson.h:libjansson-dev

debian-kubernetes: WANTED = flock:util-linux etcd:etcd-server go:golang-go jq:jq rsync:rsync dpkg-source:dpkg-dev \
	/usr/share/gocode/src/github.com/modern-go/reflect2/reflect2.go:golang-github-modern-go-reflect2-dev

debian-screenshots: WANTED = pngquant:pngquant

debian-bench: WANTED = $(PYTHON):python3 ensurepip:python3-venv setpriv:util-linux wrk:wrk prometheus:prometheus \
	prometheus-pushgateway:prometheus-pushgateway victoria-metrics:victoria-metrics

debian-soak-scale: WANTED = $(PYTHON):python3 ensurepip:python3-venv setpriv:util-linux haproxy:haproxy \
	prometheus:prometheus victoria-metrics:victoria-metrics

debian-image: WANTED = $(PYTHON):python3 ensurepip:python3-venv buildah:buildah $(if $(BASE),,debootstrap:debootstrap)

debian-run debian-test debian-kubernetes debian-screenshots debian-bench debian-soak-scale debian-image:
	@missing=; \
	for word in $(WANTED) $(NICE); do \
	  command -v $${word%:*} >/dev/null || [ -f $${word%:*} ] || $(PYTHON) -c "import $${word%:*}" 2>/dev/null || missing="$$missing $${word#*:}"; \
	done; \
	[ -z "$$missing" ] && exit 0; \
	if command -v apt-get >/dev/null; then \
	  if [ "$$(id -u)" = 0 ]; then as=; elif sudo -n true 2>/dev/null; then as=sudo; else as=no; fi; \
	  if [ "$$as" != no ]; then \
	    echo "installing from Debian:$$missing"; \
	    $$as apt-get update -qq && DEBIAN_FRONTEND=noninteractive $$as apt-get install -qq -y --no-install-recommends $$missing >/dev/null \
	      && exit 0; \
	  fi; \
	fi; \
	needed=; \
	for word in $(WANTED); do \
	  command -v $${word%:*} >/dev/null || [ -f $${word%:*} ] || $(PYTHON) -c "import $${word%:*}" 2>/dev/null || needed="$$needed $${word#*:}"; \
	done; \
	[ -z "$$needed" ] && exit 0; \
	echo "missing:$$needed; as root: apt-get install$$needed" >&2; exit 1
