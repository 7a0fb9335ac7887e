{{/* Labels of whatever belongs to a component: the dict has root, name, component. */}}
{{- define "nexus.labels" -}}
app.kubernetes.io/name: {{ .name | quote }}
app.kubernetes.io/part-of: nexus-ai-defi
app.kubernetes.io/component: {{ .component.work }}
{{- end }}

{{- define "nexus.colourLabels" -}}
{{ include "nexus.labels" . }}
app.kubernetes.io/version: {{ .root.Values.version | quote }}
nexus.ai/colour: {{ .root.Values.part }}
{{- end }}

{{/* What selects the pods of one colour of a component. */}}
{{- define "nexus.selector" -}}
app.kubernetes.io/name: {{ .name | quote }}
nexus.ai/colour: {{ .root.Values.part }}
{{- end }}

{{- define "nexus.sharedLabels" -}}
app.kubernetes.io/part-of: nexus-ai-defi
{{- end }}

{{/* Name and namespace of an object of the colour part; its labels come after it. */}}
{{- define "nexus.name" -}}
name: {{ .name }}-{{ .root.Values.part }}
namespace: {{ .root.Values.namespaces.agents | quote }}
{{- end }}

{{- define "nexus.meta" -}}
{{ include "nexus.name" . }}
labels: {{- include "nexus.colourLabels" . | nindent 2 }}
{{- end }}

{{/* Name and namespace of an object that both colours share: the dict has root, name. */}}
{{- define "nexus.sharedName" -}}
name: {{ .name | quote }}
namespace: {{ .root.Values.namespaces.agents | quote }}
{{- end }}

{{/* What a JSON schema cannot say of the values. Each problem begins with the path of the value. */}}
{{- define "nexus.check" -}}
{{- $edges := list }}
{{- range $name, $component := .Values.components }}
{{- $path := printf "components.%s" $name }}
{{- if $component.edge }}{{ $edges = append $edges $name }}{{ end }}
{{- if not (hasKey $.Values.nodeGroups $component.nodeGroup) }}
{{- fail (printf "%s.nodeGroup: %q is not one of nodeGroups: %s" $path $component.nodeGroup (keys $.Values.nodeGroups | sortAlpha | join ", ")) }}
{{- end }}
{{- if gt (int64 $component.autoscaling.min) (int64 $component.autoscaling.max) }}
{{- fail (printf "%s.autoscaling.min: %d is above max, %d" $path (int64 $component.autoscaling.min) (int64 $component.autoscaling.max)) }}
{{- end }}
{{- if eq (int64 $component.ports.http) (int64 $component.ports.metrics) }}
{{- fail (printf "%s.ports.metrics: %d is the http port too" $path (int64 $component.ports.metrics)) }}
{{- end }}
{{- if contains ":latest@" $component.image }}
{{- fail (printf "%s.image: %s is tagged latest; name a version" $path $component.image) }}
{{- end }}
{{- $seen := dict }}
{{- range $index, $variable := $component.environment }}
{{- if hasKey $seen $variable.name }}
{{- fail (printf "%s.environment.%d.name: %s is there twice" $path $index $variable.name) }}
{{- end }}
{{- $_ := set $seen $variable.name true }}
{{- end }}
{{- end }}
{{- $networking := .Values.networking }}
{{- if and $networking.tls.enabled (eq .Values.router "alb") (not $networking.tls.certificateArn) }}
{{- fail "networking.tls.certificateArn: missing; a load balancer takes its certificate from ACM" }}
{{- end }}
{{- if and $networking.tls.enabled (ne .Values.router "alb") (not $networking.tls.secret) }}
{{- fail "networking.tls.secret: missing; a Gateway takes its certificate from a Secret" }}
{{- end }}
{{- if and (eq .Values.router "alb") .Values.security.networkPolicies.enabled (not .Values.security.networkPolicies.loadBalancer) }}
{{- fail "security.networkPolicies.loadBalancer: empty; name the subnets of the load balancer, or it reaches no pod" }}
{{- end }}
{{- $monitoring := .Values.monitoring }}
{{- range $path, $pods := dict "persistence.postgresql" .Values.persistence.postgresql "persistence.redis" .Values.persistence.redis "monitoring.prometheus" $monitoring.prometheus "monitoring.alertmanager" $monitoring.alertmanager "monitoring.grafana" $monitoring.grafana }}
{{- if and $pods.enabled (not (hasKey $.Values.nodeGroups $pods.nodeGroup)) }}
{{- fail (printf "%s.nodeGroup: %q is not one of nodeGroups: %s" $path $pods.nodeGroup (keys $.Values.nodeGroups | sortAlpha | join ", ")) }}
{{- end }}
{{- end }}
{{- if ne (len $edges) 1 }}
{{- fail (printf "components: edge is true for %s; allowed: exactly one" (join ", " $edges | default "none")) }}
{{- end }}
{{- end }}

