{{/* What values.schema.json cannot say: values that do not fit each other. Each refusal says what to do. */}}

{{- define "slipway.validate" -}}
{{- $auth := .Values.auth -}}
{{- if and $auth.enabled (not $auth.existingSecret) (not $auth.clusterSecret) -}}
{{- fail (printf "auth: services need a secret by which they know each other. Make one with `kubectl -n %s create secret generic slipway-cluster --from-literal=%s=$(openssl rand -hex 32)` and set auth.existingSecret=slipway-cluster; or set auth.clusterSecret to a value that you keep; or auth.enabled=false, if no stranger can reach the pods" .Release.Namespace $auth.existingSecretKey) -}}
{{- end -}}
{{- if gt (int .Values.registry.replicaCount) 1 -}}
{{- fail (printf "registry.replicaCount is %v: there is one registry in a release, since two would write the same files. Set it to 1; predictions go on while it is away, and a second installation is a second release" .Values.registry.replicaCount) -}}
{{- end -}}
{{- range $name, $_ := .Values.inferencer.pools -}}
{{- if or (eq $name "default") (not (regexMatch "^[a-z]([-a-z0-9]{0,13}[a-z0-9])?$" $name)) -}}
{{- fail (printf "inferencer.pools.%s: a pool's name is part of its objects' names: at most 15 lower-case letters, digits and hyphens, a letter first, no hyphen last; and not `default`, which are the inferencers outside of pools" $name) -}}
{{- end -}}
{{- end -}}
{{- range include "slipway.parts" . | fromYamlArray -}}
{{- $path := include "slipway.partPath" . -}}
{{- include "slipway.validatePart" (merge (dict "root" $ "path" $path) .) -}}
{{- end -}}
{{- $registry := dict "root" . "path" "registry" "component" "registry" "values" .Values.registry -}}
{{- include "slipway.validateGrace" $registry -}}
{{- include "slipway.validateMemory" $registry -}}
{{- include "slipway.validateBudget" $registry -}}
{{- include "slipway.validateSettings" $registry -}}
{{- $service := .Values.gateway.service -}}
{{- $api := .Values.networkPolicy.api -}}
{{- if and .Values.networkPolicy.enabled (ne $service.type "ClusterIP") (not $api.allowExternal) (not $api.from) -}}
{{- fail (printf "gateway.service.type is %s, but networkPolicy.api admits this namespace only: list the clients' addresses in networkPolicy.api.from (e.g. {ipBlock: {cidr: ...}}), or set networkPolicy.api.allowExternal=true. There is no authentication of people yet" $service.type) -}}
{{- end -}}
{{- range $kind := list "ingress" "httpRoute" -}}
{{- if and (get $.Values.gateway $kind).enabled $.Values.networkPolicy.enabled (not $api.allowExternal) (not $api.from) -}}
{{- fail (printf "gateway.%s is enabled, but networkPolicy.api admits this namespace only: list the namespace of what serves it in networkPolicy.api.from, e.g. {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: ingress-nginx}}}, or set networkPolicy.api.allowExternal=true" $kind) -}}
{{- end -}}
{{- end -}}
{{- if and .Values.gateway.httpRoute.enabled (not .Values.gateway.httpRoute.parentRefs) -}}
{{- fail "gateway.httpRoute is enabled without parentRefs: name the Gateway that it belongs to, e.g. gateway.httpRoute.parentRefs[0].name=public" -}}
{{- end -}}
{{- include "slipway.validateFamilies" . -}}
{{- include "slipway.validateVolume" . -}}
{{- include "slipway.validateBackup" . -}}
{{- end -}}

{{- define "slipway.validateFamilies" -}}
{{- $policy := .Values.ipFamilyPolicy -}}
{{- $families := .Values.ipFamilies -}}
{{- if and (eq $policy "SingleStack") (gt (len $families) 1) -}}
{{- fail (printf "ipFamilyPolicy is SingleStack, but ipFamilies are %s: name one of them, or set ipFamilyPolicy=PreferDualStack" (join " and " $families)) -}}
{{- end -}}
{{- if and (ne .Values.listenAddress "::") (or (has "IPv6" $families) (hasSuffix "DualStack" $policy)) -}}
{{- fail (printf "listenAddress is %s, but Services may have IPv6 addresses, on which no pod would answer: set listenAddress=::" .Values.listenAddress) -}}
{{- end -}}
{{- end -}}

