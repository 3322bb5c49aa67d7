# Everything a developer or CI does has a target here; the work itself is in scripts/.

PYTHON ?= python3
DEV := $(PYTHON) scripts/dev.py

.DEFAULT_GOAL := help
.PHONY: $(shell grep -o '^[a-z0-9-]*:' $(firstword $(MAKEFILE_LIST)) | tr -d :)

help: ## list the targets
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 24

run: ## get, build and start everything; Ctrl-C stops it, the data stays in DATA (.data)
	@exec $(DEV) run

test: ## all tests, on engines of their own
	@exec $(DEV) test

chaos: ## the long forms of all tests that have one, optimised build
	@MICROBLOG_CHAOS=long exec $(DEV) test --release -- -p system-tests -p query-service -- --nocapture

upgrade: ## replace the last tagged version under load, take it back, compare the speed; BEFORE=folder with binaries of another one
	@exec $(DEV) upgrade $(if $(BEFORE),--before "$(BEFORE)")

clients: ## live streams through client libraries from npm, PyPI and crates.io; needs the network
	@exec $(DEV) test -- --workspace --test behaviour --test roles client_libraries -- --ignored --nocapture

openapi: ## write docs/openapi from the code
	@MICROBLOG_WRITE_OPENAPI=1 cargo test --quiet -p command-service --lib openapi
	@MICROBLOG_WRITE_OPENAPI=1 cargo test --quiet -p query-service --lib openapi

openapi-check: ## is Redocly's linter content with docs/openapi?
	@exec $(PYTHON) scripts/check_openapi.py

try-openapi-clients: ## clients that generators make of docs/openapi sign up, post and read; URL=a gateway, or a stack of its own
	@exec $(PYTHON) scripts/try_openapi_clients.py

try-schemathesis: ## does a stack of its own keep what docs/openapi promises, whatever it is asked? ARGS=options of Schemathesis
	@exec $(PYTHON) scripts/try_schemathesis.py $(ARGS)

images: ## build the container images; BUILDER=docker, podman or buildah, BUILDER_IMAGE=the Rust image to compile in
	@exec $(PYTHON) scripts/images.py build

latency: ## what the gateway costs on a hot timeline, with and without it in turns, optimised build
	@exec $(DEV) test --release -- --workspace --test gateway costs_less -- --ignored --nocapture

observe: ## Prometheus with our rules beside what `make run` runs; Loki, Jaeger and Grafana too where they are on the PATH
	@exec $(PYTHON) scripts/observe.py

rotate-key: ## replace the key that signs access tokens while `make run` runs: 21 minutes; or ARGS="--cluster CONTEXT"; docs/rotation.md
	@exec $(PYTHON) scripts/rotate.py key $(ARGS)

rotate-broker: ## ARGS="--cluster CONTEXT": replace the services' password at NATS while they run
	@exec $(PYTHON) scripts/rotate.py broker $(ARGS)

rotate-database: ## ARGS="--cluster CONTEXT --overlay FOLDER": replace the services' password at MongoDB while they run
	@exec $(PYTHON) scripts/rotate.py database $(ARGS)

try-observe: ## every panel, counter, log line and trace of a stack of its own under a load: two minutes
	@exec $(PYTHON) scripts/try_observe.py

try-alerts: ## one fault after the other, and which alerts fire: a quarter of an hour; FAULTS="password storage" for some
	@exec $(PYTHON) scripts/try_alerts.py $(FAULTS)

try-operations: ## the procedures of docs/operations.md as they stand there, under a load: ten minutes; UNTIL=upgrade for some
	@exec $(PYTHON) scripts/try_operations.py $(if $(UNTIL),--until $(UNTIL))

try-tour: ## the calls of docs/tour.md as they stand there, on a stack of their own: half a minute
	@exec $(PYTHON) scripts/try_tour.py

try-web: ## the web page in Chromium, on a stack of its own: half a minute; SCREENSHOTS=folder keeps pictures
	@exec $(PYTHON) scripts/try_web.py $(if $(SCREENSHOTS),--screenshots "$(SCREENSHOTS)")

lambda: ## pack the functions of manifests/aws/serverless.yaml into target/lambda; MICROBLOG_BIN_DIR=folder to build nothing
	@exec $(PYTHON) scripts/build_lambda.py

try-lambda: ## the functions with Lambda's adapter and a stand-in of its Runtime API: a minute
	@exec $(PYTHON) scripts/try_lambda.py

