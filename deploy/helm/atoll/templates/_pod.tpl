{{/* A pod of Atoll. Called with a dict: root, and role (server or worker). */}}
{{- define "atoll.pod" -}}
{{- $root := .root }}{{ $v := .root.Values }}{{ $isServer := eq .role "server" }}
metadata:
  labels:
    {{- include "atoll.labels" $root | nindent 4 }}
    app.kubernetes.io/component: {{ .role }}
    {{- with $v.podLabels }}{{ toYaml . | nindent 4 }}{{ end }}
  {{- with $v.podAnnotations }}
  annotations: {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  serviceAccountName: {{ include "atoll.account" $root }}
  automountServiceAccountToken: false
  # A service called "atoll" would otherwise set ATOLL_PORT to its address.
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ include "atoll.grace" $root }}
  securityContext: {{- include "atoll.podSecurity" $root | nindent 4 }}
  {{- with $v.imagePullSecrets }}
  imagePullSecrets: {{- toYaml . | nindent 4 }}
  {{- end }}
  containers:
    - name: atoll
      image: {{ include "atoll.image" $root }}
      imagePullPolicy: {{ $v.image.pullPolicy }}
      command: [atoll]
      args:
        {{- if $isServer }}
        - serve
        - --server=system
        - --host=0.0.0.0
        - --port=8080
        - --gateway-grpc-port=8081
        - --triton-host={{ if $v.frontGateway.enabled }}0.0.0.0{{ else }}127.0.0.1{{ end }}
        - --startup-timeout={{ $v.startupTimeoutSeconds }}
        - --exit-timeout={{ $v.exitTimeoutSeconds }}
        {{- range $v.models }}
        - --model-id={{ . }}
        {{- end }}
        {{- else }}
        - worker
        {{- end }}
      env:
        {{- include "atoll.variables" . | nindent 8 }}
      {{- if $isServer }}
      ports:
        - {name: http, containerPort: 8080}
        - {name: grpc, containerPort: 8081}
        {{- if $v.frontGateway.enabled }}
        - {name: triton-grpc, containerPort: 8001}
        {{- end }}
        {{- if gt (int $v.nodes) 1 }}
        - {name: shards, containerPort: 8003}
        {{- end }}
      # The gateway starts when every model has answered once.
      startupProbe:
        httpGet: {path: /health, port: http}
        periodSeconds: 5
        timeoutSeconds: 3
        failureThreshold: {{ add 12 (div (add $v.startupTimeoutSeconds 4) 5) }}
      readinessProbe:
        httpGet: {path: /health, port: http}
        periodSeconds: 5
        timeoutSeconds: 3
        failureThreshold: 2
      # Of the gateway alone: atoll serve restarts Triton and models itself, which takes less time
      # than a new pod.
      livenessProbe:
        httpGet: {path: /v1/health/live, port: http}
        periodSeconds: 10
        timeoutSeconds: 5
        failureThreshold: 6
      {{- end }}
      {{- if $v.preStopSeconds }}
      lifecycle:
        preStop:
          sleep: {seconds: {{ $v.preStopSeconds }}}
      {{- end }}
      resources: {{- include "atoll.resources" $root | nindent 8 }}
      securityContext: {{- include "atoll.security" $root | nindent 8 }}
      volumeMounts:
        - {name: cache, mountPath: /data}
        - {name: scratch, mountPath: /tmp}
        - {name: shared-memory, mountPath: /dev/shm}
        {{- with $v.volumeMounts }}{{ toYaml . | nindent 8 }}{{ end }}
  volumes:
    - name: cache
      {{- if $v.cache.existingClaim }}
      persistentVolumeClaim: {claimName: {{ $v.cache.existingClaim }}}
      {{- else }}
      emptyDir: {sizeLimit: {{ $v.cache.sizeLimit }}}
      {{- end }}
    - name: scratch
      emptyDir: {sizeLimit: {{ $v.scratch.sizeLimit }}}
    - name: shared-memory
      emptyDir: {medium: Memory, sizeLimit: {{ $v.sharedMemory.sizeLimit }}}
    {{- with $v.volumes }}{{ toYaml . | nindent 4 }}{{ end }}
  {{- include "atoll.placement" $root | nindent 2 }}
{{- end }}

{{- define "atoll.variables" -}}
{{- $v := .root.Values }}{{ $isServer := eq .role "server" }}
# All that is written goes to the three volumes: the image's own file system is read-only.
- {name: HOME, value: /data/home}
# torch asks for a name, which a user id of the cluster's choice may not have.
- {name: USER, value: atoll}
- {name: ATOLL_CACHE, value: /data/atoll}
- {name: HF_HOME, value: /data/huggingface}
- {name: TRITON_CACHE_DIR, value: /data/triton}
- {name: PYTHONDONTWRITEBYTECODE, value: "1"}
{{- $shards := int (include "atoll.shards" .root) }}
{{- if gt $shards 1 }}
- {name: ATOLL_NUM_SHARD, value: {{ $shards | quote }}}
{{- end }}
{{- if gt (int $v.nodes) 1 }}
- name: ATOLL_SHARD_KEY
  valueFrom: {secretKeyRef: {name: {{ $v.shardKey.existingSecret }}, key: {{ $v.shardKey.key }}}}
{{- end }}
{{- if $v.hubToken.existingSecret }}
- name: HF_TOKEN
  valueFrom: {secretKeyRef: {name: {{ $v.hubToken.existingSecret }}, key: {{ $v.hubToken.key }}}}
{{- end }}
{{- if $isServer }}
{{- if $v.apiKey.existingSecret }}
- name: ATOLL_API_KEY
  valueFrom: {secretKeyRef: {name: {{ $v.apiKey.existingSecret }}, key: {{ $v.apiKey.key }}}}
{{- end }}
{{- range $name, $value := $v.settings }}
- {name: ATOLL_{{ upper $name }}, value: {{ include "atoll.text" $value }}}
{{- end }}
{{- range $name, $value := $v.gatewaySettings }}
- {name: ATOLL_GATEWAY_{{ upper $name }}, value: {{ include "atoll.text" $value }}}
{{- end }}
{{- else if hasKey $v.settings "shard_timeout_s" }}
- {name: ATOLL_SHARD_TIMEOUT_S, value: {{ include "atoll.text" $v.settings.shard_timeout_s }}}
{{- end }}
{{- with $v.env }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* A number from values is a float: 100000000 would become 1e+08. */}}
{{- define "atoll.text" -}}
{{- if and (kindIs "float64" .) (eq (float64 (int64 .)) .) }}{{ int64 . | toString | quote }}{{ else }}{{ toString . | quote }}{{ end }}
{{- end }}

{{- define "atoll.resources" -}}
{{- $found := deepCopy .Values.resources }}
{{- if .Values.gpus }}
{{- $gpus := dict .Values.gpuResource (int .Values.gpus) }}
{{- $_ := set $found "limits" (merge $gpus ($found.limits | default dict)) }}
{{- end }}
{{- toYaml $found }}
{{- end }}

{{- define "atoll.podSecurity" -}}
runAsNonRoot: true
runAsUser: {{ .Values.runAsUser }}
runAsGroup: {{ .Values.runAsUser }}
fsGroup: {{ .Values.runAsUser }}
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "atoll.security" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{- define "atoll.placement" -}}
{{- range $field := list "nodeSelector" "tolerations" "affinity" "topologySpreadConstraints" }}
{{- with index $.Values $field }}
{{ $field }}: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .Values.runtimeClassName }}
runtimeClassName: {{ . }}
{{- end }}
{{- end }}