{{- define "slipway.validateGrace" -}}
{{- $shutdown := .values.shutdown -}}
{{- $need := add (default 0 $shutdown.delaySeconds) $shutdown.drainSeconds 15 -}}
{{- with .values.terminationGracePeriodSeconds -}}
{{- if lt (int .) (int $need) -}}
{{- fail (printf "%s.terminationGracePeriodSeconds is %v, but draining may take %d s (%s.shutdown, and 15 s to end): leave it empty, raise it to %d, or shorten the draining" $.path . $need $.path $need) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "slipway.validateMemory" -}}
{{- range $kind := list "requests" "limits" -}}
{{- with dig $kind "memory" "" $.values.resources -}}
{{- $_ := include "slipway.bytes" . -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "slipway.validateBudget" -}}
{{- $budget := .values.podDisruptionBudget -}}
{{- $minimum := $budget.minAvailable -}}
{{- $replicas := int .values.replicaCount -}}
{{- with .values.autoscaling -}}{{- if .enabled }}{{ $replicas = int .minReplicas }}{{ end -}}{{- end -}}
{{- if and $budget.enabled (gt $replicas 0) -}}
{{- if not (kindIs "invalid" $minimum) -}}
{{- $needed := int $minimum -}}
{{- /* Kubernetes rounds a share up. */ -}}
{{- if kindIs "string" $minimum }}{{ $needed = int (div (add (mul (trimSuffix "%" $minimum | int) $replicas) 99) 100) }}{{ end -}}
{{- if ge $needed $replicas -}}
{{- fail (printf "%s.podDisruptionBudget.minAvailable is %v of %d pods: no node that they run on could ever be drained. Lower it, or use maxUnavailable" .path $minimum $replicas) -}}
{{- end -}}
{{- else if has (toString $budget.maxUnavailable) (list "0" "0%") -}}
{{- fail (printf "%s.podDisruptionBudget.maxUnavailable is %v: no node that its pods run on could ever be drained. Raise it to 1" .path $budget.maxUnavailable) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* {path, setting}: what to do instead of giving a setting that the chart makes; empty: it makes none of it. */}}
{{- define "slipway.instead" -}}
{{- $values := dict "drain-seconds" "shutdown.drainSeconds" "drain-grace-ms" "shutdown.delaySeconds" "instances" "slots" "threads" "threads" "checkpoint-seconds" "checkpoint.everySeconds" -}}
{{- if hasKey $values .setting -}}set {{ .path }}.{{ get $values .setting }} instead
{{- else if eq .setting "listen-address" -}}set listenAddress instead
{{- else if eq .setting "cluster-secret" -}}set auth.existingSecret instead
{{- else if eq .setting "gateways" -}}set SLIPWAY_GATEWAYS in {{ .path }}.extraEnv instead
{{- else if eq .setting "backup-dir" -}}set registry.backup.enabled=true instead
{{- else if or (hasSuffix "-port" .setting) (has .setting (list "registry" "registry-events" "data-dir" "work-dir" "cache-dir" "release-id" "announce")) -}}leave it out, since the rest of the chart relies on it
{{- end -}}
{{- end -}}

