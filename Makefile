# The commands of this project; `make help` lists them.

# Variables for the playbooks: make deploy EXTRA="-e mshare_region_size=64GiB"
# With an inventory of your own: make deploy EXTRA="-i inventory -e mshare_hosts=databases"
EXTRA ?=
# What `make prove` is to do: suites and how often, `make prove PROVE=--help` lists them.
export PROVE ?=
comma := ,

# One look and one behaviour, whatever callback and locale the user has set. The collection is
# found through a link in .venv: a relative path, so that the clone may stand anywhere.
export LC_ALL = C.UTF-8
export ANSIBLE_COLLECTIONS_PATH = .venv/collections
export ANSIBLE_CALLBACK_RESULT_FORMAT = yaml
export ANSIBLE_DISPLAY_SKIPPED_HOSTS = false
export ANSIBLE_INVENTORY_UNPARSED_WARNING = false
export ANSIBLE_LOCALHOST_WARNING = false
export ANSIBLE_NOCOWS = true
export ANSIBLE_STDOUT_CALLBACK = default
# Modules run under the system's own python3, as on any other host. Ansible's discovery would take the
# newest python3.* on PATH, which may be a pyenv shim that does not run.
export ANSIBLE_PYTHON_INTERPRETER = $(or $(wildcard /usr/bin/python3),$(CURDIR)/.venv/bin/python)

.PHONY: help deploy validate teardown test fleet-test vm-test molecule molecule-kernel molecule-vm prove check venv links docs picture format changelog

help: ## list these commands
	@sed -n 's/^\([a-z -]*\):[^#]*## \(.*\)/\1	\2/p' $(MAKEFILE_LIST) | while IFS='	' read -r names text; do \
	  for name in $$names; do printf '  make %-15s %s\n' "$$name" "$$text"; done; done
	@echo; echo '  Variables for the playbooks: make deploy EXTRA="-e mshare_region_size=64GiB -e mshare_clients_count=500"'

deploy: ## create the region, attach its clients, show what they save (playbook dbmem.mshare.deploy)
validate: ## measure again what sharing saves; fail if it does not (playbook dbmem.mshare.validate)
teardown: ## remove every process, mount, unit and file of ours (playbook dbmem.mshare.teardown)
deploy validate teardown:
	@.ci/setup deploy
	@.venv/bin/ansible-playbook dbmem.mshare.$@ $(if $(filter -i%,$(EXTRA)),,-i localhost$(comma) -c local) $(EXTRA)

venv: ## set up .venv with everything that developing needs
	@.ci/setup test

check: venv ## the quality gate: linters, types, documentation, the built collection
	@tests/run check

test: venv ## the quality gate, then every test
	@tests/run check tests

fleet-test: venv ## deployments to many ssh hosts, interrupted, upgraded, undone (a part of `make test`)
	@tests/run fleet

vm-test: venv ## a deployment under a real systemd, with reboot, in a VM (a part of `make test`)
	@tests/run vm

molecule: venv ## molecule's scenarios on test hosts made for it (a part of `make test`)
	@tests/run molecule

molecule-kernel: venv ## the same on the hosts of MSHARE_KERNEL_INVENTORY, whose kernel has mshare
	@tests/run molecule_kernel

molecule-vm: venv ## molecule's scenario for a real systemd, with reboot, in a VM
	@tests/run molecule_vm

prove: venv ## attack the product for an hour and count; write docs/proof.md (PROVE="--tries 5 kills errors")
	@tests/run prove

links: venv ## regenerate plugins/module_utils, which links to lib/mshare, and the manual pages
	@PYTHONPATH=tests:lib .venv/bin/python -m checks.links --write

docs: venv ## regenerate the roles' tables of variables, docs/reference, the shipped rules and dashboard
	@PYTHONPATH=tests .venv/bin/python -m checks.role_tables --write
	@PYTHONPATH=tests .venv/bin/python -m checks.tested --write
	@PYTHONPATH=tests .venv/bin/python -m checks.alerts --write
	@PYTHONPATH=tests .venv/bin/python -m checks.dashboard --write
	@PATH="$$PWD/.venv/bin:$$PATH" PYTHONPATH=tests python -m checks.reference --write
	@PYTHONPATH=tests:lib .venv/bin/python -m checks.schemas
	@PYTHONPATH=tests .venv/bin/python -m prove.tally

picture: venv ## draw the dashboard for docs/monitoring.md, from some minutes of a test host
	@MSHARE_PICTURE="$$PWD/docs/monitoring.svg" PATH="$$PWD/.venv/bin:$$PATH" \
	  ANSIBLE_COLLECTIONS_PATH="$$PWD/.venv/collections" pytest -q tests/fleet/test_prometheus.py

format: venv ## format the Python code
	@.venv/bin/ruff check --fix --quiet . ; .venv/bin/ruff format .

changelog: venv ## regenerate CHANGELOG.rst for the version in galaxy.yml
	@PATH="$$PWD/.venv/bin:$$PATH" antsibull-changelog release --reload-plugins --update-existing --refresh
