# Sourced by the build scripts, in this folder. Sets version to that of Kubernetes in go.mod, and ldflags so that the
# programs know it.
version=$(sed -n 's|^\tk8s.io/kubernetes v\([^ ]*\).*|\1|p' go.mod)
minor=${version#*.}; minor=${minor%%.*}
ldflags="-s -w"
for package in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
    ldflags="$ldflags -X $package.gitVersion=v$version -X $package.gitMajor=${version%%.*} -X $package.gitMinor=$minor"
done
# Without these, helm assumes that it renders for Kubernetes 1.20, which the chart does not support. helm's Makefile sets
# the same.
for package in helm.sh/helm/v3/pkg/chartutil helm.sh/helm/v3/pkg/lint/rules; do
    ldflags="$ldflags -X $package.k8sVersionMajor=${version%%.*} -X $package.k8sVersionMinor=$minor"
done
