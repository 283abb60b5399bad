{{/* What is cluster-scoped, or counts everywhere: granted by a ClusterRole in both scopes. */}}
{{- define "plimsoll.clusterRules" -}}
# What people write: read, never written.
- apiGroups: [plimsoll.dev]
  resources: [gpunodepools, modelprofiles, placementpolicies]
  verbs: [list, watch]
- apiGroups: [plimsoll.dev]
  resources: [gpunodepools/status, modelprofiles/status, placementplans/status, placementpolicies/status]
  verbs: [patch]
# Server-side apply is `patch`, and `create` for an object that does not exist yet.
- apiGroups: [plimsoll.dev]
  resources: [placementplans]
  verbs: [list, watch, create, patch, delete]
# The stock: which GPUs there are, and who uses them. Everybody's pods take GPUs from the same nodes, so pods are read in
# all namespaces, whatever the scope. Namespaces for their labels, by which tenants are selected.
- apiGroups: [""]
  resources: [nodes, pods, namespaces]
  verbs: [list, watch]
{{- end -}}

{{/* What lies in the namespaces of the LLMDeployments. */}}
{{- define "plimsoll.namespaceRules" -}}
- apiGroups: [plimsoll.dev]
  resources: [inferenceslos, llmdeployments]
  verbs: [list, watch]
- apiGroups: [plimsoll.dev]
  resources: [inferenceslos/status, llmdeployments/status]
  verbs: [patch]
# Limits of the namespace that pods must keep to.
- apiGroups: [""]
  resources: [resourcequotas, limitranges]
  verbs: [list, watch]
# What Plimsoll renders.
- apiGroups: [apps]
  resources: [deployments, statefulsets]
  verbs: [list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [configmaps, services]
  verbs: [list, watch, create, patch, delete]
- apiGroups: [leaderworkerset.x-k8s.io]
  resources: [leaderworkersets]
  verbs: [list, watch, create, patch, delete]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [list, watch, create, patch, delete]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [list, watch, create, patch, delete]
- apiGroups: [gateway.networking.k8s.io]
  resources: [httproutes]
  verbs: [list, watch, create, patch, delete]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create]
{{- end -}}

{{/* A Role in one namespace and its binding: dict "root" $ "name" … "namespace" … "rules" … */}}
{{- define "plimsoll.namespacedRole" -}}
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata:
  name: {{ .name }}
  namespace: {{ .namespace }}
  labels: {{- include "plimsoll.labels" .root | nindent 4 }}
rules:
  {{- .rules | nindent 2 }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata:
  name: {{ .name }}
  namespace: {{ .namespace }}
  labels: {{- include "plimsoll.labels" .root | nindent 4 }}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: Role
  name: {{ .name }}
subjects:
  - kind: ServiceAccount
    name: {{ include "plimsoll.serviceAccountName" .root }}
    namespace: {{ .root.Release.Namespace }}
{{- end -}}
