{{/* The objects of a Deployment's part: Deployment, autoscaler, disruption budget. */}}

{{- define "slipway.deployment" -}}
{{- $surge := dict "type" "RollingUpdate" "rollingUpdate" (dict "maxUnavailable" 0 "maxSurge" "25%") -}}
{{- if dig "gpu" "enabled" false .values -}}
{{- /* There may be no spare card for a successor. */ -}}
{{- $surge = dict "type" "RollingUpdate" "rollingUpdate" (dict "maxUnavailable" 1 "maxSurge" 0) -}}
{{- end -}}
apiVersion: apps/v1
kind: Deployment
metadata:
  {{- include "slipway.partMetadata" . | nindent 2 }}
spec:
  {{- if not .values.autoscaling.enabled }}
  replicas: {{ int .values.replicaCount }}
  {{- end }}
  revisionHistoryLimit: 5
  strategy:
    {{- toYaml (default $surge .values.updateStrategy) | nindent 4 }}
  selector:
    matchLabels:
      {{- include "slipway.selector" . | nindent 6 }}
  template:
    {{- include "slipway.podTemplate" . | nindent 4 }}
{{- end -}}

{{- define "slipway.podDisruptionBudget" -}}
{{- $budget := .values.podDisruptionBudget -}}
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  {{- include "slipway.partMetadata" . | nindent 2 }}
spec:
  {{- if not (kindIs "invalid" $budget.minAvailable) }}
  minAvailable: {{ $budget.minAvailable }}
  {{- else }}
  maxUnavailable: {{ kindIs "invalid" $budget.maxUnavailable | ternary 1 $budget.maxUnavailable }}
  {{- end }}
  unhealthyPodEvictionPolicy: {{ $budget.unhealthyPodEvictionPolicy }}
  selector:
    matchLabels:
      {{- include "slipway.selector" . | nindent 6 }}
{{- end -}}

{{/* What outstanding work is: the metric, who has it, where KEDA reads it, and how much of it a pod is for. */}}
{{- define "slipway.signal" -}}
{{- if eq .component "gateway" }}
metric: slipway_gateway_inflight_requests
pods: true
service: gateway-zmq
location: requests.inflight
target: 64
{{- else if eq .component "inferencer" }}
metric: slipway_gateway_outstanding_predictions
owner: gateway
service: gateway-zmq
location: predictions.outstanding
target: {{ mul 4 (int .values.slots) }}
{{- else }}
metric: slipway_registry_outstanding_jobs
owner: registry
service: registry
location: jobs.outstanding
target: 1
{{- end }}
{{- end -}}

{{- define "slipway.behavior" -}}
{{- if .values.autoscaling.behavior }}
{{- toYaml .values.autoscaling.behavior }}
{{- else if eq .component "gateway" }}
scaleUp: {stabilizationWindowSeconds: 0, selectPolicy: Max, policies: [{type: Percent, value: 100, periodSeconds: 15}, {type: Pods, value: 2, periodSeconds: 15}]}
scaleDown: {stabilizationWindowSeconds: 300, policies: [{type: Pods, value: 1, periodSeconds: 60}]}
{{- else if eq .component "inferencer" }}
scaleUp: {stabilizationWindowSeconds: 15, selectPolicy: Max, policies: [{type: Percent, value: 100, periodSeconds: 60}, {type: Pods, value: 2, periodSeconds: 60}]}
scaleDown: {stabilizationWindowSeconds: 300, policies: [{type: Percent, value: 25, periodSeconds: 120}]}
{{- else }}
scaleUp: {stabilizationWindowSeconds: 0, selectPolicy: Max, policies: [{type: Percent, value: 100, periodSeconds: 15}, {type: Pods, value: 4, periodSeconds: 15}]}
scaleDown: {stabilizationWindowSeconds: 600, policies: [{type: Pods, value: 1, periodSeconds: 300}]}
{{- end }}
{{- end -}}

{{- define "slipway.autoscaler" -}}
{{- $scaling := .values.autoscaling -}}
{{- $signal := include "slipway.signal" . | fromYaml -}}
{{- if eq $scaling.engine "hpa" -}}
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata:
  {{- include "slipway.partMetadata" . | nindent 2 }}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: {{ include "slipway.partName" . }}}
  minReplicas: {{ int $scaling.minReplicas }}
  maxReplicas: {{ int $scaling.maxReplicas }}
  metrics:
    {{- if $scaling.metrics }}
    {{- toYaml $scaling.metrics | nindent 4 }}
    {{- else }}
    {{- with $scaling.targetCPUUtilizationPercentage }}
    - type: ContainerResource
      containerResource: {name: cpu, container: {{ $.component }}, target: {type: Utilization, averageUtilization: {{ int . }}}}
    {{- end }}
    {{- with $scaling.targetOutstandingPerReplica }}
    {{- if $signal.pods }}
    - type: Pods
      pods:
        metric: {name: {{ $signal.metric }}}
        target: {type: AverageValue, averageValue: {{ . | quote }}}
    {{- else }}
    - type: Object
      object:
        describedObject: {apiVersion: v1, kind: Service, name: {{ include "slipway.fullname" $.root }}-{{ $signal.owner }}}
        metric: {name: {{ $signal.metric }}}
        target: {type: AverageValue, averageValue: {{ . | quote }}}
    {{- end }}
    {{- end }}
    {{- end }}
  behavior:
    {{- include "slipway.behavior" . | trim | nindent 4 }}
{{- else -}}
apiVersion: keda.sh/v1alpha1
kind: ScaledObject
metadata:
  {{- include "slipway.metadata" (dict "root" .root "name" (include "slipway.partName" .) "component" .component "pool" .pool "annotations" (dict "scaledobject.keda.sh/transfer-hpa-ownership" "true")) | nindent 2 }}
spec:
  scaleTargetRef: {name: {{ include "slipway.partName" . }}}
  pollingInterval: {{ int $scaling.keda.pollingInterval }}
  cooldownPeriod: {{ int $scaling.keda.cooldownPeriod }}
  minReplicaCount: {{ int $scaling.minReplicas }}
  maxReplicaCount: {{ int $scaling.maxReplicas }}
  {{- with $scaling.keda.fallback }}
  fallback:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  advanced:
    horizontalPodAutoscalerConfig:
      name: {{ include "slipway.partName" . }}
      behavior:
        {{- include "slipway.behavior" . | trim | nindent 8 }}
  triggers:
    {{- if $scaling.keda.triggers }}
    {{- toYaml $scaling.keda.triggers | nindent 4 }}
    {{- else }}
    - type: metrics-api
      metricType: AverageValue
      metadata:
        url: http://{{ include "slipway.host" (dict "root" .root "service" $signal.service) }}:9090/autoscaling
        format: json
        valueLocation: {{ $signal.location }}
        targetValue: {{ default $signal.target $scaling.targetOutstandingPerReplica | quote }}
        {{- if eq $signal.service "gateway-zmq" }}
        aggregateFromKubeServiceEndpoints: "true"
        aggregationType: sum
        {{- end }}
    {{- end }}
{{- end -}}
{{- end -}}

{{/* All objects of a Deployment's part. */}}
{{- define "slipway.workload" -}}
{{ include "slipway.configMap" . }}
---
{{ include "slipway.deployment" . }}
{{- if .values.podDisruptionBudget.enabled }}
---
{{ include "slipway.podDisruptionBudget" . }}
{{- end }}
{{- if .values.autoscaling.enabled }}
---
{{ include "slipway.autoscaler" . }}
{{- end }}
{{- end -}}
