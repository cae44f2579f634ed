# Every target does its own set-up: all it needs is python3.11 or newer with venv, and a package index that pip reaches.
# Another index, a proxy, a wheel folder: pip's own settings (PIP_INDEX_URL, PIP_EXTRA_INDEX_URL, PIP_FIND_LINKS).
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test check lint types imports bench clean
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS += --no-print-directory

VENV := .venv
DEMO := recipes/demo-ko-en.yaml
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# The first that is new enough and can make an environment; `make PYTHON=/path/to/python` puts another in front.
PYTHONS := $(PYTHON) python3 python3.13 python3.12 python3.11 python3.14 python
USABLE := import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))
# One test process a core, one thread each: torch's own threads would only fight over the same cores.
WORKERS ?= $(shell getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)

help: ## say what there is
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /\1\t/' | while IFS=$$'\t' read -r name text; do \
		printf '  make %-8s %s\n' "$$name" "$$text"; done

demo: $(VENV)/.ready-demo ## train a Korean-English translator (10 minutes on 2 cores), measure it, draw its attention; mixer=NAME
	@say() { printf '\n\033[1m$$ %s\033[0m\n' "$$*"; "$(BIN)/$$@"; }; \
	say jogak train $(DEMO) --overwrite $(if $(mixer),--mixer $(mixer)) $(set); \
	say jogak eval runs/demo --samples 10; \
	say jogak run runs/demo "파일을 저장할 수 없습니다" "새 창에서 링크 열기" "%(name)s 항목을 삭제하시겠습니까?"; \
	say jogak look runs/demo "나는 은행에 갔다" -o runs/demo/look.html; \
	say jogak look runs/demo "파일을 저장할 수 없습니다" -o runs/demo/look.png; \
	printf '\nThe attention page: %s\nHow training went:  %s\n' "$(CURDIR)/runs/demo/look.html" "$(CURDIR)/runs/demo/report.html"

test: check ## check, and every test; k=EXPRESSION picks some
	@echo "== tests ($(WORKERS) processes)"
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal $(if $(k),-k '$(k)')

check: lint types imports ## style, types, and which way imports go

lint: $(VENV)/.ready-test
	@echo "== ruff"
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: $(VENV)/.ready-test
	@echo "== pyright"
	@$(BIN)/pyright

imports: $(VENV)/.ready-test
	@echo "== import-linter"
	@$(BIN)/lint-imports

bench: $(VENV)/.ready-bench ## time jogak beside its peers, in one process run each; only=NAME picks one
	@for script in bench/$(or $(only),[a-z]*).py; do echo "== $$script"; $(BIN)/python "$$script"; done

clean: ## remove the environment and every cache; runs stay
	@rm -rf $(VENV) .pytest_cache .ruff_cache .import_linter_cache build dist
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# What each target installs. The stamp is newer than pyproject.toml and constraints.txt once that is done.
$(VENV)/.ready-demo: EXTRAS := text,look,track
$(VENV)/.ready-test: EXTRAS := test
$(VENV)/.ready-bench: EXTRAS := test,bench
$(VENV)/.ready-%: pyproject.toml constraints.txt
	@if ! { $(BIN)/python -c '$(USABLE)' && $(PIP) --version; } >/dev/null 2>&1; then \
		for found in $(PYTHONS); do \
			if "$$found" -c '$(USABLE)' 2>/dev/null; then \
				echo "== making $(VENV) with $$found ($$("$$found" --version))"; \
				"$$found" -m venv --clear $(VENV); break; fi; \
		done; \
	fi
	@$(BIN)/python -c '$(USABLE)' 2>/dev/null || { \
		echo "jogak needs Python 3.11 or newer with venv and none was found (Debian, Ubuntu: apt install python3-venv); make PYTHON=/path/to/python3.11 names one" >&2; \
		exit 2; }
	@echo "== installing jogak[$(EXTRAS)] into $(VENV)"
	@$(PIP) install -c constraints.txt -e '.[$(EXTRAS)]'
	@touch $@
