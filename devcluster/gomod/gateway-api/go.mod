// Pins the module whose CRD files are read; nothing is compiled, so `go mod tidy` must not be run here.
module plimsoll.dev/devcluster/gateway-api

go 1.25.0

require sigs.k8s.io/gateway-api v1.5.1
