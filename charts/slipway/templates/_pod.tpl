{{/* The pod of a part, and the rules that all pods share. */}}

{{/* How long the part may take to end. */}}
{{- define "slipway.grace" -}}
{{- $need := add (default 0 .values.shutdown.delaySeconds) .values.shutdown.drainSeconds 15 -}}
{{- default $need .values.terminationGracePeriodSeconds -}}
{{- end -}}

{{- define "slipway.podSecurityContext" -}}
{{- if include "slipway.onOpenShift" .root -}}{{ toYaml (omit .context "runAsUser" "runAsGroup" "fsGroup") }}
{{- else -}}{{ toYaml .context }}
{{- end -}}
{{- end -}}

{{- define "slipway.probe" -}}
httpGet: {path: {{ .path }}, port: metrics}
periodSeconds: {{ .probe.periodSeconds }}
timeoutSeconds: {{ .probe.timeoutSeconds }}
failureThreshold: {{ .probe.failureThreshold }}
{{- end -}}

{{- define "slipway.affinity" -}}
{{- $preset := .root.Values.global.podAntiAffinityPreset -}}
{{- if .values.affinity }}
{{- toYaml .values.affinity }}
{{- else if and $preset (ne .component "registry") }}
podAntiAffinity:
  {{- if eq $preset "hard" }}
  requiredDuringSchedulingIgnoredDuringExecution:
    - topologyKey: kubernetes.io/hostname
      labelSelector:
        matchLabels:
          {{- include "slipway.selector" . | nindent 10 }}
  {{- else }}
  preferredDuringSchedulingIgnoredDuringExecution:
    - weight: 100
      podAffinityTerm:
        topologyKey: kubernetes.io/hostname
        labelSelector:
          matchLabels:
            {{- include "slipway.selector" . | nindent 12 }}
  {{- end }}
{{- end }}
{{- end -}}

{{/* Constraints with the part's own selector; old ReplicaSets of a Deployment do not count. */}}
{{- define "slipway.spread" -}}
{{- $filled := list -}}
{{- $own := dict "labelSelector" (dict "matchLabels" (include "slipway.selector" . | fromYaml)) -}}
{{- if ne .component "registry" }}{{ $_ := set $own "matchLabelKeys" (list "pod-template-hash") }}{{ end -}}
{{- range default .root.Values.global.topologySpreadConstraints .values.topologySpreadConstraints -}}
{{- $filled = append $filled (merge (deepCopy .) $own) -}}
{{- end -}}
{{- with $filled }}{{ toYaml . }}{{ end -}}
{{- end -}}

{{- define "slipway.resources" -}}
{{- $resources := deepCopy .values.resources -}}
{{- if dig "gpu" "enabled" false .values -}}
{{- $limits := merge (dict .values.gpu.resourceName (int .values.gpu.count)) (default (dict) $resources.limits) -}}
{{- $_ := set $resources "limits" $limits -}}
{{- end -}}
{{- toYaml $resources -}}
{{- end -}}

{{/* Where the part keeps its files: {path, and the volume's source}. */}}
{{- define "slipway.storage" -}}
{{- if eq .component "inferencer" }}
path: /var/cache/slipway
source: {emptyDir: {sizeLimit: {{ .values.modelCache.sizeLimit }}{{ with .values.modelCache.medium }}, medium: {{ . }}{{ end }}}}
{{- else if eq .component "trainer" }}
path: /var/cache/slipway
source: {emptyDir: {sizeLimit: {{ .values.scratch.sizeLimit }}{{ with .values.scratch.medium }}, medium: {{ . }}{{ end }}}}
{{- else if eq .component "registry" }}
path: /var/lib/slipway
{{- if not .values.persistence.enabled }}
source: {emptyDir: {}}
{{- else if .values.persistence.existingClaim }}
source: {persistentVolumeClaim: {claimName: {{ .values.persistence.existingClaim }}}}
{{- end }}
{{- end }}
{{- end -}}

