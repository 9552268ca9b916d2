.PHONY: install test slow slurm s3 lint demo

install:
	pip install -c constraints.txt -e '.[test]' pre-commit
	pre-commit install

test:
	python -m pytest

slow:
	python -m pytest -m slow

slurm:
	bash tests/cluster/slurm.sh

s3:
	bash tests/cluster/s3.sh

lint:
	ruff check . && ruff format --check . && snakemake --lint
	mypy && vulture && deptry vlfm benchmarks && deptry tests --ignore DEP002,DEP004

demo:
	snakemake --cores all