{{/* The namespaces that the chart keeps, by use, as JSON: one of a layer that is switched off is not its own. */}}
{{- define "nexus.namespaces" -}}
{{- $spaces := dict "agents" .Values.namespaces.agents }}
{{- if or .Values.persistence.redis.enabled .Values.persistence.postgresql.enabled }}{{ $_ := set $spaces "data" .Values.namespaces.data }}{{ end }}
{{- $monitoring := .Values.monitoring }}
{{- if or $monitoring.prometheus.enabled $monitoring.alertmanager.enabled $monitoring.grafana.enabled }}{{ $_ := set $spaces "monitoring" .Values.namespaces.monitoring }}{{ end }}
{{- toJson $spaces }}
{{- end }}

{{/* Whom each component calls, as JSON: those its variables lead to; the one at the edge calls all. */}}
{{- define "nexus.calls" -}}
{{- $calls := dict }}
{{- range $name, $component := .Values.components }}
{{- $found := ternary (keys $.Values.components) list $component.edge }}
{{- range $component.environment }}
{{- $host := regexFind "://[a-z][-a-z0-9]*" (.value | default "") | trimPrefix "://" | trimSuffix "-blue" | trimSuffix "-green" }}
{{- if hasKey $.Values.components $host }}{{ $found = append $found $host }}{{ end }}
{{- end }}
{{- $_ := set $calls $name (without $found $name | uniq | sortAlpha) }}
{{- end }}
{{- toJson $calls }}
{{- end }}

{{/* The components that have a variable, as a JSON list. */}}
{{- define "nexus.users" -}}
{{- $found := list }}
{{- range $name, $component := .root.Values.components }}
{{- range $component.environment }}{{ if eq .name $.variable }}{{ $found = append $found $name }}{{ end }}{{ end }}
{{- end }}
{{- toJson $found }}
{{- end }}

{{/* A component's ways out, as a JSON list: they follow from its variables. The dict has root, component, calls. */}}
{{- define "nexus.egress" -}}
{{- $values := .root.Values }}
{{- $data := dict "matchLabels" (dict "kubernetes.io/metadata.name" $values.namespaces.data) }}
{{- $rules := list }}
{{- $ports := dict }}
{{- range .calls }}{{ $_ := set $ports (toString (get $values.components .).ports.http) true }}{{ end }}
{{- if .calls }}
{{- $tcp := list }}
{{- range keys $ports | sortAlpha }}{{ $tcp = append $tcp (dict "protocol" "TCP" "port" (int64 .)) }}{{ end }}
{{- $rules = append $rules (dict "to" (list (dict "podSelector" (dict "matchExpressions" (list (dict "key" "app.kubernetes.io/name" "operator" "In" "values" .calls))))) "ports" $tcp) }}
{{- end }}
{{- range .component.environment }}
{{- if eq .name "REDIS_URL" }}
{{- $rules = append $rules (dict "to" (list (dict "namespaceSelector" $data "podSelector" (dict "matchLabels" (dict "redis_setup_type" "cluster")))) "ports" (list (dict "protocol" "TCP" "port" 6379))) }}
{{- else if eq .name "DATABASE_URL" }}
{{- $rules = append $rules (dict "to" (list (dict "namespaceSelector" $data "podSelector" (dict "matchLabels" (dict "cnpg.io/cluster" "postgresql-cluster")))) "ports" (list (dict "protocol" "TCP" "port" 5432))) }}
{{- else if eq .name "SEI_RPC_URL" }}
{{- $port := regexFind ":[0-9]+$" (urlParse (.value | default "https://")).host | trimPrefix ":" | default "443" }}
{{- $rules = append $rules (include "nexus.web" (dict "root" $.root "port" (int64 $port)) | fromJson) }}
{{- end }}
{{- end }}
{{- toJson $rules }}
{{- end }}