{{/* Where the registry sees its backups. */}}
{{- define "slipway.backupPath" -}}/var/backups/slipway{{- end -}}

{{/* What pods of the command line share, which only call the API: of the pod {root}, of a container {root, image, resources}. */}}
{{- define "slipway.clientPod" -}}
restartPolicy: Never
serviceAccountName: default
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .root.Values.global.imagePullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- with .root.Values.global.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .root.Values.global.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  {{- include "slipway.podSecurityContext" (dict "root" .root "context" (dict "runAsNonRoot" true "runAsUser" 10001 "runAsGroup" 10001 "seccompProfile" (dict "type" "RuntimeDefault"))) | nindent 2 }}
{{- end -}}

{{- define "slipway.clientContainer" -}}
image: {{ include "slipway.image" . }}
imagePullPolicy: {{ .image.pullPolicy }}
env:
  # A network policy that is not there yet for a new pod refuses its first connections.
  - {name: SLIPWAY_CONNECT_WITHIN, value: "60"}
  - {name: SLIPWAY_SERVER, value: "http://{{ include "slipway.host" (dict "root" .root "service" "gateway") }}:{{ int .root.Values.gateway.service.port }}"}
resources:
  {{- toYaml .resources | nindent 2 }}
securityContext: {runAsNonRoot: true, allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: {drop: [ALL]}}
{{- end -}}

{{/* Puts a backup in the place of the data, before the registry starts. Does nothing when it has done so before. */}}
{{- define "slipway.restoreContainer" -}}
{{- $restore := .values.restore -}}
{{- $args := list "--config=/etc/slipway/config.toml" "restore" (printf "--from=%s" (include "slipway.backupPath" .)) (printf "--backup=%s" $restore.from) -}}
{{- if $restore.replace }}{{ $args = append $args "--replace" }}{{ end -}}
name: restore
image: {{ include "slipway.image" (dict "root" .root "image" .values.image) }}
imagePullPolicy: {{ .values.image.pullPolicy }}
args: {{ toJson $args }}
resources:
  {{- include "slipway.resources" . | nindent 2 }}
{{- with include "slipway.podSecurityContext" (dict "root" .root "context" .values.containerSecurityContext) | fromYaml }}
securityContext:
  {{- toYaml . | nindent 2 }}
{{- end }}
volumeMounts:
  - {name: config, mountPath: /etc/slipway, readOnly: true}
  - {name: data, mountPath: {{ (include "slipway.storage" . | fromYaml).path }}}
  - {name: backup, mountPath: {{ include "slipway.backupPath" . }}}
{{- end -}}

