{{- define "roster.labels" -}}
app.kubernetes.io/name: roster
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}
{{- define "roster.selector" -}}
app.kubernetes.io/name: roster
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{/* Uses the digest if there is one. */}}
{{- define "roster.image" -}}
{{- $image := .Values.image -}}
{{- if $image.digest -}}
{{ printf "%s@%s" $image.repository $image.digest | quote }}
{{- else -}}
{{ printf "%s:%s" $image.repository ($image.tag | default .Chart.AppVersion) | quote }}
{{- end -}}
{{- end }}

{{/* Container security context without any privileges. */}}
{{- define "roster.containerSecurity" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  privileged: false
  capabilities: {drop: [ALL]}
{{- end }}

{{/* Annotations of objects with a caBundle: the given ones, and the one that makes cert-manager fill in the caBundle.
*/}}
{{- define "roster.trustAnnotations" -}}
{{- $annotations := .annotations | default dict -}}
{{- if eq .root.Values.certificates.provider "cert-manager" -}}
{{- $annotations = merge (dict "cert-manager.io/inject-ca-from" (printf "%s/roster-serving" .root.Release.Namespace)) $annotations -}}
{{- end -}}
{{- if $annotations -}}
annotations: {{- toYaml $annotations | nindent 2 }}
{{- end -}}
{{- end }}

{{/* How kube-apiserver reaches Roster's admission. The path is left out on purpose: Roster writes it, with a secret
segment by which it recognizes kube-apiserver, and applying this chart again must not remove it. A URL must contain the
base path.
*/}}
{{- define "roster.clientConfig" -}}
{{- if .Values.externalURL -}}
url: {{ .Values.externalURL }}/admission/
{{- else -}}
service:
  name: roster
  namespace: {{ .Release.Namespace }}
  port: 443
{{- end -}}
{{- end }}

{{/* Common fields of the guard's webhooks. The template ends within the list of match conditions, so that the caller can
add its own.
*/}}
{{- define "roster.guardWebhook" -}}
admissionReviewVersions: [v1]
sideEffects: None
failurePolicy: Fail
matchPolicy: Equivalent
timeoutSeconds: 10
clientConfig: {{- include "roster.clientConfig" . | nindent 2 }}
matchConditions:
- name: may-not-bind-every-role
  expression: "!(authorizer.group('rbac.authorization.k8s.io').resource('clusterroles').check('bind').allowed() && authorizer.group('rbac.authorization.k8s.io').resource('roles').check('bind').allowed())"
{{- end }}

{{/* Defaults that kube-apiserver would set. They are written out, so that applying the chart again changes nothing.
*/}}
{{- define "roster.matchDefaults" -}}
matchPolicy: Equivalent
objectSelector: {}
{{- end }}

{{/* Host and port of an operator that runs outside the cluster. */}}
{{- define "roster.externalHost" -}}
{{- (urlParse .Values.externalURL).hostname -}}
{{- end }}
{{- define "roster.servicePort" -}}
{{- if .Values.externalURL -}}
{{- regexFind "[0-9]+$" (urlParse .Values.externalURL).host | default "443" -}}
{{- else -}}
443
{{- end -}}
{{- end }}

{{- /* CEL: the users that the garbage collector runs as: with --use-service-account-credentials, and without. */}}
{{- define "roster.collectors" -}}
['system:serviceaccount:kube-system:generic-garbage-collector', 'system:kube-controller-manager']
{{- end }}

{{- /* CEL: the field managers of an object and what they own. With the time, by which kube-apiserver
merges managers. */}}
{{- define "roster.managers" -}}
{{ . }}.metadata.?managedFields.orValue([]).map(entry, [dyn(entry.?manager.orValue('')), dyn(entry.?operation.orValue('')), dyn(entry.?subresource.orValue('')), dyn(entry.?apiVersion.orValue('')), dyn(entry.?time.orValue('')), dyn(entry.?fieldsV1.orValue({}))])
{{- end }}

{{- /* CEL: whether an update changes labels, annotations or field managers, from which tools derive what to remove. The
webhooks look closer (ownership.rs of roster-core). Excludes the garbage collector and Roster, which write finalizers. */}}
{{- define "roster.ownershipChange" -}}
(!(request.userInfo.username in {{ include "roster.collectors" . }} || request.userInfo.username == 'system:serviceaccount:{{ .Release.Namespace }}:roster') && (object.metadata.?labels.orValue({}) != oldObject.metadata.?labels.orValue({}) || object.metadata.?annotations.orValue({}) != oldObject.metadata.?annotations.orValue({}) || {{ include "roster.managers" "object" }} != {{ include "roster.managers" "oldObject" }}))
{{- end }}

{{- /* CEL: the managers of a Namespace that own labels, the whole map of labels or annotations, an annotation with a
manifest, or the lock. Of each, what it owns. A change of the lock itself does not count as a change of its owners. */}}
{{- define "roster.namespaceManagers" -}}
{{- $metadata := "entry.fieldsV1['f:metadata']" -}}
{{- $labels := printf "%s[?'f:labels']" $metadata -}}
{{- $annotations := printf "%s[?'f:annotations']" $metadata -}}
{{- $lock := "metadata.?annotations[?'roster.dev/locked-by']" -}}
{{- $kubectl := printf "%s[?'f:kubectl.kubernetes.io/last-applied-configuration']" $annotations -}}
{{- $kapp := printf "%s[?'f:kapp.k14s.io/original']" $annotations -}}
{{- $locks := printf "%s[?'f:roster.dev/locked-by']" $annotations -}}
{{ . }}.metadata.?managedFields.orValue([]).filter(entry, entry.?fieldsV1[?'f:metadata'].hasValue()).map(entry, [dyn(entry.?manager.orValue('')), dyn(entry.?operation.orValue('')), dyn(entry.?subresource.orValue('')), dyn(entry.?apiVersion.orValue('')), dyn({{ $labels }}.optMap(owned, [owned]).orValue([])), dyn(entry.?operation.orValue('') == 'Apply' && (size({{ $metadata }}) == 0 || {{ $annotations }}.orValue({'none': true}) == {} || {{ $annotations }}[?'.'].hasValue())), dyn({{ $kubectl }}.optMap(owned, [owned]).orValue([])), dyn({{ $kapp }}.optMap(owned, [owned]).orValue([])), dyn(object.{{ $lock }} == oldObject.{{ $lock }} ? {{ $locks }}.optMap(owned, [owned]).orValue([]) : [])]).filter(owner, size(owner[4]) > 0 || owner[5] || size(owner[6]) > 0 || size(owner[7]) > 0 || size(owner[8]) > 0)
{{- end }}

{{- /* CEL: bytes of names of fields in a list of field managers. Neither Namespaces nor Roster's kinds have fields below the
fourth level, so the client made up deeper names. What a restriction of a User adds does not count, so that a full object
can still be restricted: a manager that updates, of which kube-apiserver keeps at most ten, and the names of these
fields. */}}
{{- define "roster.fieldNameBytes" -}}
{{ . }}.map(entry, (entry.?operation.orValue('') == 'Update' && entry.?apiVersion.orValue('') == 'roster.dev/v1alpha1' ? 0 : 256) + entry.?fieldsV1.orValue({}).map(a, (a == 'f:spec' ? 0 : size(bytes(a))) + entry.fieldsV1[a].map(b, (b in ['f:state', 'f:validity'] ? 0 : size(bytes(b))) + entry.fieldsV1[a][b].map(c, size(bytes(c)) + entry.fieldsV1[a][b][c].map(d, size(bytes(d)) + 1048576 * size(entry.fieldsV1[a][b][c][d])).sum()).sum()).sum()).sum()).sum()
{{- end }}

{{- /* CEL: whether `k` is an annotation from which tools derive what to remove. The same list as in tracking.rs of
roster-core. */}}
{{- define "roster.isTracking" -}}
(k in ['app.kubernetes.io/instance', 'app.kubernetes.io/managed-by', 'applyset.kubernetes.io/part-of', 'config.k8s.io/owning-inventory', 'client.lifecycle.config.k8s.io/deletion', 'kubectl.kubernetes.io/last-applied-configuration', 'tanka.dev/environment'] || k.contains('/') && k.split('/')[0] in ['addonmanager.kubernetes.io', 'argocd.argoproj.io', 'cli-utils.sigs.k8s.io', 'configmanagement.gke.io', 'configsync.gke.io', 'helm.toolkit.fluxcd.io', 'kustomize.toolkit.fluxcd.io', 'helm.sh', 'meta.helm.sh', 'k0s.k0sproject.io', 'kapp.k14s.io', 'objectset.rio.cattle.io', 'fluxcd.controlplane.io', 'kluctl.io', 'work.karmada.io'])
{{- end }}

{{- /* CEL: whether an update of a Namespace changes metadata from which tools derive what to remove. Other annotations can
be written while no operator answers: so namespaces can be locked, and deleted. */}}
{{- define "roster.namespaceOwnershipChange" -}}
{{- $annotations := "object.metadata.?annotations.orValue({})" -}}
{{- $oldAnnotations := "oldObject.metadata.?annotations.orValue({})" -}}
({{ $annotations }} != {{ $oldAnnotations }} && ({{ $annotations }}.exists(k, {{ include "roster.isTracking" . }} && {{ $oldAnnotations }}[?k] != {{ $annotations }}[?k]) || {{ $oldAnnotations }}.exists(k, {{ include "roster.isTracking" . }} && !(k in {{ $annotations }}))) || {{ include "roster.namespaceManagers" "object" }} != {{ include "roster.namespaceManagers" "oldObject" }} || size(object.metadata.?managedFields.orValue([])) == 0 && size(oldObject.metadata.?managedFields.orValue([])) > 0)
{{- end }}

{{- /* CEL: whether a new Namespace has owners, an annotation with a manifest, or a field manager that owns the lock. */}}
{{- define "roster.namespaceOwners" -}}
(size(object.metadata.?ownerReferences.orValue([])) > 0 || object.metadata.?annotations.orValue({}).exists(k, k in ['kubectl.kubernetes.io/last-applied-configuration', 'kapp.k14s.io/original']) || object.metadata.?managedFields.orValue([]).exists(entry, entry.?fieldsV1[?'f:metadata'][?'f:annotations'][?'f:roster.dev/locked-by'].hasValue()))
{{- end }}

{{- /* CEL: whether an update may let the garbage collector delete the object. Excludes the garbage collector itself,
which removes owners that no longer exist and has no `bind` permission. */}}
{{- define "roster.ownersChange" -}}
(has(object.metadata.ownerReferences) && size(object.metadata.ownerReferences) > 0 && (!has(oldObject.metadata.ownerReferences) || object.metadata.ownerReferences != oldObject.metadata.ownerReferences) && !(request.userInfo.username in {{ include "roster.collectors" . }}))
{{- end }}
