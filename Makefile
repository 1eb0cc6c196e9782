# demo, kv, test, test-noautofill, bench, bench-readme, detection, lint, sanitize: each works as the first command on a fresh
# clone and makes its own environment.
# Needed: Python >= 3.10 with venv and its C headers, a C compiler, make. Override PYTHON, VENV or BUILD at will.
PYTHON ?= python3
VENV ?= .venv
BUILD ?= build
JOBS ?= 2

.DELETE_ON_ERROR:
.PHONY: demo kv test test-c test-python test-noautofill bench bench-readme detection lint format sanitize sanitize-address sanitize-thread clean

# The environment's tools come first; CMake and ninja are there only where the system has none.
WITH_VENV = PATH="$(abspath $(VENV))/bin:$$PATH"
PIP = $(VENV)/bin/python -m pip --disable-pip-version-check -q
SOURCES = $(shell find bufpool pytest_bufpool native/include native/src native/python native/sqlite native/cmake native/gdb native/CMakeLists.txt \
	-not -path '*/__pycache__*' -not -type d) pyproject.toml README.md LICENSE

demo: $(VENV)/.package
	$(VENV)/bin/bufpool demo

# The key-value store of examples/kv, as "make kv KV='--seconds 120 --kill 50'".
kv: $(VENV)/.cmake
	$(WITH_VENV) cmake -S native -B $(BUILD)/c -G Ninja
	$(WITH_VENV) cmake --build $(BUILD)/c --parallel $(JOBS) --target kv
	$(BUILD)/c/tests/kv $(KV)

test: test-c test-python

# c-tests(directory, cmake's arguments, ctest's prefix, name of the run): a C build, its tests, and what they skipped.
define c-tests
	$(WITH_VENV) cmake -S native -B $(1) -G Ninja $(2)
	$(WITH_VENV) cmake --build $(1) --parallel $(JOBS)
	$(WITH_VENV) $(3) ctest --test-dir $(1) --output-on-failure --no-tests=error --parallel $(JOBS) \
		--output-junit $(abspath $(1))/ctest.xml
	$(if $(4),$(if $(BUFPOOL_EXPECT_SKIPS),BUFPOOL_EXPECT_SKIPS=$(4) ))$(VENV)/bin/python tests/skip_policy.py $(1)/ctest.xml
endef

test-c: $(VENV)/.cmake
	$(call c-tests,$(BUILD)/c)

# Plain pytest tests the installed package; "python -m pytest" would import the source folder.
test-python: $(VENV)/.test
	mkdir -p $(BUILD)
	$(VENV)/bin/pytest --junitxml=$(BUILD)/pytest.xml
	$(VENV)/bin/python tests/skip_policy.py $(BUILD)/pytest.xml

# The kernel's own noautofill, under qemu: on a kernel that has it, and on one that has not, where the tests must fail.
# Builds both kernels first, a few minutes; what that takes of Debian 12 it says itself.
test-noautofill: $(VENV)/.cmake
	$(WITH_VENV) JOBS=$(JOBS) native/tests/noautofill/run $(BUILD)/noautofill

# The pool beside plain mmap: ten minutes at most. Writes bench/results/bench.* and the tables of the READMEs.
bench: $(VENV)/.test $(VENV)/.bench
	$(VENV)/bin/pytest bench --results --benchmark-quiet; status=$$?; \
		$(VENV)/bin/python bench/report.py && exit $$status

# The tables and the pictures once more, from the run that bench/results/bench.json has.
bench-readme: $(VENV)/.bench
	$(VENV)/bin/python bench/report.py

# Seeded bugs against bufpool, mprotect, AddressSanitizer and Valgrind (Debian: valgrind): bench/results/detection.*
detection: $(VENV)/.detection
	$(VENV)/bin/python bench/detection/run.py $(DETECTION)

# Not for the formatter: what cffi reads is not quite C.
C_FILES = $(shell find native -name '*.[ch]' -not -name '*.cdef.h' -o -name '*.cpp') \
	$(shell find examples bench -name '*.[ch]' -o -name '*.cpp' 2>/dev/null)
COMPILERS = gcc $(shell command -v clang)
ARM64 = $(shell command -v aarch64-linux-gnu-gcc)

lint: $(VENV)/.lint $(VENV)/.cmake
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/mypy native/gdb/bufpool_gdb.py native/gdb/bufpool_layout.py
	$(VENV)/bin/clang-format --dry-run --Werror $(C_FILES)
	for compiler in $(notdir $(COMPILERS)); do \
		$(WITH_VENV) cmake -S native -B $(BUILD)/lint-$$compiler -G Ninja -DCMAKE_C_COMPILER=$$compiler -DBUFPOOL_WERROR=ON && \
		$(WITH_VENV) cmake --build $(BUILD)/lint-$$compiler --parallel $(JOBS) && \
		$(WITH_VENV) ctest --test-dir $(BUILD)/lint-$$compiler --output-on-failure --no-tests=error -R '^symbols$$' || exit 1; \
	done
	@$(if $(ARM64),$(WITH_VENV) cmake -S native -B $(BUILD)/lint-arm64 -G Ninja -DCMAKE_C_COMPILER=$(ARM64) \
		-DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 -DBUFPOOL_WERROR=ON && \
		$(WITH_VENV) cmake --build $(BUILD)/lint-arm64 --parallel $(JOBS),\
		echo "not compiled for arm64: there is no aarch64-linux-gnu-gcc (Debian: gcc-aarch64-linux-gnu)")

format: $(VENV)/.lint
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .
	$(VENV)/bin/clang-format -i $(C_FILES)

sanitize: sanitize-address sanitize-thread

sanitize-address: $(VENV)/.cmake
	$(call c-tests,$(BUILD)/asan,"-DBUFPOOL_SANITIZE=address;undefined",,asan)

# The thread sanitizer's map of the address space does not bear much randomisation.
sanitize-thread: $(VENV)/.cmake
	$(call c-tests,$(BUILD)/tsan,-DBUFPOOL_SANITIZE=thread,$$(setarch -R true 2>/dev/null && echo setarch -R),tsan)

clean:
	rm -rf $(BUILD) $(VENV)

# ---- The environment ---------------------------------------------------------------------------------------------

$(VENV)/.venv:
	@$(PYTHON) -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "bufpool needs Python >= 3.10 with venv (Debian: python3-venv); this is $$($(PYTHON) --version 2>&1)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	touch $@

# The package is installed anew whenever a source of it has changed.
$(VENV)/.package: $(VENV)/.venv $(SOURCES)
	$(PIP) install .
	touch $@

# The package is there already, so these only add the tools of the named extra.
$(VENV)/.test $(VENV)/.lint $(VENV)/.bench $(VENV)/.detection: $(VENV)/.%: $(VENV)/.package
	$(PIP) install "bufpool[$*]"
	touch $@

$(VENV)/.cmake: native/cmake/find_tools $(VENV)/.venv
	for tool in $$(native/cmake/find_tools); do $(PIP) install $$tool; done
	touch $@
