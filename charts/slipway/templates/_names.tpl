{{/* Names, labels, addresses. A part is {root, component, pool, values}: what one workload is made from. */}}

{{- define "slipway.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if .Values.fullnameOverride -}}{{ .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- else if contains $name .Release.Name -}}{{ .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else -}}{{ printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" }}
{{- end -}}
{{- end -}}

{{- define "slipway.partName" -}}
{{ include "slipway.fullname" .root }}-{{ .component }}{{ if and .pool (ne .pool "default") }}-{{ .pool }}{{ end }}
{{- end -}}

{{/* Where the part stands in the values. */}}
{{- define "slipway.partPath" -}}
{{ if and .pool (ne .pool "default") }}inferencer.pools.{{ .pool }}{{ else }}{{ .component }}{{ end }}
{{- end -}}

{{/* What selects the pods of a release, of a component, of a pool. Never changes while a release lives. */}}
{{- define "slipway.releaseLabels" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "slipway.selector" -}}
{{ include "slipway.releaseLabels" .root }}
app.kubernetes.io/component: {{ .component }}
{{- with .pool }}
slipway/pool: {{ . }}
{{- end }}
{{- end -}}

{{/* Metadata of an object: {root, name, component, pool, labels, annotations, namespace}. */}}
{{- define "slipway.metadata" -}}
name: {{ .name }}
namespace: {{ default .root.Release.Namespace .namespace }}
labels:
  {{- include "slipway.releaseLabels" .root | nindent 2 }}
  {{- with .component }}
  app.kubernetes.io/component: {{ . }}
  {{- end }}
  {{- with .pool }}
  slipway/pool: {{ . }}
  {{- end }}
  app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
  app.kubernetes.io/managed-by: {{ .root.Release.Service }}
  helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
  {{- with merge (dict) (default (dict) .labels) .root.Values.commonLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with merge (dict) (default (dict) .annotations) .root.Values.commonAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "slipway.partMetadata" -}}
{{ include "slipway.metadata" (dict "root" .root "name" (include "slipway.partName" .) "component" .component "pool" .pool) }}
{{- end -}}

{{/* {root, service}: its name within the cluster. */}}
{{- define "slipway.host" -}}
{{ include "slipway.fullname" .root }}-{{ .service }}.{{ .root.Release.Namespace }}.svc.{{ .root.Values.clusterDomain }}
{{- end -}}

{{/* {root, service, port}: where services dial it. The dot keeps resolvers from trying the pod's search domains first. */}}
{{- define "slipway.address" -}}
{{ include "slipway.host" . }}.:{{ .port }}
{{- end -}}

{{/* Address families of a Service that clients of the API use. */}}
{{- define "slipway.families" -}}
{{- with .Values.ipFamilyPolicy }}
ipFamilyPolicy: {{ . }}
{{- end }}
{{- with .Values.ipFamilies }}
ipFamilies: {{ toJson . }}
{{- end }}
{{- end -}}

{{/* Of one that stands for pods: of two families, each pod would be dialled and scraped once for each. */}}
{{- define "slipway.oneFamily" -}}
{{- with .Values.ipFamilies }}
ipFamilyPolicy: SingleStack
ipFamilies: [{{ first . }}]
{{- end }}
{{- end -}}

{{- define "slipway.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}{{ default (include "slipway.fullname" .) .Values.serviceAccount.name }}
{{- else -}}{{ default "default" .Values.serviceAccount.name }}
{{- end -}}
{{- end -}}

{{- define "slipway.secretName" -}}
{{ default (printf "%s-cluster" (include "slipway.fullname" .)) .Values.auth.existingSecret }}
{{- end -}}

{{/* The CronJob that has backups made, and the claim that they lie in. A CronJob's name has 52 characters at most. */}}
{{- define "slipway.backupName" -}}
{{ printf "%s-registry-backup" (include "slipway.fullname" .) | trunc 52 | trimSuffix "-" }}
{{- end -}}

{{- define "slipway.backupClaim" -}}
{{ default (include "slipway.backupName" .) .Values.registry.backup.destination.existingClaim }}
{{- end -}}

{{- define "slipway.image" -}}
{{- $registry := default .image.registry .root.Values.global.imageRegistry -}}
{{- $tail := printf ":%s" (default .root.Chart.AppVersion .image.tag) -}}
{{- with .image.digest }}{{ $tail = printf "@%s" . }}{{ end -}}
{{ with $registry }}{{ . }}/{{ end }}{{ .image.repository }}{{ $tail }}
{{- end -}}

{{/* Every workload of the release as a YAML list of parts without root: the default inferencers are the pool "default". */}}
{{- define "slipway.parts" -}}
{{- $base := omit .Values.inferencer "pools" -}}
{{- $parts := list (dict "component" "gateway" "values" .Values.gateway) (dict "component" "inferencer" "pool" "default" "values" $base) -}}
{{- range $name, $pool := .Values.inferencer.pools -}}
{{- $parts = append $parts (dict "component" "inferencer" "pool" $name "values" (mergeOverwrite (deepCopy $base) (deepCopy (default (dict) $pool)))) -}}
{{- end -}}
{{- toYaml (append $parts (dict "component" "trainer" "values" .Values.trainer)) -}}
{{- end -}}

{{/* A quantity of memory in bytes. */}}
{{- define "slipway.bytes" -}}
{{- $text := toString . -}}
{{- $units := dict "" 1 "k" 1000 "M" 1000000 "G" 1000000000 "T" 1000000000000 "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 -}}
{{- $unit := regexFind "[A-Za-z]*$" $text -}}
{{- if not (hasKey $units $unit) }}{{ fail (printf "%s is no amount of memory; write e.g. 512Mi or 10Gi" $text) }}{{ end -}}
{{- mulf (float64 (trimSuffix $unit $text)) (get $units $unit) | int64 -}}
{{- end -}}

{{/* A flat map as TOML: what --config of every service reads. */}}
{{- define "slipway.toml" -}}
{{- range $key, $value := . }}
{{- if kindIs "string" $value }}
{{ $key }} = {{ $value | quote }}
{{- else if kindIs "slice" $value }}
{{ $key }} = {{ toJson $value }}
{{- else if kindIs "bool" $value }}
{{ $key }} = {{ $value }}
{{- else if eq (float64 $value) (float64 (int64 $value)) }}
{{ $key }} = {{ int64 $value }}
{{- else }}
{{ $key }} = {{ $value }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "slipway.onOpenShift" -}}
{{- $mode := .Values.global.compatibility.openshift.adaptSecurityContext -}}
{{- if or (eq $mode "force") (and (eq $mode "auto") (.Capabilities.APIVersions.Has "security.openshift.io/v1")) -}}true{{- end -}}
{{- end -}}
