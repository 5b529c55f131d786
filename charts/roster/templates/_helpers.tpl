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

{{/* By digest where there is one. */}}
{{- define "roster.image" -}}
{{- $image := .Values.image -}}
{{- if $image.digest -}}
{{ printf "%s@%s" $image.repository $image.digest | quote }}
{{- else -}}
{{ printf "%s:%s" $image.repository ($image.tag | default .Chart.AppVersion) | quote }}
{{- end -}}
{{- end }}

{{/* What a container may do: nothing that takes a privilege. */}}
{{- define "roster.containerSecurity" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  privileged: false
  capabilities: {drop: [ALL]}
{{- end }}

{{/* Annotations of what holds a caBundle: further ones, and who fills it in where Roster does not. */}}
{{- define "roster.trustAnnotations" -}}
{{- $annotations := .annotations | default dict -}}
{{- if eq .root.Values.certificates.provider "cert-manager" -}}
{{- $annotations = merge (dict "cert-manager.io/inject-ca-from" (printf "%s/roster-serving" .root.Release.Namespace)) $annotations -}}
{{- end -}}
{{- if $annotations -}}
annotations: {{- toYaml $annotations | nindent 2 }}
{{- end -}}
{{- end }}

{{/* How kube-apiserver reaches Roster's admission. The path is left out on purpose: Roster writes it, with a secret segment
by which it recognizes kube-apiserver, and applying this chart again must not remove it. A URL needs the base. */}}
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

{{/* What the webhooks of the guard have in common. It ends with the list of match conditions, to be gone on with. */}}
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

{{/* What kube-apiserver would fill in. Written out, because it compares the whole of it with what the next one applies. */}}
{{- define "roster.matchDefaults" -}}
matchPolicy: Equivalent
objectSelector: {}
{{- end }}

{{/* Host and port of an operator outside the cluster. */}}
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

{{- /* CEL: whether an update may let the garbage collector delete the object. The garbage collector takes off owners that
are gone, and may not bind anything. */}}
{{- define "roster.ownersChange" -}}
(has(object.metadata.ownerReferences) && size(object.metadata.ownerReferences) > 0 && (!has(oldObject.metadata.ownerReferences) || object.metadata.ownerReferences != oldObject.metadata.ownerReferences) && !(request.userInfo.username in {{ include "roster.collectors" . }}))
{{- end }}
