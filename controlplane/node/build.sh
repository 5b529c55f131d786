#!/usr/bin/env bash
# Builds what a node of `make cluster` runs, once, into a cache outside the project, and prints the folder: kubelet,
# kube-proxy, kube-scheduler, containerd, its shim and client, CNI plugins (in cni/), pause, and the images of pause and
# CoreDNS as OCI archives.
#
# The programs share most packages with the control plane, whose compiled packages Go has cached: call
# controlplane/build.sh first. The modules in containerd/ and coredns/ require the same versions where they can.
set -euo pipefail
cd "$(dirname "$0")/.."
source cache.sh
source versions.sh

kubernetes=(kubelet kube-proxy kube-scheduler)
containerd=(containerd containerd-shim-runc-v2 ctr)
cni=(main/bridge ipam/host-local meta/portmap)

build() {
    if ! command -v buildah >/dev/null; then echo "buildah is missing: install it (Debian: apt-get install buildah)"; exit 1; fi
    echo "Building kubelet, containerd, CNI plugins and CoreDNS from source, once; it takes about 3 minutes."
    go mod download
    go_build -ldflags "$ldflags" -o "$1/" "${kubernetes[@]/#/k8s.io/kubernetes/cmd/}"
    (
        cd node/containerd
        go mod download
        go_build -ldflags "-s -w" -o "$1/" "${containerd[@]/#/github.com/containerd/containerd/v2/cmd/}"
        mkdir "$1/cni"
        go_build -ldflags "-s -w" -o "$1/cni/" "${cni[@]/#/github.com/containernetworking/plugins/plugins/}"
    )
    # Packages that were compiled for dynamic programs are linked statically, so that they are not compiled again.
    # CoreDNS looks up no users or hosts, which the linker warns of.
    (cd node/coredns && go_build -ldflags "-s -w -linkmode external -extldflags -static" -o "$1/coredns" .) \
        2> >(grep -v '^# \|: in function \|in statically linked applications' >&2)
    cc -Os -s -static -Wall -Werror -o "$1/pause" node/pause.c
    image "$1" pause
    image "$1" coredns
}

# Writes an image that contains only the program.
image() { # FOLDER PROGRAM
    local container
    container=$(buildah from scratch)
    buildah copy --quiet --chmod 755 "$container" "$1/$2" "/$2" >/dev/null
    buildah config --entrypoint "[\"/$2\"]" "$container"
    buildah commit --quiet --rm --timestamp 0 "$container" "oci-archive:$1/$2.tar:$2:1" >/dev/null
}

build_once "$(cache_folder "node-$version" go.mod go.sum cache.sh versions.sh node/build.sh node/pause.c \
    node/containerd/go.{mod,sum} node/coredns/{go.mod,go.sum,main.go})"
