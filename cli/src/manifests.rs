//! What `install` applies, as values. Pure.
//!
//! The manifests are those of `config/rbac` and `config/operator`, the same that `kubectl apply -k config/default`
//! applies; namespace and image are put in here as kustomize would.

use anyhow::Context;
use crds::labels;
use crds::mesh_config::Floor;
use serde_json::{Value, json};

use crate::ours::CREATED_BY;

/// The files of `config/`, in the order in which they are applied.
const EMBEDDED: &[&str] = include!(concat!(env!("OUT_DIR"), "/manifests.rs"));
/// Prefix of images in the files.
const FILE_PREFIX: &str = "meshwright/";

/// What makes one installation different from another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Name of the MeshConfig.
    pub mesh: String,
    /// Namespace of the control plane.
    pub namespace: String,
    /// Release that the mesh runs.
    pub version: String,
    /// Release of the operator: this command's own.
    pub operator_version: String,
    /// Prefix of all images.
    pub image_prefix: String,
    /// `BuiltIn` or `Secret`.
    pub ca_provider: Option<&'static str>,
    /// Namespaces to watch, by name.
    pub watch: Vec<String>,
    /// What no MeshPolicy of a new mesh may be below.
    pub floor: Option<Floor>,
}

/// Every object before the MeshConfig, in the order in which it is applied: the namespace and the kinds first.
pub fn system(options: &Options) -> anyhow::Result<Vec<Value>> {
    let mut objects = vec![namespace(options)];
    for crd in crds::all() {
        let mut crd = serde_json::to_value(crd).context("a definition")?;
        crd["metadata"]["labels"][labels::MANAGED_BY] = labels::MANAGER.into();
        objects.push(crd);
    }
    for file in EMBEDDED {
        for document in gitops::yaml::documents(file, gitops::yaml::Format::Yaml)? {
            let mut object = document.untyped().context("an embedded manifest")?;
            fit(&mut object, options);
            match object["kind"].as_str() {
                // It comes before everything that is in it.
                Some("Namespace") => {
                    object["metadata"]["annotations"][CREATED_BY] = labels::MANAGER.into();
                    objects[0] = object;
                }
                Some("CustomResourceDefinition") => {}
                _ => objects.push(object),
            }
        }
    }
    Ok(objects)
}

/// The control plane's namespace, as an installation makes it.
pub fn home(namespace: &str) -> anyhow::Result<Value> {
    let options = Options {
        mesh: String::new(),
        namespace: namespace.to_owned(),
        version: String::new(),
        operator_version: String::new(),
        image_prefix: FILE_PREFIX.to_owned(),
        ca_provider: None,
        floor: None,
        watch: Vec::new(),
    };
    Ok(system(&options)?.swap_remove(0))
}

/// Names of the manifests' objects of a kind.
pub fn names_of(kind: &str) -> anyhow::Result<Vec<String>> {
    let mut names = Vec::new();
    for file in EMBEDDED {
        for document in gitops::yaml::documents(file, gitops::yaml::Format::Yaml)? {
            let object = document.untyped().context("an embedded manifest")?;
            if object["kind"] == kind {
                names.extend(object["metadata"]["name"].as_str().map(str::to_owned));
            }
        }
    }
    Ok(names)
}

/// Whether this build holds the operator's manifests at all.
pub fn is_complete() -> bool {
    EMBEDDED.iter().any(|file| file.contains("kind: Deployment"))
}

/// The MeshConfig: only what was asked for, so that everything else follows the defaults of the kind.
pub fn mesh_config(options: &Options) -> Value {
    let mut spec = json!({"version": options.version, "namespace": options.namespace});
    if let Some(floor) = options.floor {
        spec["traffic"] = json!({"floor": floor});
    }
    if let Some(provider) = options.ca_provider {
        spec["certificateAuthority"] = json!({"provider": provider});
    }
    if !options.watch.is_empty() {
        spec["watchedNamespaces"] = json!({"names": options.watch});
    }
    json!({
        "apiVersion": labels::API_VERSION,
        "kind": "MeshConfig",
        "metadata": {"name": options.mesh},
        "spec": spec,
    })
}

fn namespace(options: &Options) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {
            "name": options.namespace,
            "labels": {labels::MANAGED_BY: labels::MANAGER, labels::NAME: "meshwright"},
            "annotations": {CREATED_BY: labels::MANAGER},
        },
    })
}

/// Puts namespace, image and image prefix into one object of the files.
fn fit(object: &mut Value, options: &Options) {
    let is_namespace = object["kind"] == "Namespace";
    let metadata = &mut object["metadata"];
    if is_namespace {
        metadata["name"] = options.namespace.as_str().into();
    }
    if metadata.get("namespace").is_some_and(|namespace| namespace == labels::SYSTEM_NAMESPACE) {
        metadata["namespace"] = options.namespace.as_str().into();
    }
    metadata["labels"][labels::MANAGED_BY] = labels::MANAGER.into();
    for subject in object["subjects"].as_array_mut().into_iter().flatten() {
        if subject.get("namespace").is_some_and(|namespace| namespace == labels::SYSTEM_NAMESPACE) {
            subject["namespace"] = options.namespace.as_str().into();
        }
    }
    // Reading a missing field of a Value by index puts null there; null means absent to the API server, but is
    // noise in a dry run.
    if let Some(map) = object.as_object_mut() {
        map.retain(|_, value| !value.is_null());
    }
    if object["kind"] == "Deployment" {
        let containers = object.pointer_mut("/spec/template/spec/containers").and_then(Value::as_array_mut);
        containers.into_iter().flatten().for_each(|container| fit_container(container, options));
    }
}

