#!/usr/bin/env bash
# Builds the real etcd, kube-apiserver, kube-controller-manager, kubectl and helm from the versions that go.mod pins,
# once, into a cache outside the project, and prints the folder.
#
#   controlplane/build.sh            build what is missing, then print the folder
#   controlplane/build.sh --where    print the folder, build nothing
#
# The cache is ${ROSTER_CACHE:-${XDG_CACHE_HOME:-~/.cache}/roster}; its key is the module's version and checksums.
set -euo pipefail
cd "$(dirname "$0")"

version=$(sed -n 's|^\tk8s.io/kubernetes v\([^ ]*\).*|\1|p' go.mod)
key=$(cat go.mod go.sum build.sh | sha256sum | cut -c1-12)
cache=${ROSTER_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/roster}
bin=$cache/controlplane-$version-$key
if [ "${1:-}" = --where ]; then echo "$bin"; exit 0; fi
if [ -e "$bin/.complete" ]; then echo "$bin"; exit 0; fi

if ! command -v go >/dev/null; then
    echo "go is missing: install Go 1.26 or later (https://go.dev/doc/install), or point KUBEBUILDER_ASSETS at a folder with etcd, kube-apiserver and kube-controller-manager" >&2
    exit 1
fi
mkdir -p "$cache"
exec 9>"$cache/.lock"
flock 9
if [ -e "$bin/.complete" ]; then echo "$bin"; exit 0; fi

minor=${version#*.}; minor=${minor%%.*}
ldflags="-s -w"
for package in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
    ldflags="$ldflags -X $package.gitVersion=v$version -X $package.gitMajor=${version%%.*} -X $package.gitMinor=$minor"
done
# Without these, helm believes that it renders for Kubernetes 1.20, which the chart does not support. helm's Makefile sets
# the same.
for package in helm.sh/helm/v3/pkg/chartutil helm.sh/helm/v3/pkg/lint/rules; do
    ldflags="$ldflags -X $package.k8sVersionMajor=${version%%.*} -X $package.k8sVersionMinor=$minor"
done
declare -A tools=(
    [etcd]=go.etcd.io/etcd/server/v3
    [kube-apiserver]=k8s.io/kubernetes/cmd/kube-apiserver
    [kube-controller-manager]=k8s.io/kubernetes/cmd/kube-controller-manager
    [kubectl]=k8s.io/kubernetes/cmd/kubectl
    [helm]=helm.sh/helm/v3/cmd/helm
)
echo "Building Kubernetes $version from source, once; it takes 5 to 15 minutes on two cores." >&2
go mod download >&2
total=$(go list -deps "${tools[@]}" | wc -l)
rm -rf "$bin.part"
mkdir -p "$bin.part"
# Lines of -v contain only a package path. All other output of go is passed on.
progress() {
    awk -v total="$total" '/^[a-zA-Z0-9._\/~+-]+$/ { if (++n % 100 == 0) { printf "  compiled %d of at most %d packages\n", n, total; fflush() } next } { print; fflush() }' >&2
}
# One call, so that shared packages are compiled once. Go names a program after the last part of its path.
GOFLAGS= go build -v -trimpath -buildvcs=false -ldflags "$ldflags" -o "$bin.part/" "${tools[@]}" 2> >(progress)
mv "$bin.part/server" "$bin.part/etcd"
for tool in "${!tools[@]}"; do test -x "$bin.part/$tool"; done
touch "$bin.part/.complete"
rm -rf "$bin"
mv "$bin.part" "$bin"
echo "Kubernetes $version is in $bin" >&2
echo "$bin"