{{/* The environment wins over the file: what else the chart makes of a setting would not know. */}}
{{- define "slipway.validateSettings" -}}
{{- $path := .path -}}
{{- range $setting, $_ := .values.config -}}
{{- with include "slipway.instead" (dict "path" $path "setting" $setting) -}}
{{- fail (printf "%s.config.%s is made by the chart: %s" $path $setting .) -}}
{{- end -}}
{{- end -}}
{{- $file := include "slipway.config" . -}}
{{- $seen := dict -}}
{{- range .values.extraEnv -}}
{{- if hasKey $seen .name -}}
{{- fail (printf "%s.extraEnv has %s twice: leave one of them out" $path .name) -}}
{{- end -}}
{{- $_ := set $seen .name true -}}
{{- if and (hasPrefix "SLIPWAY_" .name) (ne .name "SLIPWAY_GATEWAYS") -}}
{{- $setting := trimPrefix "SLIPWAY_" .name | lower | replace "_" "-" -}}
{{- if or (has $setting (list "listen-address" "cluster-secret")) (hasSuffix "-port" $setting) (regexMatch (printf "(?m)^%s = " $setting) $file) -}}
{{- $instead := include "slipway.instead" (dict "path" $path "setting" $setting) -}}
{{- fail (printf "%s.extraEnv has %s, which would win over what the chart sets: %s" $path .name (default (printf "set %s.config.%s instead" $path $setting) $instead)) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "slipway.validatePart" -}}
{{- $scaling := .values.autoscaling -}}
{{- $path := .path -}}
{{- include "slipway.validateGrace" . -}}
{{- include "slipway.validateMemory" . -}}
{{- include "slipway.validateBudget" . -}}
{{- include "slipway.validateSettings" . -}}
{{- if $scaling.enabled -}}
{{- if eq (int .values.replicaCount) 0 -}}
{{- fail (printf "%s.replicaCount is 0 and %s.autoscaling is enabled: an autoscaler starts pods again. To stop all, set %s.autoscaling.enabled=false too; to let it go to zero by itself, set autoscaling.engine=keda and autoscaling.minReplicas=0, and leave replicaCount at 1" $path $path $path) -}}
{{- end -}}
{{- if gt (int $scaling.minReplicas) (int $scaling.maxReplicas) -}}
{{- fail (printf "%s.autoscaling.minReplicas is %v, more than maxReplicas %v: raise the one or lower the other" $path $scaling.minReplicas $scaling.maxReplicas) -}}
{{- end -}}
{{- $pools := gt (len .root.Values.inferencer.pools) 0 -}}
{{- $mixed := and (eq .component "inferencer") $pools -}}
{{- if eq $scaling.engine "hpa" -}}
{{- if lt (int $scaling.minReplicas) 1 -}}
{{- fail (printf "%s.autoscaling.minReplicas is 0: a HorizontalPodAutoscaler cannot start from zero. Set it to 1, or autoscaling.engine=keda" $path) -}}
{{- end -}}
{{- if not $scaling.metrics -}}
{{- if not (or $scaling.targetCPUUtilizationPercentage $scaling.targetOutstandingPerReplica) -}}
{{- fail (printf "%s.autoscaling has nothing to scale by: set autoscaling.engine=keda, or autoscaling.targetOutstandingPerReplica (needs an adapter for custom metrics), or autoscaling.metrics" $path) -}}
{{- end -}}
{{- if and $scaling.targetCPUUtilizationPercentage (not (dig "requests" "cpu" "" .values.resources)) -}}
{{- fail (printf "%s.autoscaling scales by the share of the CPU request, but there is none: set %s.resources.requests.cpu" $path $path) -}}
{{- end -}}
{{- if and $mixed $scaling.targetOutstandingPerReplica -}}
{{- fail (printf "%s.autoscaling.targetOutstandingPerReplica: outstanding predictions are counted for all pools together. With pools, scale by CPU, or give each its own autoscaling.metrics" $path) -}}
{{- end -}}
{{- end -}}
{{- else if and $mixed (not $scaling.keda.triggers) -}}
{{- fail (printf "%s.autoscaling.keda: outstanding predictions are counted for all pools together. With pools, give each its own autoscaling.keda.triggers" $path) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* A claim of a StatefulSet cannot be changed by an upgrade. Without a cluster there is nothing to compare with. */}}
{{- define "slipway.validateVolume" -}}
{{- $name := printf "%s-registry" (include "slipway.fullname" .) -}}
{{- $size := .Values.registry.persistence.size -}}
{{- range dig "spec" "volumeClaimTemplates" (list) (lookup "apps/v1" "StatefulSet" .Release.Namespace $name) -}}
{{- $live := .spec.resources.requests.storage -}}
{{- if and (eq .metadata.name "data") (ne (include "slipway.bytes" $live) (include "slipway.bytes" $size)) -}}
{{- fail (printf "registry.persistence.size is %s, but the volume was made with %s, and a StatefulSet's claims cannot be changed by an upgrade. Grow it by hand: `kubectl -n %s patch pvc data-%s-0 -p '{\"spec\":{\"resources\":{\"requests\":{\"storage\":\"%s\"}}}}'`, then `kubectl -n %s delete statefulset %s --cascade=orphan`, then this upgrade again. A volume cannot shrink" $size $live $.Release.Namespace $name $size $.Release.Namespace $name) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "slipway.validateBackup" -}}
{{- $storage := .Values.registry.persistence -}}
{{- $restore := .Values.registry.restore -}}
{{- if and $restore.enabled (not $restore.from) -}}
{{- fail "registry.restore is enabled without saying which backup: set registry.restore.from to its id, as `slipway backup list` shows it, e.g. 20260131T120000Z" -}}
{{- end -}}
{{- if and $restore.enabled (not $storage.enabled) -}}
{{- fail "registry.restore is enabled without a volume for the data: every start of the pod would go back to the backup and lose what came after it. Set registry.persistence.enabled=true, or registry.restore.enabled=false" -}}
{{- end -}}
{{- $data := default (printf "data-%s-registry-0" (include "slipway.fullname" .)) $storage.existingClaim -}}
{{- if and (or .Values.registry.backup.enabled $restore.enabled) (eq (include "slipway.backupClaim" .) $data) -}}
{{- fail (printf "registry.backup.destination.existingClaim is %s, where the data is: they would delete each other's files, and be lost together. Name another claim, or leave it empty and the chart makes one" $data) -}}
{{- end -}}
{{- end -}}
