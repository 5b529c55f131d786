#!/usr/bin/env bash
# A person and their password, in one file.
kubectl apply -f examples/user-with-password.yaml
kubectl wait --for=condition=Ready users.roster.dev/jane --timeout=10s
# Only a hash is stored, in the Secret and in kubectl's copy of the manifest.
kubectl get secret jane-password -o jsonpath='{.data.passwordHash}' | base64 -d; echo
kubectl get secret jane-password -o jsonpath='{.metadata.annotations}'; echo
# The credential is stored in a namespace that only the operator reads, and is deleted with the User.
kubectl get secrets -n roster-system -l roster.dev/identifier -L roster.dev/identifier
# Applying the same file again changes nothing.
kubectl apply -f examples/user-with-password.yaml
# The other examples, in any order.
kubectl apply -f examples/
kubectl wait --for=condition=Ready users.roster.dev --all --timeout=10s
kubectl get users.roster.dev -o wide
# Groups and bindings become native RBAC, here in every namespace of the project.
kubectl create namespace apollo --dry-run=client -o yaml | kubectl apply -f -
kubectl label namespace apollo --overwrite roster.dev/project=apollo
kubectl wait --for=jsonpath='{.status.bindings}'=1 rolebindings.roster.dev/engineers-edit --timeout=10s
kubectl get rolebindings.rbac.authorization.k8s.io -n apollo -o wide
kubectl auth can-i create deployments -n apollo --as jane --as-group engineers
kubectl get groups.roster.dev,rolebindings.roster.dev
# A second User with Jane's email address is stored, and its status says why it does not take effect.
printf '%s\n' '---' '{apiVersion: roster.dev/v1alpha1, kind: User, metadata: {name: mallory}, spec: {email: JANE@example.com}}' | kubectl apply -f -
kubectl wait --for=condition=Stalled users.roster.dev/mallory --timeout=10s
kubectl get users.roster.dev mallory -o jsonpath='{.status.conditions[?(@.type=="Ready")].message}'; echo
kubectl delete users.roster.dev mallory
# Invalid values are rejected with a message that says what is allowed.
printf '%s\n' '---' '{apiVersion: roster.dev/v1alpha1, kind: User, metadata: {name: bob}, spec: {timezone: Europe/Atlantis}}' | kubectl apply -f - || true
# Disable a user with one field. Enabling works the same way.
kubectl patch users.roster.dev jane --type=merge -p '{"spec": {"state": "Disabled"}}'
kubectl wait --for=jsonpath='{.status.state}'=Disabled users.roster.dev/jane --timeout=10s
kubectl get events --field-selector involvedObject.name=jane
kubectl explain users.roster.dev.spec.validity
