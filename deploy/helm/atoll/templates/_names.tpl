{{/* Names, labels and what follows from several values. */}}
{{- define "atoll.name" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 40 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "atoll.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "atoll.labels" -}}
{{ include "atoll.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{/* Labels of the pods that answer requests; the workers of a group do not. */}}
{{- define "atoll.servers" -}}
{{ include "atoll.selector" . }}
app.kubernetes.io/component: server
{{- end }}

{{- define "atoll.gateways" -}}
{{ include "atoll.selector" . }}
app.kubernetes.io/component: gateway
{{- end }}

{{- define "atoll.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- define "atoll.account" -}}
{{ .Values.serviceAccount.name | default (include "atoll.name" .) }}
{{- end }}

{{- define "atoll.pool" -}}
{{ .Values.inferencePool.name | default (include "atoll.name" .) }}
{{- end }}

{{- define "atoll.shards" -}}
{{- $all := mul .Values.gpus .Values.nodes }}
{{- if .Values.numShard }}{{ .Values.numShard }}{{ else if gt (int $all) 1 }}{{ $all }}{{ else }}1{{ end }}
{{- end }}

{{/* preStop, the gateway's requests, the models' requests, and both to end. */}}
{{- define "atoll.grace" -}}
{{ add .Values.preStopSeconds (mul 2 .Values.exitTimeoutSeconds) 25 }}
{{- end }}

{{- define "atoll.series" -}}
{{ .Values.autoscaling.selector | default (printf "job=%q" (printf "%s/%s" .Release.Namespace (include "atoll.name" .))) }}
{{- end }}

{{/* What the schema cannot say: it sees one value at a time. */}}
{{- define "atoll.check" -}}
{{- $v := .Values }}
{{- $shards := int (include "atoll.shards" .) }}
{{- if gt (int $v.nodes) 1 }}
  {{- if ne (len $v.models) 1 }}{{ fail (printf "nodes is %d and models has %d: a group of pods holds one model" (int $v.nodes) (len $v.models)) }}{{ end }}
  {{- if not $v.shardKey.existingSecret }}{{ fail (printf "nodes is %d: name the secret with the key of the group in shardKey.existingSecret" (int $v.nodes)) }}{{ end }}
  {{- if mod $shards $v.nodes }}{{ fail (printf "numShard is %d and nodes is %d: it must be a multiple" $shards (int $v.nodes)) }}{{ end }}
{{- end }}
{{- if and (gt (int $v.gpus) 0) (gt $shards (int (mul $v.gpus $v.nodes))) }}{{ fail (printf "numShard is %d, and a replica has %d GPUs" $shards (int (mul $v.gpus $v.nodes))) }}{{ end }}
{{- $s := $v.autoscaling }}
{{- if ne $s.kind "none" }}
  {{- if gt (int $s.minReplicas) (int $s.maxReplicas) }}{{ fail (printf "autoscaling.minReplicas is %d, and maxReplicas %d" (int $s.minReplicas) (int $s.maxReplicas)) }}{{ end }}
  {{- if not (or $s.waitingRequests $s.requestsPerSecond $s.cpuPercent) }}{{ fail "autoscaling has nothing to look at: set waitingRequests, requestsPerSecond or cpuPercent" }}{{ end }}
  {{- if and $s.requestsPerSecond (ne $s.kind "keda") }}{{ fail "autoscaling.requestsPerSecond needs autoscaling.kind keda" }}{{ end }}
  {{- if and $s.requestsPerSecond (not $v.frontGateway.enabled) }}{{ fail "autoscaling.requestsPerSecond needs frontGateway.enabled, which counts the requests" }}{{ end }}
  {{- if and (eq (int $s.minReplicas) 0) (not $s.requestsPerSecond) }}{{ fail "autoscaling.minReplicas is 0: set kind keda, frontGateway.enabled and requestsPerSecond, by which requests wake a pod" }}{{ end }}
{{- end }}
{{- if and $v.frontGateway.enabled (not $v.networkPolicy.enabled) }}{{ fail "frontGateway opens Triton's gRPC port, which asks for no key, to other pods: networkPolicy.enabled must be true" }}{{ end }}
{{- if and $v.inferencePool.enabled $v.inferencePool.create (not $v.inferencePool.endpointPicker.name) }}{{ fail "inferencePool needs endpointPicker.name, the service of the endpoint picker" }}{{ end }}
{{- if and $v.httpRoute.enabled (not $v.httpRoute.parentRefs) }}{{ fail "httpRoute needs parentRefs: the Gateway it belongs to" }}{{ end }}
{{- end }}
