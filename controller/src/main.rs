//! The controller: certificates, delta ADS and the state of the fleet, for the sidecars of one mesh.
//!
//! ```text
//!  Kubernetes ──watch──▶ snapshots (owns mesh::Mesh) ──Served──▶ xds ──▶ sidecars     :15012 (TLS)
//!                              │                                  │
//!                              └── pods ──▶ certificates          └──▶ /v1/fleet ──▶ operator
//!                                             ▲ CSR + token ── sidecars, injector, operator
//!  :9090 (plain)  /metrics /livez /readyz /debug/state
//! ```
//!
//! # Flags
//! `--mesh NAME`, `--namespace NAMESPACE` (of the control plane), `--revision RELEASE` (or `MESHWRIGHT_VERSION`),
//! `--listen 0.0.0.0:15012`, `--admin 0.0.0.0:9090`, `--cluster-domain cluster.local`. `POD_NAME` names the replica.
//!
//! # What it may do (RBAC; the operator creates it for the service account `meshwright-controller-<release>`)
//! Cluster-wide:
//! * `""`: `namespaces`, `pods`, `services`: get, list, watch
//! * `discovery.k8s.io`: `endpointslices`: get, list, watch
//! * `meshwright.io`: `meshconfigs`, `meshpolicies`, `policysources`: get, list, watch
//! * `access.smi-spec.io`: `traffictargets`: get, list, watch
//! * `specs.smi-spec.io`: `httproutegroups`, `tcproutes`: get, list, watch
//! * `split.smi-spec.io`: `trafficsplits`: get, list, watch
//! * `authentication.k8s.io`: `tokenreviews`: create
//! * nonResourceURLs `/.well-known/openid-configuration`, `/openid/v1/jwks`: get
//!
//! In the control plane's namespace:
//! * `""`: `secrets` named `meshwright-root-ca`: get
//! * `""`: `configmaps` named `meshwright-trust-bundle`: get, patch; `configmaps`: create (an apply that creates
//!   needs it, and RBAC cannot limit create by name)

fn main() {}
