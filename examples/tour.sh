#!/usr/bin/env bash
# A person and their password, in one file.
kubectl apply -f examples/user-with-password.yaml
kubectl wait --for=condition=Ready users.roster.dev/jane --timeout=10s
# What was stored is a hash, in the Secret and in kubectl's own copy of the manifest.
kubectl get secret jane-password -o jsonpath='{.data.passwordHash}' | base64 -d; echo
kubectl get secret jane-password -o jsonpath='{.metadata.annotations}'; echo
# The credential itself is kept in a namespace that only the operator reads, and goes when the User goes.
kubectl get secrets -n roster-system -l roster.dev/identifier -L roster.dev/identifier
# Applying the same file again changes nothing.
kubectl apply -f examples/user-with-password.yaml
# The rest of the examples, in whatever order.
kubectl apply -f examples/
kubectl wait --for=condition=Ready users.roster.dev --all --timeout=10s
kubectl get users.roster.dev -o wide
# Groups and bindings become native RBAC: here, in every namespace of the project.
kubectl create namespace apollo --dry-run=client -o yaml | kubectl apply -f -
kubectl label namespace apollo --overwrite roster.dev/project=apollo
kubectl wait --for=jsonpath='{.status.bindings}'=1 rolebindings.roster.dev/engineers-edit --timeout=10s
kubectl get rolebindings.rbac.authorization.k8s.io -n apollo -o wide
kubectl auth can-i create deployments -n apollo --as jane --as-group engineers
kubectl get groups.roster.dev,rolebindings.roster.dev
# A second person with Jane's email address keeps their manifest, and is told why it does not take effect.
printf '%s\n' '---' '{apiVersion: roster.dev/v1alpha1, kind: User, metadata: {name: mallory}, spec: {email: JANE@example.com}}' | kubectl apply -f -
kubectl wait --for=condition=Stalled users.roster.dev/mallory --timeout=10s
kubectl get users.roster.dev mallory -o jsonpath='{.status.conditions[?(@.type=="Ready")].message}'; echo
kubectl delete users.roster.dev mallory
# Mistakes are refused with a message that says what is allowed.
printf '%s\n' '---' '{apiVersion: roster.dev/v1alpha1, kind: User, metadata: {name: bob}, spec: {timezone: Europe/Atlantis}}' | kubectl apply -f - || true
# Disabling is a field, and so is undoing it.
kubectl patch users.roster.dev jane --type=merge -p '{"spec": {"state": "Disabled"}}'
kubectl wait --for=jsonpath='{.status.state}'=Disabled users.roster.dev/jane --timeout=10s
kubectl get events --field-selector involvedObject.name=jane
kubectl explain users.roster.dev.spec.validity
