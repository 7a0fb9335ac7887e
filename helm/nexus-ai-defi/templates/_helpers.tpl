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
{{- if ne (len $edges) 1 }}
{{- fail (printf "components: edge is true for %s; allowed: exactly one" (join ", " $edges | default "none")) }}
{{- end }}
{{- end }}