{{/* A way out to the Internet, but to no private network: the dict has root, port. A policy cannot name a host. */}}
{{- define "nexus.web" -}}
{{- $web := .root.Values.security.networkPolicies.web }}
{{- $to := list }}
{{- range $web.cidrs }}{{ $to = append $to (dict "ipBlock" (dict "cidr" . "except" $web.except)) }}{{ end }}
{{- dict "to" $to "ports" (list (dict "protocol" "TCP" "port" (int64 .port))) | toJson }}
{{- end }}

{{/* A way out to the API server, for those that speak to it; empty where its networks are not known. */}}
{{- define "nexus.toApiServer" -}}
{{- with .Values.security.networkPolicies.apiServer -}}
- to:
    {{- range . }}
    - ipBlock: {cidr: {{ . }}}
    {{- end }}
  ports: [{protocol: TCP, port: 443}, {protocol: TCP, port: 6443}]
{{- end }}
{{- end }}

{{- define "nexus.metricsPorts" -}}
{{- $ports := dict }}
{{- range .Values.components }}{{ $_ := set $ports (toString .ports.metrics) true }}{{ end }}
{{- $tcp := list }}
{{- range keys $ports | sortAlpha }}{{ $tcp = append $tcp (dict "protocol" "TCP" "port" (int64 .)) }}{{ end }}
{{- toJson $tcp }}
{{- end }}

{{/* What both colours ask for at their autoscalers' upper bounds, and the headroom, as JSON. A surge is within it. */}}
{{- define "nexus.quota" -}}
{{- $pods := 0 }}{{ $sums := dict "requests.cpu" 0 "requests.memory" 0 "limits.cpu" 0 "limits.memory" 0 }}
{{- range .Values.components }}
{{- $copies := mul .autoscaling.max (ternary 1 2 (eq .work "exclusive")) }}
{{- $pods = add $pods $copies }}
{{- range $part, $quantities := .resources }}
{{- $cpu := printf "%s.cpu" $part }}{{ $memory := printf "%s.memory" $part }}
{{- $_ := set $sums $cpu (add (get $sums $cpu) (mul $copies (include "nexus.millicores" $quantities.cpu | int64))) }}
{{- $_ := set $sums $memory (add (get $sums $memory) (mul $copies (include "nexus.mebibytes" $quantities.memory | int64))) }}
{{- end }}
{{- end }}
{{- $percent := add 100 .Values.security.quota.headroomPercent }}
{{- $hard := dict "pods" (div (add (mul $pods $percent) 99) 100 | toString) }}
{{- range $what, $sum := $sums }}
{{- $much := div (add (mul $sum $percent) 99) 100 }}
{{- $units := ternary (list 1000 "m" "") (list 1024 "Mi" "Gi") (hasSuffix ".cpu" $what) }}
{{- if mod $much (first $units) }}{{ $_ := set $hard $what (printf "%d%s" $much (index $units 1)) }}
{{- else }}{{ $_ := set $hard $what (printf "%d%s" (div $much (first $units)) (last $units)) }}{{ end }}
{{- end }}
{{- toJson $hard }}
{{- end }}

{{- define "nexus.millicores" -}}
{{- if hasSuffix "m" . }}{{ trimSuffix "m" . | float64 | ceil | int64 }}{{ else }}{{ mulf (float64 .) 1000 | ceil | int64 }}{{ end }}
{{- end }}

{{- define "nexus.mebibytes" -}}
{{- $number := regexFind "^[0-9]+" . | int64 }}
{{- if hasSuffix "Ki" . }}{{ div (add $number 1023) 1024 }}{{ else if hasSuffix "Mi" . }}{{ $number }}{{ else if hasSuffix "Gi" . }}{{ mul $number 1024 }}{{ else }}{{ mul $number 1048576 }}{{ end }}
{{- end }}

{{/* The priority class of a kind of pod, where there are such classes. */}}
{{- define "nexus.priority" -}}
{{- if .root.Values.security.priorityClasses.enabled }}priorityClassName: nexus-{{ .class }}{{ end }}
{{- end }}
