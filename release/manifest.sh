#!/usr/bin/env bash
# Prints install.yaml, for `kubectl apply --server-side`: the namespace, the CRDs, and what a packaged chart renders.
#
#   release/manifest.sh CHART [ARGUMENT OF helm template]...
#
# kubectl applies the file from the top: what is in the namespace needs the namespace, and webhooks, which deny writes until
# an operator runs, come after everything that they could deny. helm prints its part in this order.
source "$(dirname "$0")/common.sh"
chart=$1; shift

cat <<END
# Roster $version. Apply with: kubectl apply --server-side -f install.yaml
apiVersion: v1
kind: Namespace
metadata:
  name: roster-system
  labels:
    pod-security.kubernetes.io/enforce: restricted
END
helm show crds "$chart"
# Without the hooks of `helm test` and `helm uninstall`. The lowest version that the chart supports.
helm template roster "$chart" --namespace roster-system --no-hooks --kube-version 1.33 "$@"
