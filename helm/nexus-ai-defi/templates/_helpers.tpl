{{- define "nexus.labels" -}}
app.kubernetes.io/name: {{ .name }}
app.kubernetes.io/part-of: nexus-ai-defi
app.kubernetes.io/component: {{ .component.work }}
{{- end }}

{{- define "nexus.colourLabels" -}}
{{ include "nexus.labels" . }}
app.kubernetes.io/version: {{ .root.Values.version }}
nexus.ai/colour: {{ .root.Values.part }}
{{- end }}

{{- define "nexus.selector" -}}
app.kubernetes.io/name: {{ .name }}
nexus.ai/colour: {{ .root.Values.part }}
{{- end }}

{{- define "nexus.sharedLabels" -}}
app.kubernetes.io/part-of: nexus-ai-defi
{{- end }}

{{- define "nexus.meta" -}}
name: {{ .name }}-{{ .root.Values.part }}
namespace: {{ .root.Values.namespaces.agents }}
labels: {{- include "nexus.colourLabels" . | nindent 2 }}
{{- end }}
