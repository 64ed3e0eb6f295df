{{/* Where images lie, with a slash at the end. */}}
{{- define "meshwright.images" -}}
{{ required "images.prefix is needed: where your images lie, as in --set images.prefix=registry.example/meshwright" .Values.images.prefix | trimSuffix "/" }}/
{{- end }}
