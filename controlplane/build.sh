#!/usr/bin/env bash
# Builds the real etcd, kube-apiserver, kube-controller-manager, kubectl and helm from the versions that go.mod pins,
# once, into a cache outside the project, and prints the folder.
#
#   controlplane/build.sh            build what is missing, then print the folder
#   controlplane/build.sh --where    print the folder, build nothing
set -euo pipefail
cd "$(dirname "$0")"
source cache.sh
source versions.sh

bin=$(cache_folder "controlplane-$version" go.mod go.sum cache.sh versions.sh build.sh)
if [ "${1:-}" = --where ]; then echo "$bin"; exit 0; fi
GO_ADVICE=", or point KUBEBUILDER_ASSETS at a folder with etcd, kube-apiserver and kube-controller-manager"

declare -A tools=(
    [etcd]=go.etcd.io/etcd/server/v3
    [kube-apiserver]=k8s.io/kubernetes/cmd/kube-apiserver
    [kube-controller-manager]=k8s.io/kubernetes/cmd/kube-controller-manager
    [kubectl]=k8s.io/kubernetes/cmd/kubectl
    [helm]=helm.sh/helm/v3/cmd/helm
)

build() {
    echo "Building Kubernetes $version from source, once; it takes 5 to 15 minutes on two cores."
    go mod download
    total=$(go list -deps "${tools[@]}" | wc -l)
    # One call, so that shared packages are compiled once. Go names a program after the last part of its path.
    go_build -v -ldflags "$ldflags" -o "$1/" "${tools[@]}" 2> >(progress)
    mv "$1/server" "$1/etcd"
    for tool in "${!tools[@]}"; do test -x "$1/$tool"; done
}

# Lines of -v contain only a package path. All other output of go is passed on.
progress() {
    awk -v total="$total" '/^[a-zA-Z0-9._\/~+-]+$/ { if (++n % 100 == 0) { printf "  compiled %d of at most %d packages\n", n, total; fflush() } next } { print; fflush() }' >&2
}

build_once "$bin"