{{- define "slipway.podTemplate" -}}
{{- $root := .root -}}
{{- $values := .values -}}
{{- $global := $root.Values.global -}}
{{- $storage := include "slipway.storage" . | fromYaml -}}
{{- $backs := dig "backup" "enabled" false $values -}}
{{- $restores := dig "restore" "enabled" false $values -}}
{{- $annotations := dict "checksum/config" (include "slipway.config" . | sha256sum) -}}
{{- if and $root.Values.auth.enabled $root.Values.auth.clusterSecret (not $root.Values.auth.existingSecret) -}}
{{- $_ := set $annotations "checksum/cluster-secret" ($root.Values.auth.clusterSecret | sha256sum) -}}
{{- end -}}
{{- if $values.protectFromNodeScaleDown -}}
{{- $_ := set $annotations "cluster-autoscaler.kubernetes.io/safe-to-evict" "false" -}}
{{- $_ := set $annotations "karpenter.sh/do-not-disrupt" "true" -}}
{{- end -}}
metadata:
  labels:
    {{- include "slipway.selector" . | nindent 4 }}
    {{- with $values.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  annotations:
    {{- toYaml (merge (deepCopy $values.podAnnotations) $annotations) | nindent 4 }}
spec:
  serviceAccountName: {{ include "slipway.serviceAccount" $root }}
  automountServiceAccountToken: {{ $root.Values.serviceAccount.automountServiceAccountToken }}
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ include "slipway.grace" . }}
  {{- with $global.imagePullSecrets }}
  imagePullSecrets:
    {{- range . }}
    - name: {{ . }}
    {{- end }}
  {{- end }}
  {{- with default $global.priorityClassName $values.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  {{- if dig "gpu" "enabled" false $values }}
  {{- with $values.gpu.runtimeClassName }}
  runtimeClassName: {{ . }}
  {{- end }}
  {{- end }}
  {{- with include "slipway.podSecurityContext" (dict "root" $root "context" $values.podSecurityContext) | fromYaml }}
  securityContext:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with default $global.nodeSelector $values.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with default $global.tolerations $values.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with include "slipway.affinity" . | trim }}
  affinity:
    {{- . | nindent 4 }}
  {{- end }}
  {{- with include "slipway.spread" . }}
  topologySpreadConstraints:
    {{- . | nindent 4 }}
  {{- end }}
  {{- if $restores }}
  initContainers:
    - {{ include "slipway.restoreContainer" . | nindent 6 | trim }}
  {{- end }}
  containers:
    - name: {{ .component }}
      image: {{ include "slipway.image" (dict "root" $root "image" $values.image) }}
      imagePullPolicy: {{ $values.image.pullPolicy }}
      # The address as a flag: the images set it in the environment, which wins over the file.
      args: [--config=/etc/slipway/config.toml, "--listen-address={{ $root.Values.listenAddress }}"]
      {{- if or $root.Values.auth.enabled $values.extraEnv }}
      env:
        {{- if $root.Values.auth.enabled }}
        - name: SLIPWAY_CLUSTER_SECRET
          valueFrom: {secretKeyRef: {name: {{ include "slipway.secretName" $root }}, key: {{ $root.Values.auth.existingSecret | empty | ternary "cluster-secret" $root.Values.auth.existingSecretKey }}}}
        {{- end }}
        {{- with $values.extraEnv }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      {{- end }}
      ports:
        {{- if eq .component "gateway" }}
        - {name: http, containerPort: 8080}
        - {name: tcp-zmq-workers, containerPort: 7070}
        {{- else if eq .component "registry" }}
        - {name: tcp-zmq-calls, containerPort: 7071}
        - {name: tcp-zmq-events, containerPort: 7072}
        {{- end }}
        - {name: metrics, containerPort: 9090}
      {{- range $kind, $path := dict "startup" "/healthz" "liveness" "/healthz" "readiness" "/readyz" }}
      {{- $probe := get $values (printf "%sProbe" $kind) }}
      {{- if $probe.enabled }}
      {{ $kind }}Probe:
        {{- include "slipway.probe" (dict "probe" $probe "path" $path) | nindent 8 }}
      {{- end }}
      {{- end }}
      resources:
        {{- include "slipway.resources" . | nindent 8 }}
      {{- with include "slipway.podSecurityContext" (dict "root" $root "context" $values.containerSecurityContext) | fromYaml }}
      securityContext:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with $values.lifecycle }}
      lifecycle:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      volumeMounts:
        - {name: config, mountPath: /etc/slipway, readOnly: true}
        {{- with $storage.path }}
        - {name: data, mountPath: {{ . }}}
        {{- end }}
        {{- if $backs }}
        - {name: backup, mountPath: {{ include "slipway.backupPath" . }}}
        {{- end }}
        {{- with $values.extraVolumeMounts }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
    {{- with $values.extraContainers }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  volumes:
    - {name: config, configMap: {name: {{ include "slipway.partName" . }}}}
    {{- with $storage.source }}
    - name: data
      {{- toYaml . | nindent 6 }}
    {{- end }}
    {{- if or $backs $restores }}
    - {name: backup, persistentVolumeClaim: {claimName: {{ include "slipway.backupClaim" $root }}}}
    {{- end }}
    {{- with $values.extraVolumes }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end -}}