fn fit_container(container: &mut Value, options: &Options) {
    let image = container["image"].as_str().unwrap_or_default();
    let Some((name, _)) = image.strip_prefix(FILE_PREFIX).and_then(|image| image.split_once(':')) else {
        return;
    };
    container["image"] = format!("{}{name}:{}", options.image_prefix, options.operator_version).into();
    let variables = [
        (labels::IMAGE_PREFIX_ENV, options.image_prefix.as_str()),
        ("MESHWRIGHT_NAMESPACE", options.namespace.as_str()),
    ];
    for (name, value) in variables {
        let env = container["env"].as_array_mut();
        let known = env.and_then(|env| env.iter_mut().find(|variable| variable["name"] == name));
        match known {
            // A value that comes from the pod (fieldRef) is right as it is.
            Some(variable) if variable.get("valueFrom").is_some() => {}
            Some(variable) => variable["value"] = value.into(),
            None if name == labels::IMAGE_PREFIX_ENV && value != FILE_PREFIX => {
                match container["env"].as_array_mut() {
                    Some(env) => env.push(json!({"name": name, "value": value})),
                    None => container["env"] = json!([{"name": name, "value": value}]),
                }
            }
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use crds::mesh_config::{Authorization, Mtls};

    use super::*;

    fn options() -> Options {
        Options {
            mesh: "books".to_owned(),
            namespace: "mesh-of-books".to_owned(),
            version: "0.1.0".to_owned(),
            operator_version: "0.2.0".to_owned(),
            image_prefix: "registry.example/mw-".to_owned(),
            ca_provider: None,
            watch: vec!["bookstore".to_owned()],
            floor: None,
        }
    }

    #[test]
    fn namespace_and_image_reach_every_object() {
        let mut object = json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "meshwright-operator", "namespace": "meshwright-system"},
            "spec": {"template": {"spec": {"containers": [{"name": "operator", "image": "meshwright/operator:0.2.0"}]}}}
        });
        fit(&mut object, &options());
        assert_eq!(object["metadata"]["namespace"], "mesh-of-books");
        let container = &object["spec"]["template"]["spec"]["containers"][0];
        assert_eq!(container["image"], "registry.example/mw-operator:0.2.0");
        let expected = json!([{"name": "MESHWRIGHT_IMAGE_PREFIX", "value": "registry.example/mw-"}]);
        assert_eq!(container["env"], expected);
        assert!(object.get("subjects").is_none());
    }

    #[test]
    fn bindings_follow_the_namespace() {
        let mut object = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
            "metadata": {"name": "meshwright-operator"},
            "subjects": [{"kind": "ServiceAccount", "name": "meshwright-operator", "namespace": "meshwright-system"}]
        });
        fit(&mut object, &options());
        assert_eq!(object["subjects"][0]["namespace"], "mesh-of-books");
    }

    #[test]
    fn a_mesh_says_only_what_was_asked_for() {
        let expected = json!({
            "apiVersion": "meshwright.io/v1alpha1", "kind": "MeshConfig", "metadata": {"name": "books"},
            "spec": {"version": "0.1.0", "namespace": "mesh-of-books", "watchedNamespaces": {"names": ["bookstore"]}}
        });
        assert_eq!(mesh_config(&options()), expected);
        let typed: crds::MeshConfig = serde_json::from_value(mesh_config(&options())).unwrap();
        assert_eq!(typed.spec.control_plane.replicas, 2);
        assert_eq!(typed.spec.traffic.floor, None);
        let floor = Floor { mtls: Some(Mtls::Strict), authorization: Some(Authorization::Enforce) };
        let strict = mesh_config(&Options { floor: Some(floor), ..options() });
        let written = json!({"floor": {"mtls": "Strict", "authorization": "Enforce"}});
        assert_eq!(strict["spec"]["traffic"], written);
    }

    #[test]
    fn kinds_come_before_what_needs_them() {
        let objects = system(&options()).unwrap();
        let kinds: Vec<_> =
            objects.iter().map(|object| object["kind"].as_str().unwrap().to_owned()).collect();
        assert_eq!(kinds[0], "Namespace");
        assert!(kinds[1..9].iter().all(|kind| kind == "CustomResourceDefinition"), "{kinds:?}");
        let elsewhere =
            objects.iter().any(|object| object["metadata"]["namespace"] == labels::SYSTEM_NAMESPACE);
        assert!(!elsewhere, "an object stayed in the default namespace");
    }
}
