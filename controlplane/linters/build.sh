#!/usr/bin/env bash
# Builds kubeconform and kube-score from the versions that go.mod pins, once, into a cache outside the project, and
# prints the folder. It takes a minute; the test that needs them runs it.
set -euo pipefail
cd "$(dirname "$0")"
source ../cache.sh

build() {
    echo "Building kubeconform and kube-score from source, once; it takes a minute."
    go_build -ldflags "-s -w" -o "$1/" tool
    for tool in kubeconform kube-score; do test -x "$1/$tool"; done
}

build_once "$(cache_folder linters go.mod go.sum ../cache.sh build.sh)"
