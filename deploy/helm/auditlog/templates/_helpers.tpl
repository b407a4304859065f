{{- define "auditlog.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "auditlog.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "auditlog.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{/* What selects the pods of a component: never changes, as Kubernetes does not let it. */}}
{{- define "auditlog.selector" -}}
app.kubernetes.io/name: {{ .root.Chart.Name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "auditlog.labels" -}}
{{ include "auditlog.selector" . }}
app.kubernetes.io/version: {{ default .root.Chart.AppVersion .root.Values.image.tag | trunc 63 | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" | quote }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "auditlog.image" -}}
{{- $digest := get .root.Values.image (printf "%sDigest" .program) -}}
{{- if $digest -}}
{{ .root.Values.image.registry }}/{{ .program }}@{{ $digest }}
{{- else -}}
{{ .root.Values.image.registry }}/{{ .program }}:{{ default .root.Chart.AppVersion .root.Values.image.tag }}
{{- end -}}
{{- end -}}

{{/* What both services are told, and where the secrets are mounted. Values come from files, so that no password is in an environment. */}}
{{- define "auditlog.env" -}}
- name: AUDIT_NATS_URL_FILE
  value: /etc/auditlog/nats/url
{{- if .Values.nats.caSecret }}
- name: AUDIT_NATS_CA
  value: /etc/auditlog/nats-ca/ca.crt
{{- end }}
- name: AUDIT_CLICKHOUSE_URL_FILE
  value: /etc/auditlog/clickhouse/url
{{- if .Values.clickhouse.caSecret }}
- name: SSL_CERT_DIR
  value: /etc/auditlog/clickhouse-ca
{{- end }}
- name: AUDIT_PARTITIONS
  value: {{ .Values.partitions | quote }}
- name: AUDIT_LOG_LEVEL
  value: {{ .Values.logLevel | quote }}
{{- range $name, $value := .Values.otel }}
- name: {{ $name }}
  value: {{ $value | quote }}
{{- end }}
{{- end -}}

{{- define "auditlog.mounts" -}}
- {name: nats, mountPath: /etc/auditlog/nats, readOnly: true}
- {name: clickhouse, mountPath: /etc/auditlog/clickhouse, readOnly: true}
{{- if .Values.nats.caSecret }}
- {name: nats-ca, mountPath: /etc/auditlog/nats-ca, readOnly: true}
{{- end }}
{{- if .Values.clickhouse.caSecret }}
- {name: clickhouse-ca, mountPath: /etc/auditlog/clickhouse-ca, readOnly: true}
{{- end }}
{{- end -}}

{{- define "auditlog.volumes" -}}
- name: nats
  secret:
    secretName: {{ required "nats.existingSecret names the secret with the addresses of NATS" .root.Values.nats.existingSecret }}
    items: [{key: {{ .natsKey | quote }}, path: url}]
- name: clickhouse
  secret:
    secretName: {{ required "clickhouse.existingSecret names the secret with the addresses of ClickHouse" .root.Values.clickhouse.existingSecret }}
    items: [{key: {{ .clickhouseKey | quote }}, path: url}]
{{- with .root.Values.nats.caSecret }}
- name: nats-ca
  secret:
    secretName: {{ . }}
    items: [{key: {{ $.root.Values.nats.caKey | quote }}, path: ca.crt}]
{{- end }}
{{- with .root.Values.clickhouse.caSecret }}
- name: clickhouse-ca
  secret: {secretName: {{ . }}}
{{- end }}
{{- end -}}

{{/* Where and as whom pods run. */}}
{{- define "auditlog.pod" -}}
serviceAccountName: {{ include "auditlog.serviceAccount" .root }}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  fsGroup: 65532
  seccompProfile: {type: RuntimeDefault}
{{- with .values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- else }}
affinity:
  podAntiAffinity:
    preferredDuringSchedulingIgnoredDuringExecution:
      - weight: 100
        podAffinityTerm:
          topologyKey: kubernetes.io/hostname
          labelSelector:
            matchLabels: {{- .selector | nindent 14 }}
{{- end }}
{{- end -}}

{{- define "auditlog.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{/* A service that waits for NATS or ClickHouse is alive: restarting it would not help. */}}
{{- define "auditlog.probes" -}}
livenessProbe:
  httpGet: {path: /healthz, port: ops}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
readinessProbe:
  httpGet: {path: {{ .readyPath | quote }}, port: ops}
  periodSeconds: 5
  timeoutSeconds: 5
  failureThreshold: 2
{{- end -}}