try-snippets: ## the programs of docs/events.md and docs/tokens.md as they stand there, against a stack of its own: a minute; needs the network
	@exec $(PYTHON) scripts/try_snippets.py

overhead: ## what logs and traces cost, with and without them in turns, optimised build; BEFORE=folder with the other side's binaries
	@MICROBLOG_BEFORE=$(abspath $(BEFORE)) exec $(DEV) test --release -- --workspace --test tracing costs_less -- --ignored --nocapture

postman: ## the Postman collection against what `make run` runs
	@exec $(DEV) postman

postman-k6: ## the Postman collection, converted to k6, against a stack of its own, or URL=a gateway
	@exec $(PYTHON) scripts/postman_k6.py $(if $(URL),--url "$(URL)")

check: format clippy doc dependencies shell dockerfiles openapi-check collection documents events architecture manifests aws rules dashboards capacity-check ## formatting, lints, dependencies, documents, contracts, which folder may use which, manifests, templates, rules, dashboards, figures

format: ## is everything formatted?
	cargo fmt --all --check

clippy: ## lints, warnings are errors
	cargo clippy --workspace --all-targets --quiet -- -D warnings

doc: ## does the documentation build without a warning?
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --quiet

dependencies: ## licences, sources and banned crates, by deny.toml
	@exec $(PYTHON) scripts/check_dependencies.py

shell: ## shellcheck on the shell scripts
	@exec $(DEV) shellcheck

dockerfiles: ## hadolint on the Dockerfiles
	@exec $(PYTHON) scripts/images.py lint

collection: ## are all routes in the Postman collection and in docs/api.md?
	@exec $(PYTHON) scripts/check_postman.py

documents: ## do the files, tests, names, settings, codes and metrics in the documents exist, and are operators' commands right?
	@$(PYTHON) scripts/check_docs.py
	@exec $(PYTHON) scripts/check_operations.py

events: ## is docs/asyncapi.yaml valid, and has it every kind of event, as the golden messages have them?
	@exec $(PYTHON) scripts/check_events.py

architecture: ## the rooms and what they must not mention
	cargo test --quiet --workspace --test architecture

manifests: ## do the manifests render, are they valid, and is everything there that they name?
	@$(PYTHON) scripts/check_manifests.py
	@$(PYTHON) scripts/test_check_manifests.py
	@$(PYTHON) scripts/test_rotate.py
	@exec $(PYTHON) scripts/try_gateway.py

aws: ## are the templates for AWS right, and do they agree with the manifests?
	@exec $(PYTHON) scripts/check_aws.py

rules: ## are the rules of Prometheus right, does each alert fire in its test, and has it a runbook?
	@exec $(PYTHON) scripts/check_rules.py

dashboards: ## can the dashboards be read, and is what they name measured?
	@exec $(PYTHON) scripts/check_dashboards.py

capacity-check: ## are the tables of docs/capacity.md what bench/ computes from bench/measured.json?
	@$(PYTHON) bench/test_simulate.py --quiet
	@exec $(PYTHON) bench/simulate.py --check

capacity: ## compute the tables of docs/capacity.md again, and write them
	@exec $(PYTHON) bench/simulate.py --write

bench: ## what each unit of work costs, into bench/measured.json: half an hour; ONLY="reads streams" for some
	@exec $(PYTHON) bench/measure.py $(ONLY)

load: ## k6 uses a graph in a stack of its own as people would; GRAPH=file, SCENARIO=smoke, mix, spike or soak, DURATION=90s, RATE=, THRESHOLDS=own, SUMMARY=file, or URL=a gateway
	@exec $(PYTHON) bench/load.py $(foreach option,SCENARIO DURATION RATE VUS GRAPH THRESHOLDS SUMMARY URL ACCOUNTS,$(if $($(option)),--$(shell echo $(option) | tr A-Z a-z) "$($(option))"))

try-load: ## do the load scripts notice wrong answers? one fault after the other between k6 and a gateway: a minute or two
	@exec $(PYTHON) bench/try_load.py

fmt: ## format everything
	cargo fmt --all

engines: ## install MongoDB, NATS and Traefik where they are missing, and print their paths
	@exec $(DEV) engines

clean: ## remove what was built; data and the cached engines stay
	cargo clean

.DEFAULT:
	$(error no target '$@': `make help` lists the targets)
