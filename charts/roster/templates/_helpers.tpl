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

{{/* How kube-apiserver reaches an admission path of Roster. */}}
{{- define "roster.clientConfig" -}}
{{- if .root.Values.externalURL -}}
url: {{ .root.Values.externalURL }}/admission/{{ .path }}
{{- else -}}
service:
  name: roster
  namespace: {{ .root.Release.Namespace }}
  port: 443
  path: /admission/{{ .path }}
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
