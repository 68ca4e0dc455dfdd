{{/* What each service reads: the chart's own settings, and the part's `config` above them. */}}

{{- define "slipway.config" -}}
{{- $root := .root -}}
{{- $values := .values -}}
{{- $gateways := list (include "slipway.address" (dict "root" $root "service" "gateway-zmq" "port" 7070)) -}}
{{- $config := dict "log-format" $root.Values.logging.format "log-level" $root.Values.logging.level -}}
{{- $_ := set $config "release-id" (printf "%s/%s" $root.Release.Namespace (include "slipway.fullname" $root)) -}}
{{- if ne .component "registry" -}}
{{- $_ := set $config "registry" (include "slipway.address" (dict "root" $root "service" "registry" "port" 7071)) -}}
{{- end -}}
{{- if has .component (list "gateway" "inferencer") -}}
{{- $_ := set $config "registry-events" (include "slipway.address" (dict "root" $root "service" "registry" "port" 7072)) -}}
{{- end -}}
{{- with (include "slipway.storage" . | fromYaml).path -}}
{{- $_ := set $config (get (dict "registry" "data-dir" "trainer" "work-dir" "inferencer" "cache-dir") $.component) . -}}
{{- end -}}
{{- if eq .component "gateway" -}}
{{- $_ := set $config "drain-grace-ms" (mulf 1000 $values.shutdown.delaySeconds) -}}
{{- $_ := set $config "drain-seconds" $values.shutdown.drainSeconds -}}
{{- /* Inferencers may be scaled to zero, or be restarted all at once: the API stays, and answers predictions 503. */}}
{{- $_ := set $config "ready-alone-after-seconds" 15 -}}
{{- else if eq .component "inferencer" -}}
{{- $_ := set $config "gateways" $gateways -}}
{{- $_ := set $config "drain-seconds" $values.shutdown.drainSeconds -}}
{{- $_ := set $config "instances" $values.slots -}}
{{- $_ := set $config "threads" (default 0 $values.threads) -}}
{{- $_ := set $config "cache-bytes" (div (mul 4 (include "slipway.bytes" $values.modelCache.sizeLimit | int64)) 5) -}}
{{- else if eq .component "trainer" -}}
{{- $_ := set $config "gateways" $gateways -}}
{{- $_ := set $config "drain-seconds" $values.shutdown.drainSeconds -}}
{{- with $values.threads }}{{ $_ := set $config "threads" . }}{{ end -}}
{{- $_ := set $config "checkpoint-seconds" $values.checkpoint.everySeconds -}}
{{- $_ := set $config "cache-bytes" (div (include "slipway.bytes" $values.scratch.sizeLimit | int64) 2) -}}
{{- else if eq .component "registry" -}}
{{- $_ := set $config "drain-seconds" $values.shutdown.drainSeconds -}}
{{- if $values.backup.enabled }}{{ $_ := set $config "backup-dir" (include "slipway.backupPath" .) }}{{ end -}}
{{- end -}}
{{- include "slipway.toml" (mergeOverwrite $config (deepCopy $values.config)) | trim -}}
{{- end -}}

{{- define "slipway.configMap" -}}
apiVersion: v1
kind: ConfigMap
metadata:
  {{- include "slipway.partMetadata" . | nindent 2 }}
data:
  config.toml: |
    {{- include "slipway.config" . | nindent 4 }}
{{- end -}}
