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

{{/* Annotations of objects with a caBundle: the given ones, and the one with which cert-manager fills in the caBundle.
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
segment by which it recognizes kube-apiserver, and applying this chart again must not remove it. A URL needs the base.
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

{{/* Common fields of the guard's webhooks. It ends within the list of match conditions, which the caller continues.
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

{{- /* CEL: whether an update may let the garbage collector delete the object. Excludes the garbage collector itself,
which removes owners that no longer exist and has no `bind` permission. */}}
{{- define "roster.ownersChange" -}}
(has(object.metadata.ownerReferences) && size(object.metadata.ownerReferences) > 0 && (!has(oldObject.metadata.ownerReferences) || object.metadata.ownerReferences != oldObject.metadata.ownerReferences) && !(request.userInfo.username in {{ include "roster.collectors" . }}))
{{- end }}
