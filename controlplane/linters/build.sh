#!/usr/bin/env bash
# Builds kubeconform, kube-score, helm-docs and actionlint from the versions that go.mod pins, once, into a cache
# outside the project, and prints the folder. It takes a minute or two; tests and `make generate` run it.
set -euo pipefail
cd "$(dirname "$0")"
source ../cache.sh

build() {
    echo "Building kubeconform, kube-score, helm-docs and actionlint from source, once; it takes a minute or two."
    go_build -ldflags "-s -w" -o "$1/" tool
    for tool in kubeconform kube-score helm-docs actionlint; do test -x "$1/$tool"; done
}

build_once "$(cache_folder linters go.mod go.sum ../cache.sh build.sh)"
