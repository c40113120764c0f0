# make run     try it: the simulated meter, in the foreground
# make test    the tests, against a real InfluxDB
# make help    the other targets

PYTHON ?= python3
CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/power
PYTEST_ARGS ?=

.PHONY: run test test-3.13 test-kernel test-boot check lint bench lock clean help

run: venv/.made
	venv/bin/python src/power.py --nodaemon --simulate

test: .venv-test/.made influxdb
	.venv-test/bin/python -m pytest $(PYTEST_ARGS)

# The same on Python 3.13, where one is found: python3.13 itself, or one that pyenv has.
test-3.13: influxdb
	@python=$$(sh tools/find_python.sh 3.13) || exit 0; \
	$(MAKE) --no-print-directory PYTHON="$$python" .venv-test-3.13/.made && \
	.venv-test-3.13/bin/python -m pytest $(PYTEST_ARGS)

# The whole program on a real kernel with simulated pins, which is built once (some minutes).
test-kernel: .venv-test/.made
	@sh tests/kernel/build.sh "$(CACHE)" > /dev/null
	.venv-test/bin/python -m pytest tests/kernel $(PYTEST_ARGS)

# The service on Debian machines that really boot: a kernel and two images, built once (some minutes).
test-boot: .venv-test/.made
	@sh tests/kernel/build.sh "$(CACHE)" > /dev/null
	@sh tests/boot/mkimage.sh "$(CACHE)" sysvinit > /dev/null
	@sh tests/boot/mkimage.sh "$(CACHE)" systemd > /dev/null
	.venv-test/bin/python -m pytest tests/boot $(PYTEST_ARGS)

check: lint test

lint: .venv-test/.made
	.venv-test/bin/ruff format --check .
	.venv-test/bin/ruff check .
	.venv-test/bin/mypy
	.venv-test/bin/python -m sphinx -q -n -W docs docs/_build/html

bench: .venv-test/.made influxdb
	@sh tests/kernel/build.sh "$(CACHE)" > /dev/null
	.venv-test/bin/python bench/run.py

# Pins for the tests; uv is needed for this alone.
lock:
	cd tests && uv pip compile --universal --python-version 3.11 --no-annotate --no-header requirements.in -o requirements.lock

clean:
	rm -rf venv .venv-test .venv-test-3.13 docs/_build

help:
	@echo "make run          the simulated meter, in the foreground; Ctrl-C ends it"
	@echo "make test         the tests, against a real InfluxDB"
	@echo "make test-3.13    the same on Python 3.13, where there is one"
	@echo "make test-kernel  the program on a real kernel's GPIO device, in a guest that is built once"
	@echo "make test-boot    the service on Debian machines that really boot in that guest"
	@echo "make check        style, types and docs (make lint), then the tests"
	@echo "make bench        the measurements of docs/benchmarks.rst"
	@echo "make clean        remove the virtual environments"

venv/.made: requirements.txt
	@sh tools/make_venv.sh "$(PYTHON)" venv requirements.txt

.venv-test/.made .venv-test-3.13/.made: tests/requirements.lock
	@sh tools/make_venv.sh "$(PYTHON)" $(@D) tests/requirements.lock

.PHONY: influxdb
influxdb:
	@sh tools/fetch_influxdb.sh "$(CACHE)" > /dev/null
