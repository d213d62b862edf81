# Targets: run `make` for the list. The first target that needs it installs into .venv; only python3 and make have to be there.
# A Linux machine without an NVIDIA GPU saves gigabytes with  make demo TORCH_INDEX=<the CPU index of PyTorch's install page>

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
INDEX  := $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))

.DEFAULT_GOAL := help
.PHONY: help demo test check bench docs site kernels format clean

help:
	@echo "make demo    see it work: pictures, a plot and a page with a slider in dni-demo/"
	@echo "make test    run the tests"
	@echo "make check   ruff and mypy"
	@echo "make bench   time it against the alternatives, on this machine"
	@echo "make docs    write docs/cli.md, docs/python-api.md and docs/architectures.md from help texts, docstrings and results"
	@echo "make site    build the documentation as a site in build/site, with the demo as a live page where npm is"
	@echo "make kernels compile the CUDA kernels that are shipped, after an edit of a .cu file; needs nvcc"
	@echo "make format  ruff format"
	@echo "make clean   remove .venv"
	@echo
	@echo "PYTHON=python3.12 chooses the Python, VENV=dir the folder; TORCH_INDEX=url an index for PyTorch."

# What the demo needs, 400 MB; everything else has PyTorch and the tools of the tests, and is enough for the demo, too.
$(BIN)/.demo-ready: EXTRAS = cpu,report,serve
$(BIN)/.ready: EXTRAS = all,test
$(BIN)/.site-ready: EXTRAS = cpu,docs,serve,tune,video

$(BIN)/.demo-ready $(BIN)/.ready $(BIN)/.site-ready: pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "There is no $(PYTHON) here. Install Python 3.10 or newer, or try: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 10) else "Python 3.10 or newer is needed, $(PYTHON) is " + sys.version.split()[0] + ". Try: make PYTHON=python3.12")'
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "Python's venv module is missing. On Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@echo "installing dni-deploy[$(EXTRAS)] into $(VENV)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(INDEX) -c constraints.txt -e ".[$(EXTRAS)]"
	@touch $@

demo: $(or $(wildcard $(BIN)/.ready),$(BIN)/.demo-ready)
	$(BIN)/dni-deploy demo --force

test: $(BIN)/.ready
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m "not slow" -n logical --dist loadfile

check: $(BIN)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(BIN)/.ready
	$(BIN)/ruff format .

bench: $(BIN)/.ready
	$(BIN)/python -m benchmarks

docs: $(BIN)/.ready
	$(BIN)/python docs/generate_cli.py
	$(BIN)/python docs/generate_python_api.py
	$(BIN)/python docs/generate_architectures.py

site: $(BIN)/.site-ready
	$(BIN)/python docs/build_site.py

kernels: $(BIN)/.ready
	$(BIN)/python -m engines.cuda.compile

clean:
	rm -rf $(VENV)
